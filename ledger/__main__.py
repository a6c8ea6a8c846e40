"""`python -m ledger approvals FILE`: who requested, who approved which plan, when, and what was
done under it, from an exported audit log (`audit.jsonl`) alone, after proving its entries."""

import argparse
import sys
from pathlib import Path

from recovery.approval_history import history, render
from recovery.audit import from_line, verify_extract
from recovery.errors import RecoveryError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ledger", description=__doc__)
    parser.add_argument("what", choices=["approvals"])
    parser.add_argument("file", type=Path, help="audit.jsonl beside the report")
    chosen = parser.parse_args()
    try:
        lines = chosen.file.read_text(encoding="utf-8").splitlines()
        entries = [from_line(line) for line in lines]
        count = verify_extract(entries)
        print(render(history(entries)))
    except (OSError, ValueError, RecoveryError) as error:
        print(f"{chosen.file}: {error}", file=sys.stderr)
        return 1
    print(f"{count} entries, each whole and in order.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
