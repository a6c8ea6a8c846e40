"""`python -m ledger approvals FILE`: who requested, who approved which plan, when, and what was
done under it, from an exported audit log (`audit.jsonl`) alone, after proving its entries.

`python -m ledger grant-portal --role NAME` writes SQL for the portal's narrow database role to
standard output and opens nothing: read it, then give it to psql as the owner of the tables.
"""

import argparse
import sys
from pathlib import Path

from ledger.portal_role import statements
from recovery.approval_history import history, render
from recovery.audit import from_line, verify_extract
from recovery.errors import RecoveryError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ledger", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    approvals = commands.add_parser("approvals", help="who approved what, out of an export")
    approvals.add_argument("file", type=Path, help="audit.jsonl beside the report")
    grant = commands.add_parser("grant-portal", help="the portal's narrow rights, as SQL")
    grant.add_argument("--role", default="recovery_portal", help="an existing role")
    chosen = parser.parse_args()
    return _approvals(chosen.file) if chosen.command == "approvals" else _grant(chosen.role)


def _approvals(file: Path) -> int:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        entries = [from_line(line) for line in lines]
        count = verify_extract(entries)
        print(render(history(entries)))
    except (OSError, ValueError, RecoveryError) as error:
        print(f"{file}: {error}", file=sys.stderr)
        return 1
    print(f"{count} entries, each whole and in order.")
    return 0


def _grant(role: str) -> int:
    try:
        said = statements(role)
    except RecoveryError as error:
        print(error, file=sys.stderr)
        return 2
    print("BEGIN;")
    print(";\n".join(said), end=";\n")
    print("COMMIT;")
    return 0


if __name__ == "__main__":
    sys.exit(main())
