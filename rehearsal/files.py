"""Small JSON files of a rehearsal, readable by their owner alone."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


def write_private(path: Path, document: Mapping[str, object]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
