"""What the public learns of an incident: approved sentences, coarse steps, times by the hour.

No counts, no cause, no step that tells an attacker what is still open: a step is shown once it is
over, and which secrets are rotated when is never shown (playbook, Notify).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from recovery.incident import Mark

COARSE = timedelta(hours=1)


class PublicStep(StrEnum):
    """In the order in which they happen."""

    PROTECTED = "protected"
    WRITING = "writing"
    WRITTEN = "written"
    CHECKED = "checked"
    CLOSED = "closed"


MARKS: Mapping[str, PublicStep] = {
    "contain.finished": PublicStep.PROTECTED,
    "notify.started": PublicStep.WRITING,
    "notify.finished": PublicStep.WRITTEN,
    "validate.finished": PublicStep.CHECKED,
}


@dataclass(frozen=True, slots=True)
class StatusText:
    """One language's approved words. `steps` has a sentence for every PublicStep."""

    title: str
    body: str
    steps: Mapping[PublicStep, str]


@dataclass(frozen=True, slots=True)
class PublicStatus:
    """One incident as everybody may see it; `texts` by language, the newest step last."""

    incident_id: str
    published_at: datetime
    texts: Mapping[str, StatusText]
    steps: tuple[tuple[PublicStep, datetime], ...]

    @property
    def changed_at(self) -> datetime:
        """The hour of the newest step, and never before that of the publication."""
        return max([coarse(self.published_at), *(at for _, at in self.steps)])

    @property
    def closed(self) -> bool:
        return any(step is PublicStep.CLOSED for step, _ in self.steps)


def coarse(at: datetime) -> datetime:
    """The hour it falls in: who watches the page cannot tell when exactly we did something."""
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def public_steps(
    marks: Iterable[Mark], closed_at: datetime | None
) -> tuple[tuple[PublicStep, datetime], ...]:
    """What has happened, in order."""
    found = {MARKS[mark.name]: coarse(mark.at) for mark in marks if mark.name in MARKS}
    if closed_at is not None:
        found[PublicStep.CLOSED] = coarse(closed_at)
    return tuple((step, found[step]) for step in PublicStep if step in found)
