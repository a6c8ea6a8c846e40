"""Who is affected: the sightings inside the burst joined with the platform's roster.

Ranks (and says why), excludes what is never touched, and quarantines what can't be used; nothing
is dropped: sightings = accounts + those that the roster does not know. `find_burst` and its
pictures come from here too.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recovery.accounts import (
    Affected,
    Priority,
    PriorityReason,
    Quarantined,
    RosterEntry,
    Sighting,
)
from recovery.contacts import Checked, check_email, check_handle, check_phone
from recovery.detect_burst import Bucket, Burst, find_burst
from recovery.detect_svg import burst_markdown, burst_svg, sparkline
from recovery.policy import ExclusionPolicy, PriorityPolicy, RecoveryPolicy

__all__ = [
    "Bucket",
    "Burst",
    "Scoped",
    "affected",
    "burst_markdown",
    "burst_svg",
    "find_burst",
    "priority_reasons",
    "sparkline",
]

DEFAULT_LOCALE = "en"
_LOCALE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8}){0,3}")

UNROSTERED = "account_id"
"""The field of a quarantine row that stands for a whole account, not for one of its contacts."""


@dataclass(frozen=True, slots=True)
class Scoped:
    """Everybody that was sighted. `quarantined` holds unknown accounts and unusable contacts."""

    accounts: list[Affected]
    quarantined: list[Quarantined]

    @property
    def unrostered(self) -> int:
        return sum(q.field == UNROSTERED for q in self.quarantined)


def affected(
    sightings: Sequence[Sighting],
    roster: Mapping[str, RosterEntry],
    policy: RecoveryPolicy,
    *,
    source: str,
) -> Scoped:
    """One account per sighting, in the same order. An account with a malformed contact stays in
    scope without it: it must be contained all the same.

    `source` names the roster in quarantine rows; their row is the place in `sightings`, from 1.
    Account ids are expected once each, as the ledger holds them.
    """
    scoped = Scoped([], [])
    for row, sighting in enumerate(sightings, start=1):
        entry = roster.get(sighting.account_id)
        if entry is None:
            reason = "sighted, but the roster does not know it"
            scoped.quarantined.append(
                Quarantined(source, row, UNROSTERED, reason, sighting.account_id)
            )
            continue
        checks = {
            "handle": check_handle(entry.handle),
            "email": check_email(entry.email),
            "phone": check_phone(entry.phone),
        }
        scoped.quarantined.extend(_complaints(checks, source, row, entry.account_id))
        reasons = priority_reasons(entry, policy.priority)
        scoped.accounts.append(
            Affected(
                account_id=entry.account_id,
                handle=checks["handle"].value or "",
                email=checks["email"].value,
                phone=checks["phone"].value,
                last_active=entry.last_active,
                linked_apps=entry.linked_apps,
                locale=entry.locale if _LOCALE.fullmatch(entry.locale) else DEFAULT_LOCALE,
                priority=Priority.HIGH if reasons else Priority.NORMAL,
                reasons=reasons,
                first_seen=sighting.first_seen,
                last_seen=sighting.last_seen,
                resets=sighting.resets,
                excluded=exclusion(entry, policy.exclusions),
            )
        )
    return scoped


def _complaints(
    checks: Mapping[str, Checked], source: str, row: int, account_id: str
) -> list[Quarantined]:
    return [
        Quarantined(source, row, name, checked.reason, account_id)
        for name, checked in checks.items()
        if checked.reason
    ]


def priority_reasons(entry: RosterEntry, policy: PriorityPolicy) -> tuple[PriorityReason, ...]:
    """Why this account goes first, all that apply; empty for an ordinary one."""
    applies = {
        PriorityReason.BRAND: entry.brand_account or entry.role == "brand",
        PriorityReason.ADMIN: entry.role == "admin",
        PriorityReason.FOLLOWERS: entry.followers >= policy.followers,
        PriorityReason.BILLING: entry.billing_linked,
    }
    return tuple(reason for reason, holds in applies.items() if holds)


def exclusion(entry: RosterEntry, policy: ExclusionPolicy) -> str | None:
    """Why this account is never touched, for the table of exclusions; None for all others."""
    if entry.account_id in policy.accounts:
        return "listed in the runbook's exclusions"
    if entry.role in policy.roles:
        return f"the runbook excludes the role {entry.role}"
    return None
