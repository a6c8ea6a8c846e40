"""One token, very many browsers at once, through the real server with several processes: one wins.

Each racer has proven his phone and has the secret of an authenticator of his own; all press the
last button in the same moment. `PORTAL_RACERS=10000 pytest tests/portal/test_race.py` is the whole
judgement; by default there are fewer.
"""

import asyncio
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyotp
import pytest
import sqlalchemy as sa

from ledger import Ledger, schema
from ledger.portal_role import statements
from portal.binding import BIND_STEP
from portal.keyed import Keyed, Sealer, new_cookie, session_hash
from recovery.accounts import Stage
from recovery.incident import Enrollment
from rehearsal.world.population import Population
from tests.portal.client import ask, request
from tests.portal.conftest import clean
from tests.portal.test_process import config_of, portal
from tests.portal.test_workers import children, ready, until
from tests.portal.world import INCIDENT, LEDGER_KEY, PortalWorld

RACERS = int(os.environ.get("PORTAL_RACERS", "300"))
WORKERS = 3
_BUSY_PAUSE = (0.2, 1.0)


@pytest.fixture(params=["sqlite", "postgresql"])
async def raced(
    request: pytest.FixtureRequest, population: Population, tmp_path: Path
) -> AsyncIterator[tuple[PortalWorld, str]]:
    """The world, and the ledger's URL as the portal gets it: in PostgreSQL by its narrow role."""
    if request.param == "sqlite":
        async with PortalWorld(population, tmp_path) as world:
            yield world, world.ledger_url
        return
    server = request.getfixturevalue("postgresql")
    name, role = f"race_{secrets.token_hex(4)}", f"portal_{secrets.token_hex(4)}"
    server.admin(f"CREATE DATABASE {name}")
    server.admin(f"CREATE ROLE {role} LOGIN")
    async with PortalWorld(population, tmp_path, database=server.url(name)) as world:
        with psycopg.connect(
            host=str(server.folder), user="ledger", dbname=name, autocommit=True
        ) as owner:
            for statement in statements(role):
                owner.execute(statement.encode())
        yield world, world.ledger_url.replace("//ledger@", f"//{role}@")
    server.admin(f"DROP DATABASE {name} WITH (FORCE)")
    server.admin(f"DROP ROLE {role}")


def at_the_last_step(
    world: PortalWorld, enrollment: Enrollment, count: int
) -> list[tuple[str, pyotp.TOTP]]:
    """Browsers as they are after the right code, written into the ledger at once."""
    sealer = Sealer(world.settings.seal_key.get_secret_value())
    racers = [(new_cookie(), pyotp.TOTP(pyotp.random_base32())) for _ in range(count)]
    now = world.clock.now()
    rows: list[dict[str, Any]] = [
        {
            "session_hash": session_hash(cookie),
            "incident_id": INCIDENT,
            "ref": enrollment.ref,
            "jti": enrollment.jti,
            "created_at": now,
            "expires_at": now + timedelta(minutes=30),
            "code_verified_at": now,
            "sealed_candidate": sealer.seal(enrollment.jti, totp.secret),
        }
        for cookie, totp in racers
    ]
    engine = sa.create_engine(world.ledger_url)
    with engine.begin() as conn:
        conn.execute(sa.insert(schema.portal_sessions), rows)
    engine.dispose()
    return racers


async def test_of_very_many_browsers_one_wins(raced: tuple[PortalWorld, str]) -> None:
    world, ledger_url = raced
    person = clean(world.population)[0]
    world.contain([person])
    enrollment = world.issue(person)
    racers = at_the_last_step(world, enrollment, RACERS)
    keyed = Keyed(world.settings.code_key.get_secret_value().encode())
    listening = socket.create_server(("127.0.0.1", 0), backlog=RACERS)
    fd, port = listening.fileno(), listening.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    given = {"seal_key": world.settings.seal_key.get_secret_value()}
    ledger = {"url": ledger_url, "key": LEDGER_KEY.decode()}
    config = config_of(world, url, portal=given, ledger=ledger)
    gun = asyncio.Event()
    busy = 0

    async def race(cookie: str, totp: pyotp.TOTP) -> tuple[int, str]:
        """Presses until somebody decides: an overloaded server says so, and decides nothing."""
        nonlocal busy
        form = {"csrf": keyed.form_token(cookie), "code": totp.at(world.clock.now())}
        sent = request("POST", "/enroll/authenticator", form=form, cookie=f"__Host-enroll={cookie}")
        await gun.wait()
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                answer = await ask(reader, writer, sent)
            finally:
                writer.close()
            if answer.status != 503:
                return answer.status, answer.headers.get("location", "")
            busy += 1
            await asyncio.sleep(secrets.SystemRandom().uniform(*_BUSY_PAUSE))

    start = ("--fd", str(fd), "--workers", str(WORKERS))
    async with portal(config, *start, pass_fds=(fd,)) as process:
        await ready(world, url)
        await until(lambda: len(children(process.pid)) == WORKERS)
        running = [asyncio.create_task(race(*racer)) for racer in racers]
        await asyncio.sleep(0.1)
        started = time.monotonic()
        gun.set()
        answers = await asyncio.gather(*running)
        taken = time.monotonic() - started
    listening.close()
    print(f"\n{RACERS} racers, {WORKERS} processes: {taken:.1f} s, {busy} times asked to wait")

    counts = Counter(answers)
    assert counts == {(303, "/enroll/done"): 1, (400, ""): RACERS - 1}
    winner = racers[answers.index((303, "/enroll/done"))]
    [bound] = world.platform.authenticators_of(person)
    assert bound.secret == winner[1].secret
    with closing(Ledger(world.ledger_url, key=LEDGER_KEY, clock=world.clock.now)) as onlooker:
        assert onlooker.account(enrollment.ref).stage is Stage.ENROLLED
        assert [r.act.subject for r in onlooker.acts(INCIDENT, BIND_STEP)] == [enrollment.ref]
        events = Counter(entry.event for entry in onlooker.audit(INCIDENT))
        assert events["enrollment.redeemed"] == events["portal.completed"] == 1
        assert onlooker.verify_audit()
