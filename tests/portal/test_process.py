"""The portal as it is run: `python -m portal`, its exit codes, and what it leaves in its log."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyotp

from recovery.accounts import Stage
from recovery.enroll import mint
from rehearsal.world.people_browser import Browser
from tests.portal.world import (
    ACCOUNT_SID,
    BIND_TOKEN,
    CODE_KEY,
    LEDGER_KEY,
    SENDER,
    PortalWorld,
)

ROOT = Path(__file__).resolve().parents[2]


def config_of(
    world: PortalWorld, url: str, *, portal: dict[str, Any] | None = None, **changed: Any
) -> Path:
    given = world.settings_given()
    given |= {"public_url": url, "answer_floor": "20ms"}
    document = {
        "portal": given,
        "ledger": {"url": world.ledger_url, "key": LEDGER_KEY.decode()},
        "platform": {"base_url": world.platform_server.url, "token": BIND_TOKEN},
        "sms": {
            "base_url": world.sms_server.url,
            "account_sid": ACCOUNT_SID,
            "user": ACCOUNT_SID,
            "secret": "auth-token",
            "from_number": SENDER,
        },
        "clock_offset_file": str(world.folder / "clock-offset"),
        **changed,
    }
    document["portal"] |= portal or {}
    path = world.folder / "portal.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(document))
    return path


@asynccontextmanager
async def portal(
    config: Path, *arguments: str, pass_fds: tuple[int, ...] = ()
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "portal",
        "--config",
        str(config),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        cwd=config.parent,
        pass_fds=pass_fds,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_process_of_its_own(world: PortalWorld, person: str) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    config = config_of(world, url)
    fd = listening.fileno()
    async with portal(config, "--fd", str(fd), pass_fds=(fd,)) as process:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        assert line.decode().strip() == f"listening on port {url.rpartition(':')[2]}"
        async with world.http.get(f"{url}/readyz") as response:
            assert response.status == 200
            assert "Server" not in response.headers

        # Its clock follows the world's, which goes on while it runs.
        early = world.issue(person)
        stale = mint(early, world.key, world.parties)
        world.clock.advance(timedelta(hours=30))
        browser = Browser(world.http, url)
        assert (await world.begin(browser, f"{url}/enroll#t={stale}")).status == 400
        token = mint(world.issue(person), world.key, world.parties)
        page = await world.to_authenticator(browser, person, f"{url}/enroll#t={token}")
        secret = page.by_id["secret"].replace(" ", "")
        code = pyotp.TOTP(secret).at(world.clock.now())
        page = await browser.send(page.forms["/enroll/authenticator"], code=code)
        assert page.path == "/enroll/done"
        assert world.stage(person) is Stage.ENROLLED
        seed = world.population.accounts[person]
        page = await browser.open("/fresh-link")
        await browser.send(page.forms["/fresh-link"], identifier=seed.handle)

        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(process.communicate(), 20)
        log = (out + err).decode()
        assert process.returncode == 0, log
        assert "was not begun: expired" in log
        for private in (
            *(seed.handle, seed.email, seed.phone),
            *(secret, code, stale, token, browser.cookies["__Host-enroll"]),
            *(CODE_KEY, BIND_TOKEN, "auth-token", "/enroll/code"),
        ):
            assert private
            assert private not in log
        assert not re.search(r"\b(GET|POST) /", log), "no access log"
    listening.close()


async def test_a_wrong_configuration_ends_the_start(world: PortalWorld) -> None:
    config = config_of(world, "http://127.0.0.1:1", sms={"secret": "hush-hush"})
    async with portal(config, "--port", "0") as process:
        out, err = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 2
        assert b"sms" in err
        assert b"hush-hush" not in out + err
        assert b"Traceback" not in err


async def test_a_ledger_that_is_not_there_ends_the_start(world: PortalWorld) -> None:
    nowhere = {"url": f"sqlite:///{world.folder}/none/ledger.db", "key": LEDGER_KEY.decode()}
    config = config_of(world, "http://127.0.0.1:1", ledger=nowhere)
    async with portal(config, "--port", "0") as process:
        _, err = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 2
        assert b"migrate" in err
        assert b"Traceback" not in err
        assert LEDGER_KEY not in err


async def test_a_port_that_is_taken(world: PortalWorld) -> None:
    config = config_of(world, world.url)
    async with portal(config, "--port", world.url.rpartition(":")[2]) as process:
        _, err = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 2
        assert b"Traceback" not in err


def test_the_package_brings_its_files() -> None:
    """What setuptools is told to ship covers every folder of files that the portal reads."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = project["tool"]["setuptools"]["package-data"]["portal"]
    for folder in ("templates", "static", "catalog"):
        assert any(glob.startswith(f"{folder}/") for glob in shipped), f"{folder} is not shipped"
