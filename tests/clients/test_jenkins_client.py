"""Starting and following a CI job, against the rehearsal's Jenkins with its faults."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from pydantic import SecretStr

from clients.http import Wire
from clients.jenkins import JenkinsClient
from recovery.errors import Misconfigured, NotFound, Refused, Unknown
from rehearsal.world.faults import CloseAfter, CloseBefore, InvalidJson, Status
from rehearsal.world.jenkins_app import JenkinsState, jenkins_app
from rehearsal.world.serving import Loopback

TOKEN = "11aa-api-token"
POLL = timedelta(milliseconds=10)


async def no_waiting(_: float) -> None:
    await asyncio.sleep(0)


@pytest.fixture
async def jenkins() -> AsyncIterator[JenkinsState]:
    state = JenkinsState(user="recovery", api_token=TOKEN, quiet_period=timedelta(milliseconds=20))
    yield state
    await state.aclose()


@asynccontextmanager
async def talking_to(
    state: JenkinsState,
    *,
    token: str = TOKEN,
    timeout: timedelta = timedelta(seconds=10),
) -> AsyncIterator[JenkinsClient]:
    async with Loopback(jenkins_app(state)) as loopback:
        wire = Wire("Jenkins", loopback.url, auth=("recovery", SecretStr(token)), sleep=no_waiting)
        async with JenkinsClient(wire, poll=POLL, timeout=timeout) as client:
            yield client


async def work(parameters: Mapping[str, str]) -> None:
    await asyncio.sleep(0.03)
    if parameters["CONSUMER"] == "broken":
        raise RuntimeError("it did not come up")


async def forever(_: Mapping[str, str]) -> None:
    await asyncio.Event().wait()


async def test_a_build_that_succeeds(jenkins: JenkinsState) -> None:
    jenkins.add_job("restart-consumer", work, {"CONSUMER": ""})
    async with talking_to(jenkins) as client:
        first = await client.run("restart-consumer", {"CONSUMER": "api +&=é", "IGNORED": "x"})
        second = await client.run("restart-consumer", {"CONSUMER": "worker"})
    assert (first.number, first.result) == (1, "SUCCESS")
    assert second.number == 2
    assert first.url.endswith("/job/restart-consumer/1/")
    assert jenkins.builds_of("restart-consumer") == [
        {"CONSUMER": "api +&=é"},
        {"CONSUMER": "worker"},
    ]


async def test_builds_at_the_same_time_do_not_mix(jenkins: JenkinsState) -> None:
    jenkins.add_job("restart-consumer", work, {"CONSUMER": ""})
    async with talking_to(jenkins) as client:
        runs = [client.run("restart-consumer", {"CONSUMER": f"c{n}"}) for n in range(12)]
        builds = await asyncio.gather(*runs)
        with pytest.raises(Refused):
            await client.run("restart-consumer", {"CONSUMER": "broken"})
    assert sorted(build.number for build in builds) == list(range(1, 13))


async def test_a_build_that_fails_shows_where_to_look(jenkins: JenkinsState) -> None:
    jenkins.add_job("restart-consumer", work, {"CONSUMER": ""})
    async with talking_to(jenkins) as client:
        with pytest.raises(Refused) as caught:
            await client.run("restart-consumer", {"CONSUMER": "broken"})
    assert caught.value.code == "build_failure"
    assert "/job/restart-consumer/1/" in caught.value.advice
    assert TOKEN not in str(caught.value)


async def test_a_wrong_token_is_a_misconfiguration(jenkins: JenkinsState) -> None:
    jenkins.add_job("restart-consumer", work, {"CONSUMER": ""})
    async with talking_to(jenkins, token="wrong-token") as client:
        with pytest.raises(Misconfigured) as caught:
            await client.run("restart-consumer", {"CONSUMER": "api"})
    assert "Jenkins" in str(caught.value)
    assert "wrong-token" not in str(caught.value)
    assert jenkins.builds_of("restart-consumer") == []


@pytest.mark.parametrize("job", ["no-such-job", "folder/restart-consumer"])
async def test_a_job_that_is_not_there(jenkins: JenkinsState, job: str) -> None:
    jenkins.add_job("restart-consumer", work, {"CONSUMER": ""})
    async with talking_to(jenkins) as client:
        with pytest.raises(NotFound):
            await client.run(job, {"CONSUMER": "api"})


async def test_a_job_name_that_leads_elsewhere_is_not_sent(jenkins: JenkinsState) -> None:
    async with talking_to(jenkins) as client:
        with pytest.raises(Refused):
            await client.run("../..", {})


async def test_a_build_that_takes_too_long_is_unknown(jenkins: JenkinsState) -> None:
    jenkins.add_job("restart-consumer", forever)
    async with talking_to(jenkins) as client:
        with pytest.raises(Unknown, match="still running") as caught:
            await client.run("restart-consumer", {}, timeout=timedelta(milliseconds=200))
    assert "/job/restart-consumer/1/" in str(caught.value)


async def test_a_queue_that_does_not_move_is_unknown() -> None:
    state = JenkinsState(user="recovery", api_token=TOKEN, quiet_period=timedelta(hours=1))
    state.add_job("restart-consumer", work, {"CONSUMER": ""})
    async with talking_to(state, timeout=timedelta(milliseconds=100)) as client:
        with pytest.raises(Unknown, match="still in the queue"):
            await client.run("restart-consumer", {"CONSUMER": "api"})
    await state.aclose()


async def test_a_cancelled_queue_item() -> None:
    state = JenkinsState(user="recovery", api_token=TOKEN, quiet_period=timedelta(hours=1))
    state.add_job("restart-consumer", work, {"CONSUMER": ""})
    async with talking_to(state) as client:
        running = asyncio.create_task(client.run("restart-consumer", {"CONSUMER": "api"}))
        while not state.cancel_queue():
            await asyncio.sleep(0.01)
        with pytest.raises(Refused) as caught:
            await running
    assert caught.value.code == "cancelled"
    assert state.builds_of("restart-consumer") == []
    await state.aclose()


async def test_a_lost_start_is_unknown_and_not_repeated(jenkins: JenkinsState) -> None:
    jenkins.add_job("restart-consumer", work, {"CONSUMER": ""})
    lost = jenkins.faults.inject(CloseAfter(), "buildWithParameters", times=None)
    async with talking_to(jenkins) as client:
        with pytest.raises(Unknown):
            await client.run("restart-consumer", {"CONSUMER": "api"})
        await asyncio.sleep(0.2)
    assert lost.hits == 1
    assert jenkins.builds_of("restart-consumer") == [{"CONSUMER": "api"}]


async def test_broken_answers_do_not_end_the_following(jenkins: JenkinsState) -> None:
    jenkins.add_job("restart-consumer", work, {"CONSUMER": ""})
    for kind in (Status(500), CloseBefore(), InvalidJson(), Status(503, "0"), Status(429, "0")):
        for path in ("GET /queue", "GET /job"):
            jenkins.faults.inject(kind, path, times=6)
    async with talking_to(jenkins) as client:
        build = await client.run("restart-consumer", {"CONSUMER": "api"})
    assert build.number == 1
    assert len(jenkins.builds_of("restart-consumer")) == 1


async def test_the_console_tells_people_what_happened(jenkins: JenkinsState) -> None:
    jenkins.add_job("restart-consumer", work, {"CONSUMER": ""})
    async with Loopback(jenkins_app(jenkins)) as loopback:
        wire = Wire("Jenkins", loopback.url, auth=("recovery", TOKEN), sleep=no_waiting)
        async with JenkinsClient(wire, poll=POLL) as client:
            with pytest.raises(Refused):
                await client.run("restart-consumer", {"CONSUMER": "broken"})
            console = await wire.request(
                "GET",
                "/job/restart-consumer/1/consoleText",
                attempted="Read the console",
                repeatable=True,
            )
    assert "ERROR: it did not come up" in console.text
    assert console.text.endswith("Finished: FAILURE\n")


async def test_a_build_aborted_before_its_first_step_has_ended(jenkins: JenkinsState) -> None:
    jenkins.add_job("restart-consumer", forever)
    async with talking_to(jenkins) as client:
        running = asyncio.create_task(client.run("restart-consumer", {}))
        # Without a pause between: the abort meets the build in the very step that makes it.
        while not jenkins.abort_builds():
            await asyncio.sleep(0)
        with pytest.raises(Refused) as caught:
            await running
    assert caught.value.code == "cancelled"
