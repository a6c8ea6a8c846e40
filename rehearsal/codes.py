"""`python -m rehearsal.codes NAME`: the one-time code that approver NAME's phone shows now.

For a world started by `make up`; the keys are in its folder, readable by you alone.
"""

import json
import sys
import time
from pathlib import Path

import pyotp

KEYS = Path(__file__).resolve().parent.parent / "var" / "up" / "approvers.json"


def main() -> int:
    try:
        keys: dict[str, str] = json.loads(KEYS.read_text())
    except OSError:
        print("Nothing is up. Start it with: make up")
        return 1
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in keys:
        print(f"Name one of: {', '.join(keys)}")
        return 1
    totp = pyotp.parse_uri(keys[name])
    assert isinstance(totp, pyotp.TOTP)
    print(f"{totp.now()}  (for {30 - int(time.time()) % 30} more seconds)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
