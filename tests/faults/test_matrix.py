"""The fault matrix: every call of every phase under every fault, against the table in docs.

`FAULTS_WRITE=1 pytest tests/faults` writes the table anew; read the change before you commit it.
"""

import asyncio
import os
import re
import time
from pathlib import Path

import pytest

from recovery.errors import RecoveryError
from tests.faults.faulty import FAULTS, address
from tests.faults.operations import CANARIES, OPERATIONS, Operation

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "faults.md"
BEGIN, END = "<!-- the matrix -->\n", "<!-- end of the matrix -->\n"
AT_ONCE = 24
LONGEST = 30.0
"""Seconds that one cell may take on a busy machine: attempts of at most three seconds."""
UNCERTAIN = {"hang", "slow drip", "torn after the request", "500", "503", "cut body"}
ACTS = {
    "send",
    "post a banner",
    "create a secret",
    "force a reset",
    "revoke sessions",
    "remove authenticators",
    "restart a consumer",
    "deactivate a secret",
    "delete a secret",
    "write by check-and-set",
}


async def outcome(operation: Operation, fault: str, folder: Path) -> str:
    """One cell: the error's name, or what came back as if nothing had been wrong."""
    began = time.monotonic()
    async with address(fault, folder) as url:
        try:
            said = f"= {await operation.call(url)}"
        except RecoveryError as error:
            said = checked(error, f"{operation.title} under {fault}")
        except Exception as error:
            said = f"TRACEBACK {type(error).__name__}"
    if fault == "huge body" and said in ("incomplete", "unknown"):
        # Its end by size or, on a busy machine, by time.
        said = "incomplete or unknown"
    return said if time.monotonic() - began < LONGEST else f"{said} TOO LATE"


def checked(error: RecoveryError, where: str) -> str:
    """The error's name, once it tells the operator what he needs and nothing else."""
    told = f"{error} {error!r}"
    leaked = [canary for canary in CANARIES if canary in told]
    assert not leaked, f"{where} tells {leaked}"
    assert error.__cause__ is None, f"{where}: a cause would show what was sent"
    assert error.attempted, f"{where}: no word on what was attempted"
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    folder = tmp_path_factory.mktemp("faults")

    async def everything() -> dict[tuple[str, str], str]:
        # Libraries that import on their first use would stop the clock of the others.
        for operation in OPERATIONS:
            await outcome(operation, "refused connection", folder)
        room = asyncio.Semaphore(AT_ONCE)
        found: dict[tuple[str, str], str] = {}

        async def cell(operation: Operation, fault: str) -> None:
            async with room:
                found[operation.title, fault] = await outcome(operation, fault, folder)

        async with asyncio.TaskGroup() as group:
            for operation in OPERATIONS:
                for fault in FAULTS:
                    group.create_task(cell(operation, fault))
        return found

    return asyncio.run(everything())


def test_every_cell_is_as_the_page_says(matrix: dict[tuple[str, str], str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if os.environ.get("FAULTS_WRITE"):
        PAGE.write_text(before + BEGIN + drawn(matrix) + END + after, encoding="utf-8")
        return
    assert rest.partition(END)[0] == drawn(matrix)


def test_what_may_have_been_done_is_never_called_certain(
    matrix: dict[tuple[str, str], str],
) -> None:
    """An act whose answer was lost is unknown, whatever else is said of the fault."""
    for operation in OPERATIONS:
        for fault in UNCERTAIN:
            sealed = operation.system == "Vault" and fault == "503"
            if operation.name in ACTS and not sealed:
                assert matrix[operation.title, fault] == "unknown", (operation.title, fault)


def test_what_certainly_was_not_done_is_never_called_unknown(
    matrix: dict[tuple[str, str], str],
) -> None:
    for operation in OPERATIONS:
        for fault in ("refused connection", "DNS failure"):
            said = matrix[operation.title, fault]
            assert said in ("unreachable", "= False"), (operation.title, fault, said)


STATUS_ALONE = {
    "force a reset",
    "revoke a token",
    "deactivate a secret",
    "try a password",
    "try a token",
}
"""Calls whose answer is the status: RFC 7009 has the client ignore the body."""


def test_no_fault_passes_for_an_answer(matrix: dict[tuple[str, str], str]) -> None:
    """What comes back as a value is only what the status itself says."""
    for operation in OPERATIONS:
        for fault in FAULTS:
            said = matrix[operation.title, fault]
            if not said.startswith("="):
                continue
            told = fault in ("400", "401", "403", "404", "409")
            unhealthy = operation.name == "ask for its health" and said == "= False"
            bodiless = operation.name in STATUS_ALONE and fault.endswith(" JSON")
            assert told or unhealthy or bodiless, (operation.title, fault, said)


def test_no_cell_is_a_traceback_or_comes_too_late(matrix: dict[tuple[str, str], str]) -> None:
    assert not {c: said for c, said in matrix.items() if "TRACEBACK" in said or "TOO LATE" in said}


def drawn(matrix: dict[tuple[str, str], str]) -> str:
    lines = ["| call | " + " | ".join(FAULTS) + " |", "|---" * (len(FAULTS) + 1) + "|"]
    for operation in OPERATIONS:
        cells = [matrix[operation.title, fault] for fault in FAULTS]
        lines.append(f"| {operation.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
