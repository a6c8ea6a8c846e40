"""Getting at the database: modes, migrations, the sentences of check(), and honest errors."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from ledger import Ledger, schema
from ledger.revisions import newest
from recovery.errors import Misconfigured, RecoveryError, Refused, Unknown, Unreachable

KEY = b"a ledger key for the tests only!"


@pytest.fixture
def fresh(empty_url: str, clock: Any) -> Iterator[Ledger]:
    ledger = Ledger(empty_url, key=KEY, clock=clock)
    yield ledger
    ledger.close()


def test_nothing_is_opened_before_the_first_use(tmp_path: Path, clock: Any) -> None:
    Ledger(f"sqlite:///{tmp_path}/x/ledger.db", key=KEY, clock=clock).close()
    assert list(tmp_path.iterdir()) == []
    # Port 9 of the loopback answers nobody; constructing must not even try.
    Ledger("postgresql+psycopg://u@127.0.0.1:9/none", key=KEY, clock=clock).close()


def test_migrate_from_nothing_and_again(fresh: Ledger) -> None:
    with pytest.raises(Misconfigured, match=r"Ledger\.migrate"):
        fresh.check()
    assert fresh.migrate() == newest()
    assert fresh.migrate() == newest()
    fresh.check()
    assert fresh.audit_head().seq == 0


def test_the_migrations_build_what_the_schema_says(fresh: Ledger, empty_url: str) -> None:
    fresh.migrate()
    engine = sa.create_engine(empty_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": "ledger_revision",
                "compare_server_default": False,
                # SQLite's reflection has no type for the text that keeps our times.
                "compare_type": connection.dialect.name != "sqlite",
            },
        )
        assert compare_metadata(context, schema.metadata) == []
        indexes = {
            (table, index["name"])
            for table in schema.metadata.tables
            for index in sa.inspect(connection).get_indexes(table)
        }
    engine.dispose()
    for table in schema.metadata.tables.values():
        for index in table.indexes:
            assert (table.name, index.name) in indexes


def test_check_names_a_newer_ledger(ledger: Ledger, sql: Any) -> None:
    ledger.check()
    sql("UPDATE ledger_revision SET version_num = '9999'")
    for call in (ledger.check, ledger.migrate):
        with pytest.raises(Misconfigured, match="newer than this program"):
            call()


def test_check_names_an_older_ledger(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this program knew one revision more than the database has."""
    from ledger import revisions

    monkeypatch.setattr(revisions, "newest", lambda: "9999")
    with pytest.raises(Misconfigured, match="too old") as caught:
        ledger.check()
    assert "Ledger.migrate()" in str(caught.value)


def test_check_names_another_key(url: str, clock: Any, ledger: Ledger) -> None:
    ledger.check()
    other = Ledger(url, key=b"another key of at least 32 bytes", clock=clock)
    for call in (other.check, other.migrate):
        with pytest.raises(Misconfigured, match="another key"):
            call()
    other.close()


def test_a_short_key_is_refused(clock: Any) -> None:
    with pytest.raises(Misconfigured, match="32 bytes") as caught:
        Ledger("sqlite:////nowhere/x.db", key=b"a" * 31, clock=clock)
    assert "aaa" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("", "nonsense", "sqlite://", "sqlite:///:memory:", "sqlite:////x.db?mode=ro"),
        *("mysql://u:hunter2@h/d", "postgresql+asyncpg://u:hunter2@h/d"),
    ],
)
def test_urls_that_cannot_be_used(url: str, clock: Any) -> None:
    with pytest.raises(Misconfigured) as caught:
        Ledger(url, key=KEY, clock=clock)
    assert "hunter2" not in str(caught.value)


def test_a_server_that_does_not_answer_is_unreachable(clock: Any) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"postgresql://u:hunter2@127.0.0.1:{held.getsockname()[1]}/d"
        ledger = Ledger(url, key=KEY, clock=clock)
        for call in (ledger.check, ledger.migrate, lambda: ledger.mark("I", "x")):
            with pytest.raises(Unreachable) as caught:
                call()
            shown = str(caught.value) + repr(caught.value.__cause__) + repr(ledger)
            assert "hunter2" not in shown


def test_a_lost_connection_is_told_and_then_mended(
    world: Any, backend: str, request: pytest.FixtureRequest
) -> None:
    if backend == "sqlite":
        pytest.skip("a file has no connection to lose")
    server = request.getfixturevalue("postgresql")
    end_all = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'ledger' AND datname LIKE 't_%'"
    )

    def write() -> None:
        with world.ledger._write() as tx:
            tx.log(world.incident, "lost")
            server.admin(end_all)
            tx.incident(world.incident)

    with pytest.raises(Unreachable):
        write()
    server.admin(end_all)
    world.ledger.mark(world.incident, "again")
    assert world.events() == ["incident.opened", "mark"]


def test_a_commit_that_nobody_answered_is_unknown(
    world: Any, backend: str, request: pytest.FixtureRequest
) -> None:
    if backend == "sqlite":
        pytest.skip("a file answers")
    server = request.getfixturevalue("postgresql")

    def write() -> None:
        with world.ledger._db.write() as conn:
            conn.execute(sa.text("SELECT 1"))
            server.admin(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE state = 'idle in transaction' AND datname LIKE 't_%'"
            )

    with pytest.raises(Unknown, match="Repeat the call"):
        write()


def test_missing_tables_are_named(world: Any, sql: Any) -> None:
    sql("DROP TABLE link_requests")
    refs = world.admitted(1)
    with pytest.raises(Misconfigured, match=r"Ledger\.migrate"):
        world.ledger.request_link(refs[0])


def test_a_refused_row_shows_no_data(world: Any) -> None:
    """What a driver says about a broken constraint quotes the row; that must not get out."""
    row = {"dedupe": "x", "receipt": "secret@mail.example", "event": "e", "at": world.clock.now}

    def write() -> None:
        with world.ledger._db.write() as conn:
            for _ in range(2):
                conn.execute(sa.insert(schema.deliveries), row)

    with pytest.raises(Refused) as caught:
        write()
    error: BaseException | None = caught.value
    while error is not None:
        assert "secret" not in str(error)
        error = error.__cause__
    assert caught.value.__suppress_context__


def test_the_file_is_private_from_its_first_moment(
    clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0)
    try:
        path = tmp_path / "var" / "lib" / "ledger.db"
        ledger = Ledger(f"sqlite:///{path}", key=KEY, clock=clock)
        ledger.migrate()
        ledger.check()
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
        assert len(list(path.parent.iterdir())) > 1, "WAL and its index were looked at, too"
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        path.chmod(0o640)
        with pytest.raises(Misconfigured, match="chmod 600"):
            ledger.check()
        path.chmod(0o600)
        path.parent.chmod(0o777)
        with pytest.raises(Misconfigured, match="chmod 700"):
            ledger.check()
        ledger.close()
    finally:
        os.umask(before)


def test_a_missing_file_is_not_made_by_reading(clock: Any, tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/none.db", key=KEY, clock=clock)
    for call in (ledger.check, ledger.incidents, lambda: ledger.mark("I", "x")):
        with pytest.raises(Misconfigured, match=r"Ledger\.migrate"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database(clock: Any, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    path.chmod(0o600)
    ledger = Ledger(f"sqlite:///{path}", key=KEY, clock=clock)
    for call in (ledger.check, ledger.migrate):
        with pytest.raises(Misconfigured, match="no SQLite database"):
            call()


def test_sqlite_is_durable_and_checks_its_keys(world: Any, backend: str) -> None:
    if backend != "sqlite":
        pytest.skip("SQLite's settings")
    with world.ledger._read() as conn:
        settings = {
            name: conn.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    assert settings == {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "synchronous": 2,
        "busy_timeout": 30_000,
    }


def test_a_closed_ledger_opens_again(world: Any) -> None:
    world.ledger.close()
    world.ledger.close()
    assert world.ledger.incident(world.incident).incident_id == world.incident


def test_a_fork_does_not_share_connections(url: str, world: Any) -> None:
    """A worker that forks inherits an open pool; parent and child must both go on."""
    world.ledger.mark(world.incident, "before")
    child = os.fork()
    if child == 0:
        try:
            world.ledger.mark(world.incident, "in the child")
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    world.ledger.mark(world.incident, "after")
    assert [mark.name for mark in world.ledger.marks(world.incident)] == [
        *("after", "before", "in the child")
    ]
    world.ledger.verify_audit()


def test_importing_the_package_is_silent(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", "import ledger, sys; assert 'prefect' not in sys.modules"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_ledger_are_all_ours(world: Any, sql: Any) -> None:
    sql(
        "DROP TABLE incidents" if "sqlite" in repr(world.ledger) else "DROP TABLE incidents CASCADE"
    )
    with pytest.raises(RecoveryError):
        world.ledger.incidents()
