"""The time of the ledger and the portal: the wall clock, moved ahead in rehearsals by a file."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path


class OffsetClock:
    """Aware UTC time plus the seconds written in a file, read again whenever the file changed.

    A missing file is no offset. Raises ValueError where the file holds no number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._offset = timedelta(0)

    def __call__(self) -> datetime:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return datetime.now(UTC) + self._offset
        # The inode too: file times are coarse, and a replaced file may have the same size.
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._offset = timedelta(seconds=float(self._path.read_text(encoding="ascii")))
            self._seen = seen
        return datetime.now(UTC) + self._offset


def wall_clock() -> datetime:
    return datetime.now(UTC)
