"""Cancel in the UI without doubt left behind: SIGTERM pulls the brake, and Prefect gets the signal
once what was under way has settled (it sends SIGKILL 30 seconds later)."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tasks import brake

CANCELLED = "Prefect ended this run: Cancel, or its worker stopped"


@contextmanager
def settling() -> Iterator[None]:
    """Inside, SIGTERM lets begun acts finish and begins no more; at the end it is passed on.

    Prefect's own handler raises in the middle of whatever runs, which tears requests apart. May be
    nested; the outermost one hands the signal to Prefect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def pull(number: int, frame: FrameType | None) -> None:
        brake.pull(CANCELLED)
        pulls.append(number)

    pulls: list[int] = []
    signal.signal(signal.SIGTERM, pull)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if pulls:
            signal.raise_signal(signal.SIGTERM)
