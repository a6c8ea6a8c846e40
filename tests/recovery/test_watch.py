"""When the detector looks closely, and that one burst is told once."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recovery.detect import Bucket, Burst
from recovery.incident import Incident
from recovery.own_resets import SKEW, OwnResets
from recovery.policy import load_policy
from recovery.watch import (
    burst_payload,
    glance,
    known_spans,
    remembered,
    same_burst,
    suggested_incident,
)

POLICY, _ = load_policy(
    Path(__file__).parent.parent.parent / "runbooks" / "mass-password-reset.yaml"
)
AT = datetime(2026, 11, 24, 9, 26, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BURST = Burst(
    start=AT,
    end=AT + 10 * MINUTE,
    peak=Bucket(AT + 2 * MINUTE, 70),
    expected_per_bucket=0.2,
    events=338,
    blast_radius=336,
    confidence=0.99999999,
    z=80.0,
    method="Poisson tail",
    ongoing=True,
)


@pytest.mark.parametrize(
    ("resets", "now", "closer"),
    [
        (9, AT, False),
        (10, AT, True),
        (0, AT.replace(minute=30), True),  # the turn of every quarter of an hour, for drips
        (0, AT.replace(minute=31), False),
        (0, AT.replace(hour=0, minute=0), True),
    ],
)
def test_few_resets_need_no_baseline(resets: int, now: datetime, closer: bool) -> None:
    seen = glance([Bucket(now - MINUTE, resets)], POLICY, now=now)
    assert (seen.resets, seen.closer) == (resets, closer)


def test_the_suggested_id_is_a_valid_one_and_stays() -> None:
    assert suggested_incident(AT) == "INC-2026-11240926"
    assert suggested_incident(AT.astimezone(tz=None)) == "INC-2026-11240926"
    assert re.fullmatch(r"INC-[0-9]{4}-[0-9]{4,8}", suggested_incident(AT))


def test_a_burst_that_grows_is_the_same_one_with_the_same_id() -> None:
    told = remembered(BURST, None)
    grown = replace(BURST, start=AT - MINUTE, end=AT + 40 * MINUTE)
    assert same_burst(grown, told, POLICY)
    kept = remembered(grown, told)
    assert kept.incident_id == told.incident_id == "INC-2026-11240926"
    assert (kept.start, kept.end) == (grown.start, grown.end)
    # What it was told to be never shrinks, whatever a later look makes of its edges.
    assert remembered(BURST, kept) == kept


def test_a_burst_beyond_the_guard_is_another_one() -> None:
    told = remembered(BURST, None)
    later = told.end + POLICY.detect.guard
    assert not same_burst(replace(BURST, start=later, end=later + MINUTE), told, POLICY)
    assert same_burst(replace(BURST, start=later - MINUTE, end=later), told, POLICY)
    earlier = told.start - POLICY.detect.guard
    assert not same_burst(replace(BURST, start=AT - 9 * 60 * MINUTE, end=earlier), told, POLICY)


def test_the_payload_has_times_and_counts_and_nobody() -> None:
    payload = burst_payload(BURST, remembered(BURST, None), "rehearsal")
    assert payload["window_start"] == "2026-11-24T09:26:30+00:00"
    assert payload["window_end"] == "2026-11-24T09:36:30+00:00"
    assert payload["resets"] == 338
    assert payload["incident_id"] == "INC-2026-11240926"
    assert set(payload) == {
        *("incident_id", "runbook", "window_start", "window_end", "ongoing"),
        *("resets", "above_expectation", "peak_in_a_bucket", "confidence"),
    }


def test_no_news_inside_an_incident_or_where_we_may_have_reset() -> None:
    incident = Incident("INC-2026-0142", AT, AT - MINUTE, AT, "", "", "oscar")
    contained = ((AT + MINUTE, AT + 5 * MINUTE),)
    unnamed, named = OwnResets((), contained), OwnResets(("u-svc",), contained)
    assert known_spans([incident], unnamed) == [(AT - MINUTE, AT), *contained]
    assert known_spans([incident], named) == [(AT - MINUTE, AT)]
    # Whom the SIEM can name is left out by the search, with room for the clocks' difference.
    assert named.spans == ((AT + MINUTE - SKEW, AT + 5 * MINUTE + SKEW),)
    assert unnamed.spans == ()
