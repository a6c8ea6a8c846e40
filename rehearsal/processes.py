"""Child processes that can't outlive the rehearsal: own group, stopped by id, dying with us."""

import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STOP_TIMEOUT = 8.0
"""Seconds between the polite signal and the last one."""


@dataclass(frozen=True, slots=True)
class Child:
    """One started process with its group and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL to this one process, as a crash is; its children live on. Returns once it is
        gone."""
        self.process.kill()
        self.process.wait()

    def ask_to_end(self) -> None:
        """The polite signal alone, for several that may end side by side."""
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ends the whole group: politely first, then for sure. Safe to call twice."""
        self.ask_to_end()
        deadline = time.monotonic() + STOP_TIMEOUT
        while self.running and time.monotonic() < deadline:
            time.sleep(0.05)
        # The group may hold grandchildren (flow runs) after its leader is gone.
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def tail(self, lines: int = 15) -> str:
        """The end of its log, for a message that says why it died."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def start(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    folder: Path,
    user: pwd.struct_passwd | None = None,
) -> Child:
    """Starts `command` with its output in `log`. Secrets go through the environment, never argv."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        )
    return Child(name, process, log)


def _die_with_parent() -> None:
    """Linux: the kernel ends the child when we are gone, however we went (PR_SET_PDEATHSIG)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def processes_with(variable: str, value: str) -> list[int]:
    """Process ids that were started with this in their environment."""
    wanted = f"{variable}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def memory_of_groups(groups: Sequence[int]) -> int:
    """Resident memory in bytes, shared pages counted once per sharer (PSS), of process groups."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.getpgid(int(entry.name)) not in groups:
                continue
            rollup = (entry / "smaps_rollup").read_text()
        except (OSError, ValueError):
            continue
        for line in rollup.splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total
