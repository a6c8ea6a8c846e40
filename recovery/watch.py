"""Whether the detector has to look closely now, and what is told of a burst it finds.

A burst is told once: it is known by where it lies, since its ends still move while it grows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from recovery.detect_burst import Bucket, Burst
from recovery.incident import Incident
from recovery.own_resets import OwnResets, Span
from recovery.policy import RecoveryPolicy


@dataclass(frozen=True, slots=True)
class Glance:
    """The resets of the last minutes, and whether they are reason enough to read the baseline."""

    resets: int
    closer: bool


class Told(BaseModel):
    """A burst that was told, as it is kept between two runs."""

    model_config = ConfigDict(frozen=True)

    start: datetime
    end: datetime
    incident_id: str


def glance(recent: Sequence[Bucket], policy: RecoveryPolicy, *, now: datetime) -> Glance:
    """Fewer resets than the floor can't be a burst, unless it drips for hours: for that it looks
    closely every `full_look`, counted from midnight UTC."""
    resets = sum(bucket.count for bucket in recent)
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    turn = (now - midnight) % policy.watch.full_look < timedelta(minutes=1)
    return Glance(resets, closer=turn or resets >= policy.detect.floor)


def known_spans(incidents: Sequence[Incident], own: OwnResets) -> list[Span]:
    """Where a burst is no news: in an incident's window, and where it may be our own resets."""
    return [(i.window_start, i.window_end) for i in incidents] + list(own.unnamed)


def suggested_incident(start: datetime) -> str:
    """An id that the same burst gets again: INC-2026-11240926 began on 24 November at 09:26 UTC."""
    at = start.astimezone(UTC)
    return f"INC-{at:%Y}-{at:%m%d%H%M}"


def same_burst(burst: Burst, told: Told, policy: RecoveryPolicy) -> bool:
    """True where they overlap, or less than the guard lies between them."""
    gap = policy.detect.guard
    return burst.start < told.end + gap and told.start - gap < burst.end


def remembered(burst: Burst, told: Told | None) -> Told:
    """What to keep: a burst that goes on keeps its first beginning and its incident's id."""
    if told is None:
        return Told(start=burst.start, end=burst.end, incident_id=suggested_incident(burst.start))
    return Told(
        start=min(told.start, burst.start),
        end=max(told.end, burst.end),
        incident_id=told.incident_id,
    )


def burst_payload(burst: Burst, told: Told, runbook: str) -> Mapping[str, str | int | float | bool]:
    """The event's payload: times and counts, nobody's name."""
    return {
        "incident_id": told.incident_id,
        "runbook": runbook,
        "window_start": burst.start.isoformat(),
        "window_end": burst.end.isoformat(),
        "ongoing": burst.ongoing,
        "resets": burst.events,
        "above_expectation": burst.blast_radius,
        "peak_in_a_bucket": burst.peak.count,
        "confidence": round(burst.confidence, 6),
    }
