"""`python -m clients.exported_log FILE`: an exported audit log, proven without the ledger.

Needs the export, the folder of checkpoints and the public keys that `verify-audit` writes beside
the export; no database, no secret.
"""

import argparse
import base64
import sys
from collections.abc import Iterator
from pathlib import Path

from clients.checkpoint_folder import read_folder
from recovery.audit import Link, Tampered, from_line, link_in
from recovery.checkpoint import hold_against, opened
from recovery.errors import RecoveryError


def links_in(path: Path) -> Iterator[Link]:
    """The entries of an export in their order. Raises Tampered for a line that is none."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield link_in(from_line(line.decode()))
            except (ValueError, RecursionError):
                raise Tampered(number, "its line is not one of an export") from None


def verify(export: Path, checkpoints: Path, keys: Path) -> str:
    """One sentence that says what is proven; raises Tampered or Unverified."""
    public = [base64.b64decode(line) for line in keys.read_text(encoding="ascii").split()]
    kept = read_folder(checkpoints)
    marks = [opened(note, public) for note in kept.notes]
    head = hold_against(links_in(export), marks, kept.leaves)
    covered = max((mark.size for mark in marks), default=0)
    return f"{head.seq} entries hold against {len(marks)} checkpoints; {covered} are covered."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m clients.exported_log", description=__doc__)
    parser.add_argument("export", type=Path, help="audit.jsonl, the whole log")
    parser.add_argument("--checkpoints", type=Path, required=True, help="the folder of notes")
    parser.add_argument("--keys", type=Path, required=True, help="checkpoint-keys.txt")
    chosen = parser.parse_args()
    try:
        print(verify(chosen.export, chosen.checkpoints, chosen.keys))
    except Tampered as tampered:
        print(f"The first bad entry is {tampered.seq}. {tampered}", file=sys.stderr)
        return 1
    except (RecoveryError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
