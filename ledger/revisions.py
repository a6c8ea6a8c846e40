"""Brings the database to the tables this program knows, and says in a sentence where it is not.

Alembic, run from here and not from a shell: the package carries its own migrations.
"""

import hmac
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from ledger import schema
from ledger.transaction import Core
from recovery.errors import Misconfigured

VERSION_TABLE = "ledger_revision"
"""Not Alembic's usual name: a Prefect server keeps that one in the same PostgreSQL database."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x6C65646765720001
_KEY_CHECK = b"this is the key of this ledger"


class Revisions(Core):
    """Migration and its check."""

    def migrate(self) -> str:
        """Create or upgrade the tables and return the revision they now have. Safe to repeat, and
        safe where two processes do it at once. Raises Misconfigured where the tables are newer
        than this program, or belong to another key."""
        with self._db.write(create=True) as conn:
            if not self._db.is_sqlite:
                conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            self._refuse_newer(_revision(conn))
            config = _config()
            config.attributes["connection"] = conn
            command.upgrade(config, "head")
            conn.execute(
                sa.update(schema.audit_head)
                .where(schema.audit_head.c.key_check == "")
                .values(key_check=self._key_check())
            )
            self._check_key(conn)
            return _revision(conn) or ""

    def check(self) -> None:
        """Say whether the ledger can be used. Raises Misconfigured with what to do, or
        Unreachable where the database does not answer."""
        self._db.check_file_modes()
        with self._read() as conn:
            found = _revision(conn)
            if found is None:
                raise self._unready("no tables of a ledger", "Create them with Ledger.migrate().")
            self._refuse_newer(found)
            if found != newest():
                raise self._unready(
                    f"revision {found}, which is too old",
                    "Make a backup, then run Ledger.migrate().",
                )
            self._check_key(conn)

    def _refuse_newer(self, found: str | None) -> None:
        if found is not None and found not in _known():
            raise self._unready(
                f"revision {found}, which is newer than this program",
                "Install the release that wrote it, or a newer one.",
            )

    def _check_key(self, conn: Connection) -> None:
        stored = conn.execute(sa.select(schema.audit_head.c.key_check)).scalar_one_or_none() or ""
        if not hmac.compare_digest(stored.encode(), self._key_check().encode()):
            raise Misconfigured(
                "checking the ledger's key",
                subject=self._db.name,
                expected="the key the ledger was created with",
                got="another key",
                advice="With another key no account would be found under its ref again.",
            )

    def _key_check(self) -> str:
        return hmac.digest(self._key, _KEY_CHECK, "sha256").hex()

    def _unready(self, got: str, advice: str) -> Misconfigured:
        return Misconfigured(
            "checking the ledger's tables",
            subject=self._db.name,
            expected=f"revision {newest()}",
            got=got,
            advice=advice,
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def newest() -> str:
    """The revision that this program's migrations lead to."""
    return _script().get_current_head() or ""


def _known() -> frozenset[str]:
    return frozenset(script.revision for script in _script().walk_revisions())


def _revision(conn: Connection) -> str | None:
    return MigrationContext.configure(
        conn, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()
