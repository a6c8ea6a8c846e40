"""A private PostgreSQL cluster for one rehearsal: Prefect's database and the ledger's, with the
roles that docs/systems.md asks for.

The binaries are the machine's own (Debian's package). It listens on a Unix socket alone, whose
permissions are the password: only the cluster's owner and root can connect.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from rehearsal.processes import Child, start

START_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0
_LONGEST_SOCKET = 100  # bytes of the path; the kernel takes 107
_SOCKET_NAME = "/.s.PGSQL.5432"


class PostgreSQL:
    """`start` makes the cluster and the databases, `stop` ends it and leaves the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Where cluster and socket are; known once it has started."""
        self._owner = _owner()
        self._temporary = False
        self._log = folder.parent / "logs" / "postgresql.log"
        self._child: Child | None = None

    @property
    def prefect_url(self) -> str:
        return f"postgresql+asyncpg://prefect@/prefect?host={self.folder}"

    @property
    def ledger_url(self) -> str:
        return f"postgresql+psycopg://recovery@/ledger?host={self.folder}"

    @property
    def portal_ledger_url(self) -> str:
        """For the portal: may work with the ledger's tables and owns none."""
        return f"postgresql+psycopg://recovery_portal@/ledger?host={self.folder}"

    def start(self) -> None:
        """Blocking; from the main thread. RuntimeError with the log's end where it fails."""
        programs = find_programs()
        # The server's user has to get there, and a socket's path may not be long.
        self._temporary = not _fits(self.folder, self._owner)
        if self._temporary:
            self.folder = Path(tempfile.mkdtemp(prefix="recovery-pg-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        if self._owner is not None:
            os.chown(self.folder, self._owner.pw_uid, self._owner.pw_gid)
        data = self.folder / "data"
        made = subprocess.run(
            [
                str(programs / "initdb"),
                *("--pgdata", str(data), "--username=admin", "--auth=trust", "--encoding=UTF8"),
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            cwd=self.folder,
            **self._as_owner(),
        )
        if made.returncode:
            raise RuntimeError(f"PostgreSQL's initdb failed:\n{made.stderr[-1500:]}")
        self._child = start(
            "PostgreSQL",
            [
                str(programs / "postgres"),
                *("-D", str(data), "-k", str(self.folder)),
                *("-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"),
                *("-c", "fsync=off", "-c", "max_connections=200"),
            ],
            log=self._log,
            environment={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
            folder=self.folder,
            user=self._owner,
        )
        self._wait()
        self._fill()

    def stop(self) -> None:
        """Safe to call twice. Connections are cut; nothing is lost."""
        child, self._child = self._child, None
        if child is not None and child.running:
            child.process.send_signal(signal.SIGINT)
            try:
                child.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                child.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _as_owner(self) -> dict[str, Any]:
        if self._owner is None:
            return {}
        return {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}

    def _wait(self) -> None:
        assert self._child is not None
        deadline = time.monotonic() + START_TIMEOUT
        while self._child.running and time.monotonic() < deadline:
            try:
                self._connect("postgres").close()
                return
            except psycopg.OperationalError:
                time.sleep(0.1)
        raise RuntimeError(f"PostgreSQL did not start. Its log ends:\n{self._child.tail()}")

    def _fill(self) -> None:
        """As docs/systems.md says, without passwords: the socket's permissions stand for them."""
        with self._connect("postgres") as admin:
            for role in ("recovery", "recovery_portal", "prefect"):
                admin.execute(f"CREATE ROLE {role} LOGIN".encode())
            admin.execute(b"CREATE DATABASE ledger OWNER recovery")
            admin.execute(b"CREATE DATABASE prefect OWNER prefect")
            admin.execute(b"REVOKE CONNECT ON DATABASE ledger, prefect FROM PUBLIC")
            admin.execute(b"GRANT CONNECT ON DATABASE ledger TO recovery_portal")
        with self._connect("prefect") as admin:
            # Prefect's own migrations create it; only a superuser may.
            admin.execute(b"CREATE EXTENSION IF NOT EXISTS pg_trgm")
        with self._connect("ledger", "recovery") as owner:
            owner.execute(
                b"ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES"
                b" TO recovery_portal"
            )
            owner.execute(b"ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO recovery_portal")

    def _connect(self, database: str, user: str = "admin") -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self.folder), user=user, dbname=database, autocommit=True)


def find_programs() -> Path:
    """The newest PostgreSQL of the machine. RuntimeError where there is none."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    if found is None:
        raise RuntimeError(
            "PostgreSQL's initdb is in neither /usr/lib/postgresql/*/bin nor PATH; "
            "on Debian: apt install postgresql"
        )
    return Path(found).resolve().parent


def _owner() -> pwd.struct_passwd | None:
    """The server refuses to run as root; None where we are an ordinary user ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _fits(folder: Path, owner: pwd.struct_passwd | None) -> bool:
    if len(os.fsencode(f"{folder}{_SOCKET_NAME}")) > _LONGEST_SOCKET:
        return False
    # Every folder above must let the server's user through.
    return owner is None or all(
        above.stat().st_mode & 0o001 for above in folder.parents if above.exists()
    )
