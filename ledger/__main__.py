"""For the administrator of the ledger's database: `python -m ledger grant-portal --role NAME`.

It writes SQL to standard output and opens nothing: read it, then give it to psql as the owner of
the tables.
"""

import argparse
import sys

from ledger.portal_role import statements
from recovery.errors import RecoveryError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ledger", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    grant = commands.add_parser("grant-portal", help="the portal's narrow rights, as SQL")
    grant.add_argument("--role", default="recovery_portal", help="an existing role")
    chosen = parser.parse_args()
    try:
        said = statements(chosen.role)
    except RecoveryError as error:
        print(error, file=sys.stderr)
        return 2
    print("BEGIN;")
    print(";\n".join(said), end=";\n")
    print("COMMIT;")
    return 0


if __name__ == "__main__":
    sys.exit(main())
