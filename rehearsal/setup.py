"""Fills Prefect as an operator would: block documents from standard input, then `flows.setup`.

Standard input is a JSON list of {"kind": class in blocks, "name": …, "values": {…}}.
"""

import argparse
import asyncio
import json
import sys
from typing import Any

import blocks
from flows.setup import set_up
from recovery.policy import load_policy
from tasks.case import ROOT


async def fill(documents: list[dict[str, Any]], runbook: str) -> None:
    for document in documents:
        block = getattr(blocks, document["kind"])(**document["values"])
        await block.save(document["name"], overwrite=True)
    policy, _ = load_policy(ROOT / "runbooks" / f"{runbook}.yaml")
    await set_up(policy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runbook", required=True)
    chosen = parser.parse_args()
    asyncio.run(fill(json.load(sys.stdin), chosen.runbook))


if __name__ == "__main__":
    main()
