"""One promise, every CI: started once under an id of ours, followed to its end, clear in trouble.

The same tests over Jenkins, GitHub Actions (servers that name the run, and older ones), GitLab, the
webhook and Kubernetes, each against its stateful server.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from recovery.errors import Misconfigured, NotFound, Refused, Unknown
from rehearsal.world.faults import CloseAfter, CloseBefore, InvalidJson, Status
from tests.contracts.ci_benches import BENCHES, NARROW, TOKEN, Bench

GIVEN = {"CONSUMER": "post-scheduler-api"}
RUN_ID = "recovery-abcdefghijklmnop"
SHORT = timedelta(milliseconds=400)


@pytest.fixture(params=BENCHES, ids=lambda bench: bench.__name__.removesuffix("Bench").lower())
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    made: Bench = request.param()
    yield made
    await made.aclose()


async def test_success(bench: Bench) -> None:
    async with bench.client() as client:
        build = await client.run(bench.job("green"), GIVEN)
    assert bench.started("green") == 1
    assert build.url.startswith("http")
    assert build.number
    assert TOKEN not in repr(build)


async def test_red_is_refused_with_the_link(bench: Bench) -> None:
    async with bench.client() as client:
        with pytest.raises(Refused) as caught:
            await client.run(bench.job("red"), GIVEN)
    assert caught.value.code.startswith("build_")
    assert "http" in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert bench.started("red") == 1


async def test_a_hang_ends_in_a_timeout_that_says_it_still_runs(bench: Bench) -> None:
    async with bench.client(timeout=SHORT) as client:
        with pytest.raises(Unknown) as caught:
            await client.run(bench.job("hang"), GIVEN)
    assert "still running" in str(caught.value)
    assert "http" in str(caught.value)
    assert "within 0.4 s" in str(caught.value)


async def test_a_queue_that_waits_and_then_moves(bench: Bench) -> None:
    bench.hold()
    async with bench.client() as client:
        running = asyncio.create_task(client.run(bench.job("green"), GIVEN))
        await asyncio.sleep(0.3)
        assert not running.done()
        bench.release()
        await running
    assert bench.started("green") == 1


async def test_a_queue_that_never_moves(bench: Bench) -> None:
    bench.hold()
    async with bench.client(timeout=SHORT) as client:
        with pytest.raises(Unknown, match=r"still in the queue|waiting for a runner"):
            await client.run(bench.job("green"), GIVEN)
    bench.release()


async def test_a_lost_answer_to_the_start_is_found_again(bench: Bench) -> None:
    lost = bench.faults.inject(CloseAfter(), bench.start)
    async with bench.client() as client:
        await client.run(bench.job("green"), GIVEN, run_id=RUN_ID)
    assert lost.hits == 1
    assert bench.started("green") == 1


async def test_lost_answers_for_ever_start_nothing_twice(bench: Bench) -> None:
    bench.faults.inject(CloseAfter(), bench.start, times=None)
    async with bench.client(timeout=timedelta(seconds=3)) as client:
        try:
            await client.run(bench.job("green"), GIVEN, run_id=RUN_ID)
        except Unknown:
            # Where starting again is harmless it was tried, and no answer ever came.
            assert bench.name in ("the CI webhook", "Kubernetes")
    assert bench.started("green") == 1


async def test_the_same_id_again_follows_the_same_run(bench: Bench) -> None:
    async with bench.client() as client:
        first = await client.run(bench.job("green"), GIVEN, run_id=RUN_ID)
        second = await client.run(bench.job("green"), GIVEN, run_id=RUN_ID)
        other = await client.run(bench.job("green"), GIVEN, run_id=f"{RUN_ID[:-1]}q")
    assert first == second
    assert bench.started("green") == 2
    assert other.url


async def test_a_crash_while_following_is_taken_up_by_the_next_process(bench: Bench) -> None:
    bench.hold()
    async with bench.client() as client:
        running = asyncio.create_task(client.run(bench.job("green"), GIVEN, run_id=RUN_ID))
        for _ in range(200):
            if bench.started("green"):
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    bench.release()
    async with bench.client() as client:
        await client.run(bench.job("green"), GIVEN, run_id=RUN_ID)
    assert bench.started("green") == 1


async def test_a_red_run_is_not_started_again_under_its_id(bench: Bench) -> None:
    async with bench.client() as client:
        for _ in range(2):
            with pytest.raises(Refused):
                await client.run(bench.job("red"), GIVEN, run_id=RUN_ID)
    await asyncio.sleep(0.1)  # GitHub's list shows a run a moment after its start
    async with bench.client() as another:
        with pytest.raises(Refused):
            await another.run(bench.job("red"), GIVEN, run_id=RUN_ID)
    assert bench.started("red") == 1


async def test_a_start_that_never_arrived(bench: Bench) -> None:
    """Cut before the server did anything: started again where that is certain, else Unknown."""
    bench.faults.inject(CloseBefore(), bench.start)
    async with bench.client() as client:
        try:
            await client.run(bench.job("green"), GIVEN, run_id=RUN_ID)
            expected = 1
        except Unknown:
            expected = 0
    assert bench.started("green") == expected
    # GitHub alone can't be asked: no other run shows that this workflow puts our id in its title.
    assert expected == (0 if bench.name == "GitHub" else 1)


async def test_a_wrong_credential(bench: Bench) -> None:
    async with bench.client("another-token-of-nobody") as client:
        with pytest.raises(Misconfigured, match="401") as caught:
            await client.run(bench.job("green"), GIVEN)
    assert bench.name in str(caught.value)
    assert "another-token" not in str(caught.value)
    assert bench.started("green") == 0


async def test_a_credential_that_may_not_start(bench: Bench) -> None:
    bench.narrow()
    async with bench.client(NARROW) as client:
        with pytest.raises(Misconfigured, match="403") as caught:
            await client.run(bench.job("green"), GIVEN)
    assert NARROW not in str(caught.value)
    assert bench.started("green") == 0


async def test_a_job_that_is_not_there(bench: Bench) -> None:
    async with bench.client() as client:
        with pytest.raises(NotFound):
            await client.run(bench.job("missing"), GIVEN)


async def test_too_many_calls_are_waited_out(bench: Bench) -> None:
    bench.faults.inject(Status(429, "0"), bench.start, times=6)
    bench.faults.inject(Status(429, "0"), bench.look, times=6)
    async with bench.client() as client:
        await client.run(bench.job("green"), GIVEN)
    assert bench.started("green") == 1


async def test_a_long_wait_that_is_asked_for_ends_with_the_time(bench: Bench) -> None:
    bench.faults.inject(Status(429, "3600"), bench.start, times=None)
    async with bench.client(timeout=SHORT) as client:
        with pytest.raises(Unknown, match="not started"):
            await client.run(bench.job("green"), GIVEN)
    assert bench.started("green") == 0


async def test_errors_while_polling_do_not_end_the_following(bench: Bench) -> None:
    for kind in (Status(500), CloseBefore(), InvalidJson(), Status(503, "0"), CloseAfter()):
        bench.faults.inject(kind, bench.look, times=5)
    async with bench.client() as client:
        await client.run(bench.job("green"), GIVEN)
    assert bench.started("green") == 1


async def test_a_credential_revoked_while_polling_is_told_at_once(bench: Bench) -> None:
    bench.faults.inject(Status(401), bench.look, times=None)
    async with bench.client() as client:
        with pytest.raises(Misconfigured):
            await client.run(bench.job("hang"), GIVEN)


async def test_cancelled_by_hand(bench: Bench) -> None:
    async with bench.client() as client:
        running = asyncio.create_task(client.run(bench.job("hang"), GIVEN))
        for _ in range(300):
            await asyncio.sleep(0.01)
            if bench.started("hang") and bench.cancel("hang"):
                break
        with pytest.raises(Refused) as caught:
            await running
    assert caught.value.code == "cancelled"


@pytest.mark.parametrize("job", ["../..", "a/../b", "", "x" * 400])
async def test_a_job_that_leads_elsewhere_is_not_sent(bench: Bench, job: str) -> None:
    async with bench.client() as client:
        with pytest.raises(Refused):
            await client.run(job, GIVEN)


@pytest.mark.parametrize("run_id", ["short", "with blanks in it", "x" * 64, "a/b/c/d/e/f"])
async def test_an_id_that_would_not_survive_everywhere(bench: Bench, run_id: str) -> None:
    async with bench.client() as client:
        with pytest.raises(Refused, match="8 to 63"):
            await client.run(bench.job("green"), GIVEN, run_id=run_id)
    assert bench.started("green") == 0
