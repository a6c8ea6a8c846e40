"""The world's time: the wall clock plus an offset that several processes share through a file.

Waiting a day for somebody to read his mail is what `advance` is for.
"""

import fcntl
import os
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

_Signature = tuple[int, int, int]


class WorldClock:
    """Aware UTC time that only moves forward.

    With a path the offset lives there as one float in text, replaced atomically; every process
    that opens the same path reads the same time. Without a path the offset is this object's own.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._offset_seconds = 0.0
        self._seen: _Signature | None = None

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def timestamp(self) -> float:
        """Seconds since the epoch, in the world's time."""
        return self.now().timestamp()

    @property
    def offset(self) -> timedelta:
        """How far the world is ahead of the wall clock."""
        if self._path is not None:
            self._refresh(self._path)
        return timedelta(seconds=self._offset_seconds)

    def advance(self, by: timedelta) -> datetime:
        """Moves the world forward for every process; returns the new time.

        Two processes that advance at once add up. ValueError for going back: tokens that
        expired would come to life again.
        """
        if by < timedelta(0):
            raise ValueError(f"the world's time only moves forward, not by {by}")
        if self._path is None:
            self._offset_seconds += by.total_seconds()
            return self.now()
        lock_path = self._path.with_name(self._path.name + ".lock")
        with lock_path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._refresh(self._path)
            self._replace(self._path, self._offset_seconds + by.total_seconds())
            self._refresh(self._path)
        return self.now()

    def _refresh(self, path: Path) -> None:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return
        # The inode too: file times are coarse, and each write is a new file of the same size.
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._offset_seconds = float(path.read_text(encoding="ascii"))
            self._seen = seen

    @staticmethod
    def _replace(path: Path, offset_seconds: float) -> None:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(repr(offset_seconds))
            os.replace(name, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise
