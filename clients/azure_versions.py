"""The labels of a client's secret in Azure Key Vault: one secret whose versions form a chain.

Key Vault has neither check-and-set nor labels; it has versions with tags that never change here.
The newest version always holds CURRENT's value, since that is what consumers read: a version for
PENDING beside it, or a disabled one, would reach them at once. So every change is one new version,
which names the one it was decided upon. Of several upon one, the first written counts. Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recovery.app_clients import SecretLabels
from recovery.errors import Refused

PATH, BASE, WRITER = "recovery-path", "recovery-base", "recovery-writer"
ID = "secret_id"
PENDING_ID, PENDING_VERSION = "pending_id", "pending_version"
PREVIOUS_ID, PREVIOUS_VERSION = "previous_id", "previous_version"
_PENDING, _PREVIOUS = (PENDING_ID, PENDING_VERSION), (PREVIOUS_ID, PREVIOUS_VERSION)
MAX_TAGS = 15
_ADVICE = "Look again: somebody else has moved the labels."


@dataclass(frozen=True, slots=True)
class Version:
    """One version without its value. `created` counts seconds; a Key Vault tells no more."""

    id: str
    created: int
    enabled: bool
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Version":
        attributes = document["attributes"]
        return cls(
            str(document["id"]).rstrip("/").rpartition("/")[2],
            int(attributes["created"]),
            attributes.get("enabled") is not False,
            dict(document.get("tags") or {}),
        )

    @property
    def labels(self) -> SecretLabels:
        return SecretLabels(
            self.id,
            current_id=self.tags.get(ID),
            pending_id=self.tags.get(PENDING_ID),
            previous_id=self.tags.get(PREVIOUS_ID),
        )


def chain(versions: Iterable[Version]) -> list[Version]:
    """The versions that count, oldest first; the last one is the state.

    It begins at the newest version that names no other: the first of all, or what somebody wrote by
    hand, which is then what consumers read. What was written upon something older than that, or
    upon the same version later than another, does not count.
    """
    ordered = sorted(versions, key=lambda v: (v.created, v.id))
    known = {v.id for v in ordered}
    roots = [v for v in ordered if v.tags.get(BASE) not in known]
    if not roots:
        return []
    first_upon: dict[str, Version] = {}
    for version in ordered:
        first_upon.setdefault(version.tags.get(BASE, ""), version)
    counted = [roots[-1]]
    while (following := first_upon.get(counted[-1].id)) is not None:
        counted.append(following)
    return counted


def staged(head: Version, secret_id: str, pending_version: str) -> dict[str, str]:
    """The tags that add a PENDING. Refused while an older rotation is not finished."""
    for name, key in (("pending", PENDING_ID), ("previous", PREVIOUS_ID)):
        if key in head.tags:
            raise Refused(
                "Stage a new secret as PENDING",
                code=f"{name}_taken",
                expected="no rotation under way",
                got=f"a secret under {name.upper()}",
                advice="Finish that rotation first.",
            )
    return {**_kept(head), PENDING_ID: secret_id, PENDING_VERSION: pending_version}


def promoted(head: Version) -> dict[str, str]:
    """PENDING -> CURRENT, CURRENT -> PREVIOUS, which is the version before this one."""
    need(head, PENDING_VERSION, "Promote PENDING to CURRENT")
    if PREVIOUS_ID in head.tags:
        raise Refused(
            "Promote PENDING to CURRENT",
            code="previous_taken",
            expected="no secret under PREVIOUS",
            advice="Retire that one first.",
        )
    tags = _kept(head, *_PENDING)
    if ID in head.tags:
        tags |= {PREVIOUS_ID: head.tags[ID], PREVIOUS_VERSION: head.id}
    return {**tags, ID: head.tags[PENDING_ID]}


def rolled_back(head: Version) -> dict[str, str]:
    """PREVIOUS -> CURRENT; what was CURRENT has no tag any more."""
    need(head, PREVIOUS_VERSION, "Roll back to PREVIOUS")
    return {**_kept(head, *_PREVIOUS), ID: head.tags[PREVIOUS_ID]}


def without_pending(head: Version) -> dict[str, str]:
    need(head, PENDING_VERSION, "Drop PENDING")
    return _kept(head, *_PENDING)


def without_previous(head: Version) -> dict[str, str]:
    need(head, PREVIOUS_VERSION, "Drop PREVIOUS")
    return _kept(head, *_PREVIOUS)


def need(head: Version, tag: str, attempted: str) -> str:
    """The version under a label. Refused where there is none."""
    if tag not in head.tags:
        name = tag.partition("_")[0]
        raise Refused(
            attempted,
            code=f"no_{name}",
            expected=f"a secret under {name.upper()}",
            got="none",
            advice=_ADVICE,
        )
    return head.tags[tag]


def _kept(head: Version, *dropped: str) -> dict[str, str]:
    """Tags that are not ours stay as they are, such as an owner's."""
    return {n: v for n, v in head.tags.items() if n not in (*dropped, BASE, WRITER)}
