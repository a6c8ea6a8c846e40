"""Several processes on one listening socket, watched over: what dies is started again, a hang-up
replaces them one by one, and the end waits for what is under way.

Workers are processes of their own (not forks): a fork would share connections and locks.
"""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from portal.metrics import MULTIPROCESS, serve_metrics

EXIT_MISCONFIGURED = 2
_LOOK_SECONDS = 0.1
_START_SECONDS = 30.0
_END_SECONDS = 30.0
_TOO_MANY_DEATHS = 10
_WITHIN_SECONDS = 60.0
_LONGEST_PAUSE = 5.0

log = logging.getLogger("portal")


@dataclass(frozen=True, slots=True)
class Worker:
    process: subprocess.Popen[bytes]
    ready: int
    """A pipe's end: one byte comes once it serves, nothing if it never will."""


class Workers:
    """`arguments` start one worker; it inherits the socket by its number. `metrics` is where the
    figures of all of them are served, or None."""

    def __init__(
        self,
        arguments: Sequence[str],
        count: int,
        listening: socket.socket,
        metrics: tuple[str, int] | None,
    ) -> None:
        self._arguments = list(arguments)
        self._count = count
        self._listening = listening
        self._metrics = metrics
        self._ending = threading.Event()
        self._replace = threading.Event()
        self._deaths: deque[float] = deque(maxlen=_TOO_MANY_DEATHS)
        self._workers: list[Worker] = []
        self._buried: set[int] = set()

    def run(self) -> int:
        """Returns the exit status when told to end by SIGTERM or SIGINT, or when no worker can be
        kept alive. SIGHUP replaces the workers, which read the configuration anew."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_end)
        signal.signal(signal.SIGHUP, self._told_to_replace)
        with tempfile.TemporaryDirectory(prefix="portal-metrics-") as folder:
            environment = {**os.environ, MULTIPROCESS: folder}
            if self._metrics is not None:
                host, port = self._metrics
                port = serve_metrics(host, port, folder=Path(folder), own=None)
                print(f"metrics on port {port}", flush=True)
            try:
                return self._watch(environment, folder)
            finally:
                self._end_all(folder)

    def _told_to_end(self, number: int, frame: FrameType | None) -> None:
        self._ending.set()

    def _told_to_replace(self, number: int, frame: FrameType | None) -> None:
        self._replace.set()

    def _watch(self, environment: Mapping[str, str], folder: str) -> int:
        self._workers = [self._start(environment) for _ in range(self._count)]
        while not self._ending.wait(_LOOK_SECONDS):
            if self._replace.is_set():
                self._replace.clear()
                self._replace_all(environment, folder)
            for place, worker in enumerate(self._workers):
                status = worker.process.poll()
                if status is None:
                    continue
                self._bury(worker, folder)
                if status == EXIT_MISCONFIGURED:
                    # It said what is wrong, and so would every one after it.
                    return status
                log.error("worker %s ended with status %s", worker.process.pid, status)
                if not self._may_start_again():
                    log.error("%s workers died within a minute: giving up", _TOO_MANY_DEATHS)
                    return 1
                self._workers[place] = self._start(environment)
        return 0

    def _may_start_again(self) -> bool:
        now = time.monotonic()
        self._deaths.append(now)
        recent = sum(now - death < _WITHIN_SECONDS for death in self._deaths)
        if recent >= _TOO_MANY_DEATHS:
            return False
        self._ending.wait(min(_LONGEST_PAUSE, 0.1 * 2 ** (recent - 1)) if recent > 1 else 0)
        return True

    def _start(self, environment: Mapping[str, str]) -> Worker:
        ready, told = os.pipe()
        fd = self._listening.fileno()
        command = [sys.executable, "-m", "portal", *self._arguments]
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [*command, "--fd", str(fd), "--ready-fd", str(told), "--parent", str(os.getpid())],
                env=dict(environment),
                pass_fds=(fd, told),
                stdin=subprocess.DEVNULL,
            )
        finally:
            os.close(told)
        return Worker(process, ready)

    def _replace_all(self, environment: Mapping[str, str], folder: str) -> None:
        """The new one serves before the old one is told to go."""
        for place, old in enumerate(self._workers):
            new = self._start(environment)
            if not _serves(new):
                log.error("a new worker did not start: the old ones stay")
                self._end(new, folder)
                return
            self._workers[place] = new
            self._end(old, folder)
        log.info("%s workers replaced", self._count)

    def _end_all(self, folder: str) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            self._end(worker, folder)

    def _end(self, worker: Worker, folder: str) -> None:
        worker.process.terminate()
        try:
            worker.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            log.error("worker %s did not end and is killed", worker.process.pid)
            worker.process.kill()
            worker.process.wait()
        self._bury(worker, folder)

    def _bury(self, worker: Worker, folder: str) -> None:
        if worker.process.pid in self._buried:
            return
        self._buried.add(worker.process.pid)
        os.close(worker.ready)
        mark_process_dead(worker.process.pid, path=folder)  # type: ignore[no-untyped-call]


def end_with_parent(parent: int) -> None:
    """Linux: a worker is told to end when its supervisor is gone, however it went."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:
        # It went before the kernel knew that we want to be told.
        raise SystemExit(0)


def _serves(worker: Worker) -> bool:
    """Waits for the byte, for the worker's death, or for its time to be up."""
    os.set_blocking(worker.ready, False)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and worker.process.poll() is None:
        try:
            if os.read(worker.ready, 1):
                return True
        except BlockingIOError:
            pass
        time.sleep(_LOOK_SECONDS / 2)
    return False
