"""A person's path through the real Prefect UI in a real browser: form, gate, wrong code, right
code, completed. The short form of `python -m rehearsal.ui`: few accounts, one gate that asks.
"""

import copy
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from rehearsal.drive import INCIDENT
from rehearsal.ui import CHROMIUM, REFUSED, Walked, walk
from tests.flows.rehearsed import Rehearsed, rehearse

pytestmark = [
    pytest.mark.long,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def walked(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Rehearsed, Walked]]:
    folder = tmp_path_factory.mktemp("ui")
    async with rehearse(folder, accounts=20, seed=4, change=one_gate) as running:
        yield running, await walk(running.stage, None, lambda _: None)


def one_gate(document: dict[str, object]) -> None:
    """Only the containment asks; the others were tried a hundred times by REST."""
    never = {"required": False}
    document["approvals"] = {"notify": copy.copy(never), "retire": copy.copy(never)}


async def test_the_run_is_completed_through_the_browser_alone(
    walked: tuple[Rehearsed, Walked],
) -> None:
    _, seen = walked
    assert seen.run.type == "COMPLETED", seen.run.message
    assert seen.run.name == f"respond {INCIDENT}"
    assert set(seen.gates) == {"contain"}
    assert len(seen.gates) >= 2


async def test_a_wrong_code_is_told_in_the_next_form(walked: tuple[Rehearsed, Walked]) -> None:
    running, seen = walked
    assert REFUSED not in seen.first_form
    assert "Contain" in seen.first_form
    assert f"{REFUSED}:" in seen.refused_form
    first, *later = running.ledger.approvals(INCIDENT, "contain")
    assert first.refusal
    assert not any(attempt.refusal for attempt in later)


async def test_the_page_of_figures_is_drawn_by_the_ui(walked: tuple[Rehearsed, Walked]) -> None:
    _, seen = walked
    assert "targets met" in seen.figures
    (width,) = seen.widths
    assert width > 500
