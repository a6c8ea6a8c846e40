"""What the next step of a client secret's rotation is, decided by looking at Vault, the platform
and the consumers, never by remembering. The states are drawn in docs/rotation.md, the reasons in
docs/decisions/0003-rotation.md.

Two things always hold: once the secret under CURRENT works it keeps working, and no secret that a
consumer runs on is taken away.
"""

import hashlib
import re
from base64 import b32encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from recovery.app_clients import (
    AppClient,
    ClientSecret,
    Consumer,
    SecretLabels,
    describe_plan,
    plan_waves,
    untouched_reason,
)

__all__ = [
    "STEP",
    "AppClient",
    "ClientSecret",
    "Consumer",
    "Evidence",
    "Move",
    "Observed",
    "Proof",
    "SecretLabels",
    "Step",
    "StepKind",
    "describe_plan",
    "marker",
    "next_step",
    "plan_waves",
    "untouched_reason",
]

STEP = "rotate"

_MARKER = re.compile(r"INC-[A-Z2-7]{16}")


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at a client: the platform's secrets and Vault's labels."""

    secrets: tuple[ClientSecret, ...]
    labels: SecretLabels


@dataclass(frozen=True, slots=True)
class Proof:
    """A test that CURRENT passed in this run, and when PREVIOUS had last been used as it began.

    If PREVIOUS has been used since, somebody we don't know still holds it.
    """

    secret_id: str
    previous_used_at: datetime | None
    refusals: int = 0
    """How often the client was refused while the test watched it: what is usual for it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What this run has seen itself; empty after a restart, which only repeats a test."""

    running: Mapping[str, str | None] = field(default_factory=dict)
    """Every known consumer -> id of the secret it works with; None where it isn't healthy."""
    proof: Proof | None = None
    failed: frozenset[str] = frozenset()
    """Ids of secrets whose deployment or test failed in this run."""
    unwanted: frozenset[str] = frozenset()
    """Ids of inactive secrets that nobody asked for while this run watched."""
    wanted: frozenset[str] = frozenset()
    """Ids of inactive secrets that somebody still tried to use."""


class StepKind(StrEnum):
    CREATE = "create"
    DEPLOY = "deploy"
    TEST = "test"
    RETIRE = "retire"
    ROLL_BACK = "roll_back"
    REPAIR = "repair"
    DONE = "done"
    ASK = "ask"


class Move(StrEnum):
    """The one act of a step. Each is safe to repeat after another look."""

    CREATE_SECRET = "create_secret"  # noqa: S105 - the name of an act
    """At the platform, and to Vault as PENDING."""
    ROTATE_IN_PLACE = "rotate_in_place"
    """Where the platform holds one secret: the new one replaces it and goes to Vault as PENDING."""
    PROMOTE = "promote"
    """PENDING -> CURRENT, CURRENT -> PREVIOUS; after PENDING was seen to work."""
    RESTART = "restart"
    PROVE = "prove"
    DEACTIVATE = "deactivate"
    ACTIVATE = "activate"
    """Undoes DEACTIVATE, where retiring turns out to have been too early."""
    WATCH = "watch"
    """Looks for somebody who is refused since DEACTIVATE, for as long as the runbook says."""
    DELETE = "delete"
    DROP_PENDING = "drop_pending"
    DROP_PREVIOUS = "drop_previous"
    ROLL_BACK = "roll_back"
    """PREVIOUS -> CURRENT; what was CURRENT leaves Vault."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now. `secret_id` is what the move is about, `consumers` are to be restarted."""

    kind: StepKind
    move: Move
    reason: str
    secret_id: str | None = None
    consumers: tuple[str, ...] = ()

    @property
    def final(self) -> bool:
        """Nothing more is done by itself: finished, or a person has to decide."""
        return self.kind in (StepKind.DONE, StepKind.ASK)


def marker(incident_id: str) -> str:
    """The text that a secret created for this incident carries at the platform.

    Same incident, same text; the incident's id can't be read from it.
    """
    digest = hashlib.sha256(b"secret rotation\x00" + incident_id.encode()).digest()
    return "INC-" + b32encode(digest[:10]).decode()


def next_step(
    observed: Observed,
    *,
    marker: str,
    evidence: Evidence,
    max_secrets: int = 2,
    can_deactivate: bool = True,
    stages: Sequence[int] = (1,),
) -> Step:
    """The one next step of this client. Do it, look again, ask again.

    Ends in DONE when CURRENT was made for this incident, all consumers run on it and nothing of
    the rotation is left over; in ASK where going on could break somebody we can't see. `stages`
    are how many consumers are restarted at once: the canary, then the next ones, then the rest.
    """
    look = _Look(observed, marker, evidence, max_secrets, can_deactivate, stages)
    return _recover(look) if look.current is None else _advance(look, look.current)


class _Look:
    """One observation, sorted out."""

    def __init__(
        self,
        observed: Observed,
        mine: str,
        evidence: Evidence,
        max_secrets: int,
        can_deactivate: bool,
        stages: Sequence[int],
    ) -> None:
        self.labels = observed.labels
        self.secrets = {s.secret_id: s for s in observed.secrets}
        self.evidence = evidence
        self.running = {held for held in evidence.running.values() if held is not None}
        self.full = len(self.secrets) >= max_secrets
        self.max_secrets = max_secrets
        self.can_deactivate = can_deactivate
        self.stages = stages
        self._mine = mine
        known = {self.labels.current_id, self.labels.pending_id, self.labels.previous_id}
        unknown = [s for s in self.secrets.values() if s.secret_id not in known]
        self.orphans = [s for s in unknown if self._left_by_us(s)]
        self.strangers = [s for s in unknown if not self._left_by_us(s)]
        self.active_strangers = [s for s in self.strangers if s.active]
        self.current = self._usable(self.labels.current_id)

    def _usable(self, secret_id: str | None) -> ClientSecret | None:
        secret = self.secrets.get(secret_id) if secret_id is not None else None
        return secret if secret is not None and secret.active else None

    def is_mine(self, secret: ClientSecret) -> bool:
        return secret.marker == self._mine

    def _left_by_us(self, secret: ClientSecret) -> bool:
        """Created by a rotation whose write to Vault never came, or rolled back since."""
        if self.is_mine(secret):
            return True
        never_used = secret.last_used_at is None
        return never_used and _MARKER.fullmatch(secret.marker or "") is not None

    @property
    def pending(self) -> ClientSecret | None:
        return self._usable(self.labels.pending_id)

    @property
    def previous(self) -> ClientSecret | None:
        return self._usable(self.labels.previous_id)


def _recover(look: _Look) -> Step:
    """CURRENT doesn't work at the platform (or is not there): get a working one under it."""
    labels = look.labels
    if look.previous is not None:
        why = "CURRENT is dead at the platform and PREVIOUS still works"
        return Step(StepKind.ROLL_BACK, Move.ROLL_BACK, why, labels.previous_id)
    if look.active_strangers:
        return _ask(
            "Vault's CURRENT is dead and a secret that Vault does not know is active: "
            "somebody has rotated by hand",
            look.active_strangers[0].secret_id,
        )
    if look.evidence.failed:
        return _ask("the new secret did not work and there is none to go back to", None)
    if labels.previous_id is not None:
        return _clear(look, StepKind.REPAIR, labels.previous_id, Move.DROP_PREVIOUS)
    if look.pending is not None:
        why = "CURRENT is dead at the platform and PENDING works"
        return Step(StepKind.DEPLOY, Move.PROMOTE, why, labels.pending_id)
    if labels.pending_id is not None:
        return _clear(look, StepKind.REPAIR, labels.pending_id, Move.DROP_PENDING)
    if not look.full:
        return Step(StepKind.CREATE, Move.CREATE_SECRET, "no secret under CURRENT works")
    dead = [s for s in (*look.orphans, *look.strangers, *look.secrets.values()) if not s.active]
    if dead:
        why = "it is dead and takes the new one's place"
        return Step(StepKind.REPAIR, Move.DELETE, why, dead[0].secret_id)
    spare = [s for s in look.orphans if s.secret_id not in look.running]
    if len(look.secrets) > 1 and spare:
        why = "left by an interrupted rotation; it takes the new one's place"
        return _remove(look, StepKind.REPAIR, spare[0], why)
    return _no_room(look)


def _advance(look: _Look, current: ClientSecret) -> Step:
    """CURRENT works: bring in a new one, or finish what was begun."""
    labels, failed = look.labels, look.evidence.failed
    rotated = look.is_mine(current)
    if current.secret_id in failed:
        return _undo(look, current)
    wanted = look.pending
    if (
        wanted is not None
        and look.is_mine(wanted)
        and wanted.secret_id not in failed
        and not rotated
        and labels.previous_id is None
    ):
        return Step(StepKind.DEPLOY, Move.PROMOTE, "PENDING is ready", wanted.secret_id)
    behind = behind_now(look.evidence.running, current.secret_id, look.stages)
    if behind:
        why = "these consumers don't run on CURRENT yet"
        return Step(StepKind.DEPLOY, Move.RESTART, why, current.secret_id, behind)
    if labels.pending_id is not None:
        return _clear(look, StepKind.REPAIR, labels.pending_id, Move.DROP_PENDING)
    if labels.previous_id is not None:
        return _retire(look, current, labels.previous_id)
    if look.orphans:
        return _remove(look, StepKind.REPAIR, look.orphans[0], "left by an interrupted rotation")
    if failed:
        return _ask("the new secret did not work; the one before is in force", current.secret_id)
    if not rotated:
        return _create(look)
    if look.active_strangers:
        why = "rotated, but a secret that Vault does not know is still active"
        return _ask(why, look.active_strangers[0].secret_id)
    return Step(StepKind.DONE, Move.NONE, "rotated", current.secret_id)


def _undo(look: _Look, current: ClientSecret) -> Step:
    previous_id = look.labels.previous_id
    previous = look.secrets.get(previous_id or "")
    if previous is None:
        return _ask("CURRENT did not pass and there is none to go back to", current.secret_id)
    why = "CURRENT did not pass its deployment or test"
    move = Move.ROLL_BACK if previous.active else Move.ACTIVATE
    return Step(StepKind.ROLL_BACK, move, why, previous_id)


def _create(look: _Look) -> Step:
    if not look.full:
        why = "CURRENT is from before the incident"
        return Step(StepKind.CREATE, Move.CREATE_SECRET, why)
    dead = [s for s in look.strangers if not s.active]
    if dead:
        why = "it is dead and takes the new one's place"
        return Step(StepKind.REPAIR, Move.DELETE, why, dead[0].secret_id)
    return _no_room(look)


def _retire(look: _Look, current: ClientSecret, previous_id: str) -> Step:
    proof = look.evidence.proof
    if proof is None or proof.secret_id != current.secret_id:
        why = "all consumers run on CURRENT; not yet proven in this run"
        return Step(StepKind.TEST, Move.PROVE, why, current.secret_id)
    previous = look.secrets.get(previous_id)
    wanted = previous_id in look.evidence.wanted
    if previous is not None and previous.active:
        if wanted or previous.last_used_at != proof.previous_used_at:
            why = "all known consumers run on CURRENT, yet somebody still uses PREVIOUS"
            return _ask(why, previous_id)
    elif previous is not None and wanted:
        why = "somebody still tries PREVIOUS: it works again until a person has found who"
        return Step(StepKind.RETIRE, Move.ACTIVATE, why, previous_id)
    elif previous is not None and previous_id not in look.evidence.unwanted:
        why = "PREVIOUS is off; watched before it is deleted"
        return Step(StepKind.RETIRE, Move.WATCH, why, previous_id)
    return _clear(look, StepKind.RETIRE, previous_id, Move.DROP_PREVIOUS)


def _clear(look: _Look, kind: StepKind, secret_id: str, drop: Move) -> Step:
    """Takes a secret away from the platform, then its label from Vault: never the label first,
    or nobody would know what the secret at the platform was."""
    secret = look.secrets.get(secret_id)
    if secret is None:
        return Step(kind, drop, "it is gone from the platform", secret_id)
    return _remove(look, kind, secret, "no longer needed")


def _remove(look: _Look, kind: StepKind, secret: ClientSecret, why: str) -> Step:
    """Deactivates first where the platform can, which can be undone; deletes what is inactive."""
    move = Move.DEACTIVATE if secret.active and look.can_deactivate else Move.DELETE
    return Step(kind, move, why, secret.secret_id)


def behind_now(
    running: Mapping[str, str | None], current_id: str, stages: Sequence[int]
) -> tuple[str, ...]:
    """Who has to be restarted now: as many as the present stage lacks, told by how many already
    work with CURRENT. The first stage is the canary; what no stage names comes last, together."""
    behind = tuple(name for name, held in running.items() if held != current_id)
    there, stage_ends = len(running) - len(behind), 0
    for size in stages:
        stage_ends += size
        if there < stage_ends:
            return behind[: stage_ends - there]
    return behind


def _no_room(look: _Look) -> Step:
    if look.active_strangers:
        why = "a secret that Vault does not know is active and takes the new one's place"
        return _ask(why, look.active_strangers[0].secret_id)
    return _ask(f"the platform allows {look.max_secrets} secrets and all are in use", None)


def _ask(why: str, secret_id: str | None) -> Step:
    return Step(StepKind.ASK, Move.NONE, why, secret_id)
