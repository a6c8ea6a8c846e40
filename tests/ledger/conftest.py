"""Every ledger test runs on SQLite and on a real PostgreSQL server that lives as long as the run.

The server comes from the machine's own binaries; where there are none its half is skipped.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from ledger import Ledger, schema
from ledger.revisions import newest
from recovery.accounts import (
    Account,
    Act,
    Affected,
    Outcome,
    Placed,
    Priority,
    PriorityReason,
    Sighting,
    Stage,
    Verdict,
    account_ref,
)
from recovery.incident import Enrollment

KEY = b"a ledger key for the tests only!"
START = datetime(2026, 3, 14, 9, 26, 53, 589793, tzinfo=UTC)
INCIDENT = "INC-2026-0142"


class Moment:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **duration: float) -> datetime:
        self.now += timedelta(**duration)
        return self.now


class World:
    """A ledger with one open incident, and short ways to bring accounts to where a test starts."""

    key = KEY
    incident = INCIDENT

    def __init__(self, ledger: Ledger, clock: Moment) -> None:
        self.ledger = ledger
        self.clock = clock
        self.open(INCIDENT)

    def open(self, incident: str) -> None:
        self.ledger.open_incident(
            incident,
            window_start=START - timedelta(hours=3),
            window_end=START - timedelta(hours=1),
            runbook_digest="5" * 64,
            runbook_commit="0123abcd",
            requested_by="on-call",
        )

    def sighting(self, number: int, **changes: object) -> Sighting:
        values: dict[str, object] = {
            "account_id": f"u{number:06d}",
            "first_seen": START - timedelta(hours=2),
            "last_seen": START - timedelta(minutes=90),
            "resets": 1,
            "source": "siem",
        }
        return Sighting(**{**values, **changes})  # type: ignore[arg-type]

    def placed(
        self,
        number: int,
        *,
        wave: int = 0,
        batch: int = 0,
        priority: Priority = Priority.NORMAL,
        reasons: tuple[PriorityReason, ...] = (),
        excluded: str | None = None,
    ) -> Placed:
        return Placed(
            Affected(
                account_id=f"u{number:06d}",
                handle=f"Person.{number}",
                email=f"Person.{number}@mail.example",
                phone=f"+4917012{number:05d}",
                last_active=START - timedelta(days=number % 90),
                linked_apps=("calendar", "crm"),
                locale="de",
                priority=priority,
                reasons=reasons,
                first_seen=START - timedelta(hours=2),
                last_seen=START - timedelta(minutes=90),
                resets=2,
                excluded=excluded,
            ),
            wave=wave,
            batch=batch,
        )

    def ref(self, number: int, incident: str = INCIDENT) -> str:
        return account_ref(KEY, incident, f"u{number:06d}")

    def admitted(self, count: int, *, incident: str = INCIDENT) -> list[str]:
        self.ledger.admit(incident, [self.placed(number) for number in range(count)])
        return [self.ref(number, incident) for number in range(count)]

    def carry_out(
        self,
        refs: Sequence[str],
        step: str,
        verdict: Verdict = Verdict.DONE,
        *,
        advance: Stage | None = None,
        generation: int = 1,
        receipt: str = "",
    ) -> list[Act]:
        acts = [Act(ref, step, generation) for ref in refs]
        self.ledger.intend(INCIDENT, acts)
        outcomes = [Outcome(act, verdict, receipt=receipt) for act in acts]
        self.ledger.settle(INCIDENT, outcomes, advance=advance)
        return acts

    def contained(self, count: int) -> list[str]:
        refs = self.admitted(count)
        self.carry_out(refs, "contain.revoke", advance=Stage.CONTAINED)
        return refs

    def armed(self, count: int, *, minutes: int = 15) -> list[Enrollment]:
        refs = self.contained(count)
        self.ledger.issue(INCIDENT, refs)
        return self.ledger.arm(INCIDENT, refs, ttl=timedelta(minutes=minutes))

    def account(self, ref: str) -> Account:
        return self.ledger.account(ref)

    def stage(self, ref: str) -> Stage:
        return self.ledger.account(ref).stage

    def events(self) -> list[str]:
        return [entry.event for entry in self.ledger.audit()]


class PostgreSQL:
    """A server on a socket in its own folder, and databases in it."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self._programs = programs
        # The server refuses to run as root.
        self._user: dict[str, object] = {}
        if os.geteuid() == 0:
            owner = _unprivileged()
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self._user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        self._clean: list[str] = []

    def start(self) -> None:
        data = self.folder / "data"
        subprocess.run(
            [
                str(self._programs / "initdb"),
                "--pgdata",
                str(data),
                "--username=ledger",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-sync",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            **self._user,  # type: ignore[call-overload]
        )
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(  # type: ignore[call-overload]
                [
                    str(self._programs / "postgres"),
                    *("-D", str(data), "-k", str(self.folder)),
                    *("-c", "listen_addresses=", "-c", "fsync=off", "-c", "full_page_writes=off"),
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._user,
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                self.admin("SELECT 1")
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(2)  # SIGINT: disconnect everybody and stop
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=5)

    def admin(self, statement: str) -> None:
        with self._connect("postgres") as connection:
            connection.execute(statement.encode())

    def database(self) -> str:
        """A database with the ledger's tables, as they are after migrating."""
        if self._clean:
            return self._clean.pop()
        name = f"t_{secrets.token_hex(6)}"
        self.admin(f"CREATE DATABASE {name} TEMPLATE migrated")
        return name

    def give_back(self, name: str) -> None:
        """Empty the database for the next test: five times as fast as a new one. A test that broke
        its tables gets them thrown away."""
        tables = ", ".join(set(schema.metadata.tables) - {"audit_head"})
        try:
            with self._connect(name) as connection:
                connection.execute(f"TRUNCATE {tables} RESTART IDENTITY".encode())
                done = connection.execute(
                    b"WITH head AS (UPDATE audit_head SET seq = 0, hash = repeat('0', 64)"
                    b" RETURNING 1) SELECT count(*) FROM head"
                )
                assert done.fetchone() == (1,)
                connection.execute("UPDATE ledger_revision SET version_num = %s", (newest(),))
            self._clean.append(name)
        except (psycopg.Error, AssertionError):
            self.admin(f"DROP DATABASE {name} WITH (FORCE)")

    def _connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=str(self.folder), user="ledger", dbname=database, autocommit=True
        )

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://ledger@/{database}?host={self.folder}"


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _programs() -> Path | None:
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL's initdb is in neither /usr/lib/postgresql/*/bin nor PATH")
    # Not under pytest's own folder: that one is closed to the server's user, and its name is
    # longer than a socket's path may be.
    folder = Path(tempfile.mkdtemp(prefix="ledger-"))
    server = PostgreSQL(programs, folder)
    try:
        server.start()
        server.admin("CREATE DATABASE migrated")
        template = Ledger(server.url("migrated"), key=KEY, clock=Moment())
        template.migrate()
        template.close()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "ledger.db"
    template = Ledger(f"sqlite:///{path}", key=KEY, clock=Moment())
    template.migrate()
    template.close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database in which nothing is."""
    if backend == "sqlite":
        yield f"sqlite:///{tmp_path}/var/ledger.db"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = f"t_{secrets.token_hex(6)}"
    server.admin(f"CREATE DATABASE {name}")
    yield server.url(name)
    server.admin(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the ledger's tables."""
    if backend == "sqlite":
        template: Path = request.getfixturevalue("migrated_file")
        path = tmp_path / "ledger.db"
        shutil.copyfile(template, path)
        path.chmod(0o600)
        yield f"sqlite:///{path}"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = server.database()
    yield server.url(name)
    server.give_back(name)


@pytest.fixture
def clock() -> Moment:
    return Moment()


@pytest.fixture
def connect(url: str, clock: Moment) -> Iterator[Callable[[], Ledger]]:
    """Opens a further ledger on the test's database, as another process would."""
    opened: list[Ledger] = []

    def another() -> Ledger:
        opened.append(Ledger(url, key=KEY, clock=clock))
        return opened[-1]

    yield another
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(connect: Callable[[], Ledger]) -> Ledger:
    return connect()


@pytest.fixture
def world(ledger: Ledger, clock: Moment) -> World:
    return World(ledger, clock)


@pytest.fixture
def sql(url: str) -> Iterator[Callable[[str], list[Any]]]:
    """Runs a statement behind the ledger's back, as somebody with the database's password could."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)

    def run(statement: str) -> list[Any]:
        with engine.begin() as connection:
            result = connection.exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else []

    yield run
    engine.dispose()
