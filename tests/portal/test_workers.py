"""Several processes on one socket: they share the work, are watched over, hand over unbroken."""

import asyncio
import os
import re
import signal
import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.portal.client import Load, request
from tests.portal.test_process import config_of, portal
from tests.portal.world import PortalWorld

PATIENCE = 60


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode().strip()


async def ready(world: PortalWorld, url: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                async with world.http.get(f"{url}/readyz") as response:
                    if response.status == 200:
                        return
            except OSError:
                pass
            await asyncio.sleep(0.05)


async def _told(process: asyncio.subprocess.Process) -> str:
    process.terminate()
    out, err = await process.communicate()
    return (out + err).decode()


def children(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found |= set(map(int, (task / "children").read_text().split()))
    return found


async def until(true: object) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # type: ignore[operator]
            await asyncio.sleep(0.05)


def mixed(number: int) -> bytes:
    """A page, and a question that goes to the ledger and waits."""
    if number % 4:
        return request("GET", "/enroll")
    form = {"identifier": f"nobody-{number}", "code": "123456"}
    return request("POST", "/check", form=form)


@pytest.fixture
def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=2048)


async def test_figures_of_all_processes_on_an_address_of_their_own(
    world: PortalWorld, listening: socket.socket
) -> None:
    fd, port = listening.fileno(), listening.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    config = config_of(world, url, metrics={"port": 0})
    async with portal(config, "--fd", str(fd), "--workers", "2", pass_fds=(fd,)) as process:
        assert await line(process) == f"listening on port {port}"
        said = await line(process)
        found = re.fullmatch(r"metrics on port (\d+)", said)
        assert found is not None, said
        await ready(world, url)
        await until(lambda: len(children(process.pid)) == 2)
        seed = next(iter(world.population.accounts.values()))
        load = Load(port, mixed, clients=8)
        running = asyncio.create_task(load.run())
        await asyncio.sleep(1.5)
        load.stop.set()
        await running
        assert load.broken == []
        async with world.http.post(
            f"{url}/fresh-link?who={seed.handle}", data={"identifier": seed.handle}
        ) as response:
            assert response.status == 200
        async with world.http.get(f"{url}/{seed.handle}") as response:
            assert response.status == 404
        text = ""
        for _ in range(50):
            async with world.http.get(f"http://127.0.0.1:{found[1]}/metrics") as response:
                text = await response.text()
            # Counted when the answer has left; whoever asks at once may be earlier.
            if 'status="404"' in text:
                break
            await asyncio.sleep(0.1)
        families = {f.name: f for f in text_string_to_metric_families(text)}
        counts = {
            (s.labels["route"], s.labels["method"], s.labels["status"]): s.value
            for s in families["portal_requests"].samples
            if s.name == "portal_requests_total"
        }
        pages = counts["/enroll", "GET", "200"]
        assert pages + counts["/check", "POST", "200"] == load.answers[200]
        assert pages > 0
        assert counts["other", "GET", "404"] == 1
        for private in (seed.handle, seed.email, "127.0.0.1", "identifier", "who="):
            assert private
            assert private not in text
        for path in ("/metrics", "/metrics/", "//metrics"):
            async with world.http.get(url + path) as response:
                assert response.status == 404, "not on the people's address"


async def test_a_worker_that_dies_is_replaced(world: PortalWorld, listening: socket.socket) -> None:
    fd, port = listening.fileno(), listening.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    config = config_of(world, url)
    async with portal(config, "--fd", str(fd), "--workers", "2", pass_fds=(fd,)) as process:
        await ready(world, url)
        await until(lambda: len(children(process.pid)) == 2)
        before = children(process.pid)
        os.kill(min(before), signal.SIGKILL)
        await until(lambda: len(children(process.pid)) == 2 and children(process.pid) != before)
        await ready(world, url)
        # And when the supervisor is shot, nobody is left to hold the socket.
        workers = children(process.pid)
        process.kill()
        await process.wait()
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


async def test_a_configuration_that_no_worker_can_use_ends_it(world: PortalWorld) -> None:
    nowhere = {"url": f"sqlite:///{world.folder}/none/ledger.db", "key": "ledger-key-" * 4}
    config = config_of(world, "http://127.0.0.1:1", ledger=nowhere)
    async with portal(config, "--port", "0", "--workers", "2") as process:
        _, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 2
        assert b"migrate" in err
        assert b"Traceback" not in err


async def test_nothing_breaks_on_the_way_to_the_next_release(
    world: PortalWorld, listening: socket.socket
) -> None:
    """Under load: workers replaced by a hang-up, then the whole portal ended by SIGTERM while the
    next one serves on the same socket. Not one request is lost."""
    fd, port = listening.fileno(), listening.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    limits = {"check_per_client": {"limit": 100_000, "per": "1h"}}
    limits["check_overall"] = {"limit": 100_000, "per": "1m"}
    config = config_of(world, url, portal={"limits": limits})
    start = ("--fd", str(fd), "--workers", "2")
    async with portal(config, *start, pass_fds=(fd,)) as first:
        await ready(world, url)
        await until(lambda: len(children(first.pid)) == 2)
        load = Load(port, mixed)
        running = asyncio.create_task(load.run())
        before = children(first.pid)
        first.send_signal(signal.SIGHUP)
        await until(lambda: len(children(first.pid)) == 2 and not children(first.pid) & before)
        async with portal(config, *start, pass_fds=(fd,)) as second:
            await until(lambda: len(children(second.pid)) == 2)
            await asyncio.sleep(2)
            first.send_signal(signal.SIGTERM)
            _, err = await asyncio.wait_for(first.communicate(), PATIENCE)
            assert first.returncode == 0, err
            answered = load.answers.total()
            await until(lambda: load.answers.total() > answered + 50)
            load.stop.set()
            await running
            assert load.broken == []
            assert set(load.answers) == {200}
            second.send_signal(signal.SIGTERM)
            await asyncio.wait_for(second.communicate(), PATIENCE)
            assert second.returncode == 0


async def test_what_is_under_way_is_finished(world: PortalWorld) -> None:
    """Each request waits a second in the portal; it is told to end in the middle of that."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    fd, port = listening.fileno(), listening.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    config = config_of(world, url, portal={"answer_floor": "1500ms"})
    async with portal(config, "--fd", str(fd), "--drain", "0.3", pass_fds=(fd,)) as process:
        await ready(world, url)
        form = {"identifier": "nobody", "code": "123456"}

        async def ask(number: int) -> int:
            async with world.http.post(
                f"{url}/check", data={**form, "identifier": f"nobody-{number}"}
            ) as response:
                assert "cannot confirm" in await response.text()
                return response.status

        asked = [asyncio.create_task(ask(number)) for number in range(20)]
        await asyncio.sleep(0.7)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        async with world.http.get(f"{url}/readyz") as response:
            assert response.status == 503, "no new traffic, please"
        async with world.http.get(f"{url}/healthz") as response:
            assert response.status == 200
        assert await asyncio.gather(*asked) == [200] * 20
        await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 0
    listening.close()
