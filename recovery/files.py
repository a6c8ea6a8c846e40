"""Files that appear whole or not at all; those about an incident are their owner's alone."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO


def replace_private(path: Path, write: Callable[[IO[str]], None]) -> None:
    """`replace_whole` for a file that only its owner may read, also while it is written."""
    replace_whole(path, write, mode=0o600)


def replace_whole(path: Path, write: Callable[[IO[str]], None], *, mode: int) -> None:
    """Writes beside the file and renames: readers see the old file or the new one, whole. Until
    then it is its owner's alone, whatever `mode` it gets at the end."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
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
