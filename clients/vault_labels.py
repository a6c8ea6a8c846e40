"""The labels of a client's secret inside one KV v2 entry: CURRENT, PENDING, PREVIOUS as fields.

A consumer reads `client_secret` and never sees a rotation going on. Fields that are not ours stay
as they are. Moving a label is a pure change of the entry's data; writing it is up to the caller.
"""

from collections.abc import Mapping

from recovery.errors import Refused
from recovery.rotate import SecretLabels

_ID, _VALUE = "secret_id", "client_secret"
_PENDING, _PREVIOUS = "pending_", "previous_"

Entry = Mapping[str, str]


def labels(version: int, entry: Entry) -> SecretLabels:
    return SecretLabels(
        version,
        current_id=entry.get(_ID),
        pending_id=entry.get(_PENDING + _ID),
        previous_id=entry.get(_PREVIOUS + _ID),
    )


def current(entry: Entry) -> tuple[str, str] | None:
    """Id and value of CURRENT; the id is empty where somebody stored a value without one."""
    return (entry.get(_ID, ""), entry[_VALUE]) if entry.get(_VALUE) else None


def pending(entry: Entry) -> tuple[str, str] | None:
    value = entry.get(_PENDING + _VALUE)
    return (entry.get(_PENDING + _ID, ""), value) if value else None


def staged(entry: Entry, secret_id: str, value: str) -> dict[str, str]:
    """The new secret under PENDING. Refused while an older rotation is not finished: promoting
    would push its PREVIOUS out and nobody would know that secret any more."""
    for label in (_PENDING, _PREVIOUS):
        if label + _ID in entry:
            raise Refused(
                "Stage a new secret as PENDING",
                code=f"{label}taken",
                expected="no rotation under way",
                got=f"a secret under {label.rstrip('_').upper()}",
                advice="Finish that rotation first.",
            )
    return {**entry, _PENDING + _ID: secret_id, _PENDING + _VALUE: value}


def promoted(entry: Entry) -> dict[str, str]:
    """PENDING -> CURRENT, CURRENT -> PREVIOUS."""
    _need(entry, _PENDING, "Promote PENDING to CURRENT")
    if _PREVIOUS + _ID in entry:
        raise Refused(
            "Promote PENDING to CURRENT",
            code="previous_taken",
            expected="no secret under PREVIOUS",
            advice="Retire that one first.",
        )
    changed = _without(entry, _PENDING)
    for name in (_ID, _VALUE):
        changed[name] = entry[_PENDING + name]
        if name in entry:
            changed[_PREVIOUS + name] = entry[name]
    return changed


def rolled_back(entry: Entry) -> dict[str, str]:
    """PREVIOUS -> CURRENT; what was CURRENT leaves the entry."""
    _need(entry, _PREVIOUS, "Roll back to PREVIOUS")
    changed = _without(entry, _PREVIOUS)
    for name in (_ID, _VALUE):
        changed[name] = entry[_PREVIOUS + name]
    return changed


def without_pending(entry: Entry) -> dict[str, str]:
    _need(entry, _PENDING, "Drop PENDING")
    return _without(entry, _PENDING)


def without_previous(entry: Entry) -> dict[str, str]:
    _need(entry, _PREVIOUS, "Drop PREVIOUS")
    return _without(entry, _PREVIOUS)


def _without(entry: Entry, label: str) -> dict[str, str]:
    return {name: value for name, value in entry.items() if name not in _fields(label)}


def _need(entry: Entry, label: str, attempted: str) -> None:
    if any(name not in entry for name in _fields(label)):
        name = label.rstrip("_")
        raise Refused(
            attempted,
            code=f"no_{name}",
            expected=f"a secret under {name.upper()}",
            got="none",
            advice="Look again: somebody else has moved the labels.",
        )


def _fields(label: str) -> tuple[str, str]:
    return label + _ID, label + _VALUE
