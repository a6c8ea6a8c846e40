"""How the ledger reaches its database: one engine, read and write transactions, honest errors.

SQLite after its own documentation (WAL, busy_timeout, BEGIN IMMEDIATE: sqlite.org/wal.html and
lang_transaction.html); PostgreSQL through psycopg 3.
"""

import contextlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    SQLAlchemyError,
)
from sqlalchemy.pool import ConnectionPoolEntry

from recovery.errors import Misconfigured, RecoveryError, Refused, Unknown, Unreachable

PATIENCE = timedelta(seconds=30)
"""How long a writer waits for the writers before it, in this process and in others."""

_WRITE = "ledger_write"


class Database:
    """One database by its URL. Nothing is opened before the first transaction."""

    def __init__(self, url: str) -> None:
        self._url = _checked(url)
        self._lock = threading.Lock()
        self._made: tuple[int, Engine] | None = None
        self._make = threading.Lock()

    def __repr__(self) -> str:
        return f"Database({self.name})"

    @property
    def name(self) -> str:
        """The database as it may appear in a message: without its password."""
        return self._url.render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    @property
    def path(self) -> Path | None:
        """The SQLite file, or None."""
        return Path(str(self._url.database)) if self.is_sqlite else None

    @contextlib.contextmanager
    def read(self, *, create: bool = False) -> Iterator[Connection]:
        """A snapshot: every statement inside sees the same moment. Never waits for a writer."""
        with self._translated(), self._engine(create=create).connect() as conn, conn.begin():
            if not self.is_sqlite:
                conn.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield conn

    @contextlib.contextmanager
    def write(self, *, create: bool = False) -> Iterator[Connection]:
        """A transaction that may write; whatever leaves the block by an exception is rolled back.

        Raises Unreachable (nothing was written), or Unknown where the commit was not answered.
        """
        with self._translated():
            engine = self._engine(create=create)
            # Threads queue here and only processes meet in the database, whose waiting is unfair.
            queue = self._lock
            if not queue.acquire(timeout=PATIENCE.total_seconds()):
                raise self._busy()
            try:
                with engine.connect().execution_options(**{_WRITE: True}) as conn:
                    begun = conn.begin()
                    try:
                        yield conn
                    except BaseException:
                        with contextlib.suppress(SQLAlchemyError):
                            begun.rollback()
                        raise
                    self._commit(begun)
            finally:
                queue.release()

    def close(self) -> None:
        """Give the connections back; the next call opens new ones."""
        with self._make:
            if self._made is not None and self._made[0] == os.getpid():
                self._made[1].dispose()
            self._made = None

    def _commit(self, begun: sa.RootTransaction) -> None:
        try:
            begun.commit()
        except DBAPIError as exc:
            raise Unknown(
                "committing to the ledger",
                subject=self.name,
                got=type(exc.orig).__name__,
                advice="Repeat the call: the ledger's calls are idempotent.",
            ) from exc

    def _engine(self, *, create: bool) -> Engine:
        with self._make:
            if self._made is not None and self._made[0] == os.getpid():
                return self._made[1]
            if self._made is not None:
                # After a fork: the connections belong to the parent, and so may a held lock.
                self._made[1].dispose(close=False)
                self._lock = threading.Lock()
            if self.path is not None:
                self._find_file(self.path, create=create)
            engine = _sqlite(self._url) if self.is_sqlite else _postgresql(self._url)
            self._made = (os.getpid(), engine)
            return engine

    def _find_file(self, path: Path, *, create: bool) -> None:
        if path.exists():
            return
        if not create:
            raise Misconfigured(
                "opening the ledger",
                subject=self.name,
                got="there is no such file",
                advice="Create it with Ledger.migrate().",
            )
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Born with its mode: a file that is closed to others only later was open before.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as exc:
            raise Misconfigured(
                "creating the ledger",
                subject=self.name,
                got=exc.strerror or type(exc).__name__,
                advice="Name a folder that this user may write to.",
            ) from exc

    def check_file_modes(self) -> None:
        """Raises Misconfigured where others on this machine may read the SQLite file."""
        if self.path is None or not self.path.exists():
            return
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & 0o077:
            raise Misconfigured(
                "checking the ledger's file",
                subject=self.name,
                expected="mode 0600",
                got=f"{mode:04o}",
                advice=f"Run chmod 600 {self.path}",
            )
        folder = self.path.parent.stat().st_mode
        if folder & 0o002 and not folder & stat.S_ISVTX:
            raise Misconfigured(
                "checking the ledger's folder",
                subject=str(self.path.parent),
                expected="mode 0700",
                got=f"{stat.S_IMODE(folder):04o}",
                advice=f"Run chmod 700 {self.path.parent}",
            )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (IntegrityError, DataError) as exc:
            # Not chained: the driver quotes the row, and the row holds personal data.
            raise Refused(
                "writing to the ledger",
                subject=self.name,
                code=_reason(exc),
                advice="A value does not fit its column, or it names a row that is not there.",
            ) from None
        except DBAPIError as exc:
            raise self._explained(exc) from exc
        except sa.exc.TimeoutError as exc:
            raise self._busy() from exc

    def _busy(self) -> Unreachable:
        return Unreachable(
            "waiting for the ledger",
            subject=self.name,
            got=f"busy for {PATIENCE.total_seconds():g} s",
            advice="Look for a process that holds a transaction open, then repeat.",
        )

    def _explained(self, exc: DBAPIError) -> RecoveryError:
        said = str(exc.orig)
        state = getattr(exc.orig, "sqlstate", None) or ""
        if "no such table" in said or "no such column" in said or state in ("42P01", "42703"):
            return Misconfigured(
                "using the ledger",
                subject=self.name,
                got="its tables are missing or older than this program",
                advice="Bring it up to date with Ledger.migrate().",
            )
        if "not a database" in said:
            return Misconfigured(
                "opening the ledger", subject=self.name, got="the file is no SQLite database"
            )
        if "readonly" in said or state == "42501":
            return Misconfigured("writing the ledger", subject=self.name, got="no right to write")
        if state.startswith("28") or state == "3D000":
            return Misconfigured(
                "opening the ledger", subject=self.name, got="user, password or name not accepted"
            )
        return Unreachable("using the ledger", subject=self.name, got=_reason(exc))


def _reason(exc: DBAPIError) -> str:
    # The driver's own sentence may quote a row; its class and code cannot.
    code = getattr(exc.orig, "sqlstate", None) or getattr(exc.orig, "sqlite_errorname", None)
    return f"{type(exc.orig).__name__} {code or ''}".strip()


def _checked(text: str) -> URL:
    advice = 'Use "sqlite:////absolute/path.db" or "postgresql+psycopg://user@host/name".'
    try:
        url = make_url(text)
    except ArgumentError:
        raise Misconfigured("reading the ledger's URL", got="not a URL", advice=advice) from None
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if not url.database or url.database == ":memory:" or url.query:
            raise Misconfigured(
                "reading the ledger's URL",
                expected="the path of a file",
                got="none, or parameters after it",
                advice=advice,
            )
        return url
    if url.drivername == "postgresql+psycopg":
        return url
    raise Misconfigured("reading the ledger's URL", got=f"{url.drivername} URL", advice=advice)


def _sqlite(url: URL) -> Engine:
    engine = sa.create_engine(
        url, hide_parameters=True, connect_args={"timeout": PATIENCE.total_seconds()}
    )

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        # The driver's own transaction handling would begin late and deferred; see _begin.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        # FULL: what intend() promised must outlive a power cut, or an act is forgotten.
        cursor.execute("PRAGMA synchronous = FULL")
        # A large incident's indexes outgrow the default 2 MB, and its batches the default log.
        cursor.execute("PRAGMA cache_size = -32768")
        cursor.execute("PRAGMA wal_autocheckpoint = 4000")
        _to_wal(cursor)
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        # IMMEDIATE takes the write lock at once; a deferred reader that turns writer is refused
        # with "database is locked" however long it would have waited.
        write = conn.get_execution_options().get(_WRITE, False)
        conn.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _to_wal(cursor: DBAPICursor) -> None:
    # Changing the mode ignores busy_timeout, and two processes may meet in a new file.
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while True:
        try:
            cursor.execute("PRAGMA journal_mode")
            if cursor.fetchone() == ("wal",):
                return
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _postgresql(url: URL) -> Engine:
    wait = int(PATIENCE.total_seconds() * 1000)
    settings = {
        "connect_timeout": "5",
        "application_name": "ledger",
        # A frozen process must not hold the chain's lock for ever.
        "options": f"-c lock_timeout={wait} -c idle_in_transaction_session_timeout={2 * wait}",
    }
    return sa.create_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        connect_args={name: value for name, value in settings.items() if name not in url.query},
    )
