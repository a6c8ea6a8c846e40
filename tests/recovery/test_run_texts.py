"""The texts of the run history: names, a phase's table, links, the page of figures."""

import base64
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta

import pytest

from recovery.accounts import Stage, Verdict
from recovery.incident import Phase, Tally
from recovery.run_texts import (
    SubRun,
    kpi_markdown,
    phase_rows,
    run_name,
    runs_markdown,
    wave_name,
)
from tests.recovery.test_report import report

AT = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("flow", "parameters", "name"),
    [
        ("respond", {"incident_id": "INC-2026-0142", "dry_run": True}, " (dry run)"),
        ("respond", {"incident_id": "INC-2026-0142", "dry_run": False}, ""),
        ("follow-up", {"incident_id": "INC-2026-0142"}, ""),
    ],
)
def test_run_names_say_what_they_are(flow: str, parameters: dict[str, object], name: str) -> None:
    assert run_name(flow, parameters) == f"{flow.replace('-', ' ')} INC-2026-0142{name}"
    assert wave_name(Phase.CONTAIN, "INC-2026-0142", 1) == "contain INC-2026-0142 wave 1"


def test_a_phase_has_one_row_a_wave_and_every_outcome_in_it() -> None:
    tally = Tally(
        stages={(0, Stage.CONTAINED): 10, (1, Stage.SCOPED): 3, (1, Stage.MANUAL): 2},
        verdicts={
            ("contain.account", 0, Verdict.DONE): 9,
            ("contain.account", 0, Verdict.ALREADY): 1,
            ("contain.account", 1, Verdict.REFUSED): 2,
            ("contain.account", 1, Verdict.UNKNOWN): 1,
            ("contain.account", 1, None): 2,
            ("enroll.remove", 1, Verdict.DONE): 99,
        },
    )
    canary, second = phase_rows(tally, "contain.account", [1, 0], [0])
    assert canary == {
        "wave": "0 (canary)",
        "accounts": 10,
        "done": 9,
        "already": 1,
        "refused": 0,
        "unknown": 0,
        "left to a person": 0,
        "gate": "promoted",
    }
    # Intended and not settled is not known either.
    assert (second["accounts"], second["refused"], second["unknown"]) == (5, 2, 3)
    assert (second["left to a person"], second["gate"]) == (2, "not yet")


def test_sub_runs_are_links_into_the_ui() -> None:
    runs = [
        SubRun("0a", "detect INC-2026-0142", "Completed", AT, timedelta(seconds=4)),
        SubRun("0b", "contain INC-2026-0142 wave 1", "Pending", None, timedelta(0)),
    ]
    text = runs_markdown("INC-2026-0142", runs)
    assert "| [detect INC-2026-0142](/runs/flow-run/0a) | Completed | 09:00:00 | 4 s |" in text
    assert "| [contain INC-2026-0142 wave 1](/runs/flow-run/0b) | Pending | - | 0 s |" in text


def test_the_page_of_figures_has_the_timeline_as_a_picture_and_in_characters() -> None:
    marks = [("detect.started", 0), ("detect.finished", 2), ("contain.started", 3)]
    page = kpi_markdown(report(marks=marks))
    assert re.search(r"^\d+ of \d+ targets met, \d+ missed, \d+ not yet known\.$", page, re.M)
    assert "| First containment action | **" in page
    (encoded,) = re.findall(r"!\[[^]]+\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", page)
    picture = base64.b64decode(encoded).decode()
    root = ET.fromstring(picture)
    assert float(root.attrib["width"]) > float(root.attrib["height"]) > 0
    # Every colour that the picture asks for is in it: an image can't see the page around it.
    wanted = set(re.findall(r"var\(--([a-z-]+)\)", picture))
    assert wanted <= set(re.findall(r"--([a-z-]+):", picture))
    bars = re.findall(r"^(\w+) +([·█]{24})  ", page, re.M)
    assert [phase for phase, _ in bars] == [
        *("detect", "contain", "enroll", "notify", "rotate", "validate", "retire")
    ]
