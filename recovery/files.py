"""Files about an incident: whole or not at all, readable by their owner alone."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO


def replace_private(path: Path, write: Callable[[IO[str]], None]) -> None:
    """Writes beside the file and renames: readers see the old file or the new one, whole. The
    temporary file is created for its owner alone."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_private(path: Path, text: str) -> None:
    """`replace_private` for a text that is there already."""

    def write(file: IO[str]) -> None:
        file.write(text)

    replace_private(path, write)
