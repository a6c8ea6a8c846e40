"""`python -m flows.signing_key`: changes the key that signs enrollment links, without a gap.

Writes the new key to the secrets store by check-and-set, its public half to the file that the
portal reads, and lets it sign when the portal serves it. Started again, it finishes what it began.
"""

import argparse
import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from blocks.base import SecretsBlock
from blocks.portal import EnrollmentPortal
from clients.http import Wire
from recovery.errors import RecoveryError
from recovery.files import replace_whole
from recovery.keyring import KEPT
from recovery.policy import load_policy
from tasks.case import ROOT, load_block
from tasks.signing_key import CACHED, KeyChange


def publish_to(path: Path, document: dict[str, Any]) -> None:
    """Replaces the file in one step; everybody may read it, there is nothing secret in it."""
    replace_whole(path, lambda file: json.dump(document, file, indent=2), mode=0o644)


async def change(chosen: argparse.Namespace) -> None:
    policy, _ = load_policy(ROOT / "runbooks" / f"{chosen.runbook}.yaml")
    portal = await load_block(policy.systems.portal, EnrollmentPortal)
    store = await load_block(
        chosen.secrets or policy.systems.secrets,
        SecretsBlock,  # type: ignore[type-abstract]
    )
    async with store.get_client() as vault, Wire("the portal", portal.address) as wire:
        work = KeyChange(
            vault=vault,
            path=portal.signing_key_path,
            portal=wire,
            publish=lambda document: publish_to(chosen.jwks, document),
            clock=lambda: datetime.now(UTC),
            say=print,
            cached=timedelta(seconds=chosen.wait),
        )
        if chosen.publish_only:
            ring = await work.show()
            print(f"published; {ring.current.kid} signs")
        else:
            await work.run(kept=timedelta(0) if chosen.stolen else KEPT)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.signing_key", description=__doc__)
    parser.add_argument("--jwks", type=Path, required=True, help="the portal's jwks_file")
    parser.add_argument("--runbook", default="mass-password-reset", help="names the blocks")
    parser.add_argument("--secrets", help="another secrets block, such as vault-secrets/keys")
    parser.add_argument(
        "--wait",
        type=float,
        default=CACHED.total_seconds() + 30,
        help="seconds between the portal serving the key and its first signature",
    )
    parser.add_argument("--publish-only", action="store_true", help="write the file again")
    parser.add_argument(
        "--stolen",
        action="store_true",
        help="the old key is accepted no longer: every open link dies",
    )
    try:
        asyncio.run(change(parser.parse_args()))
    except (RecoveryError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
