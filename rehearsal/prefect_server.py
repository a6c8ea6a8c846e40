"""A Prefect server and one process worker on loopback, both ours: with a password and protection
against forged requests, as docs/hardening.md asks of production; on SQLite or PostgreSQL."""

import os
import secrets
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from rehearsal.processes import Child, start

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 90.0
WORK_POOL = "recovery"
USER = "operator"


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PrefectServer:
    """Server and worker with a home of their own; nothing of the user's profile is touched.

    `auth` is "user:password", new for each server. `database_url` None means SQLite in its home.
    """

    def __init__(
        self, folder: Path, *, port: int | None = None, database_url: str | None = None
    ) -> None:
        self.folder = folder
        self.auth = f"{USER}:{secrets.token_urlsafe(24)}"
        self._database_url = database_url
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api = f"{self.url}/api"
        self.server: Child | None = None
        self.worker: Child | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What every Prefect process of this rehearsal is started with, but the server."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        return inherited | {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_API_AUTH_STRING": self.auth,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "INFO",
            # Runs are picked up soon after they are asked for.
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_PREFETCH_SECONDS": "2",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            # In memory, a server that starts again knows no lease of the runs that live: a slot is
            # then never given back, and each run ends itself at its next renewal.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                "prefect.server.concurrency.lease_storage.filesystem"
            ),
            "PREFECT_CLI_PROMPT": "false",
            "PREFECT_CLI_COLORS": "false",
            "RECOVERY_HOME": str(ROOT),
            # `watch` every minute would find the burst and plan a response of its own.
            "RECOVERY_SCHEDULES": "false",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "DO_NOT_TRACK": "1",
        }

    @property
    def server_environment(self) -> dict[str, str]:
        """What the server alone is started with."""
        database = self._database_url
        return self.environment | {
            "PREFECT_SERVER_API_AUTH_STRING": self.auth,
            "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_SERVER_UI_API_URL": self.api,
            "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
            # Fewer, larger writes: SQLite has one writer.
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "2",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "25",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
            **({"PREFECT_SERVER_DATABASE_CONNECTION_URL": database} if database else {}),
        }

    def start_server(self) -> None:
        """RuntimeError where something answers on the port already."""
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                raise RuntimeError(
                    f"Port {self.port} is taken. Stop what listens there, or name another one: "
                    "make up UI_PORT=4201"
                )
        command = [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        self.server = start(
            "prefect server",
            command,
            log=self.folder / "logs" / "prefect-server.log",
            environment=self.server_environment,
            folder=self.folder,
        )

    def wait_ready(self) -> None:
        """Returns when the API answers; raises with the end of the server's log otherwise."""
        assert self.server is not None
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if not self.server.running:
                break
            try:
                with urllib.request.urlopen(f"{self.api}/ready", timeout=2) as answer:  # noqa: S310 - loopback
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError(f"The Prefect server did not start. Its log ends:\n{self.server.tail()}")

    def start_worker(self) -> None:
        """Without --limit: a worker with one dies of a run that is resumed before its old process
        has ended ("this borrower is already holding one of this CapacityLimiter's tokens")."""
        command = [
            sys.executable,
            "-m",
            "prefect",
            "worker",
            "start",
            "--pool",
            WORK_POOL,
            "--type",
            "process",
            "--name",
            "rehearsal",
        ]
        self.worker = start(
            "prefect worker",
            command,
            log=self.folder / "logs" / "prefect-worker.log",
            environment=self.environment,
            folder=ROOT,
        )

    def check(self) -> None:
        """RuntimeError with the end of the log where the server or the worker has died."""
        for child in (self.server, self.worker):
            if child is not None and not child.running:
                raise RuntimeError(f"The {child.name} died. Its log ends:\n{child.tail()}")

    def stop(self) -> None:
        children = [child for child in (self.worker, self.server) if child is not None]
        for child in children:
            child.ask_to_end()
        for child in children:
            child.stop()
