"""A simulated platform, Vault and consumers that refuse and break as the real ones do, in which
`next_step` is followed; everything that a rotation promises is asserted at every move."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from recovery.rotate import (
    ClientSecret,
    Evidence,
    Move,
    Observed,
    Proof,
    SecretLabels,
    Step,
    marker,
    next_step,
)

MINE = marker("INC-2026-0142")
OTHERS = marker("INC-2025-0007")
BORN = datetime(2026, 3, 2, 9, tzinfo=UTC)
LIMIT = 30
"""More steps than any rotation here needs."""


def secret(
    secret_id: str,
    *,
    active: bool = True,
    mark: str | None = None,
    used: datetime | None = BORN,
) -> ClientSecret:
    return ClientSecret(secret_id, BORN, active, mark, used)


class Crash(Exception):
    """The run dies here; the next one knows nothing."""


@dataclass
class World:
    """A platform that refuses what the real one refuses, a Vault, and consumers.

    `bad` are secrets that no consumer comes up with. Everything that the promise of a rotation
    forbids is asserted in `apply`.
    """

    secrets: dict[str, ClientSecret]
    labels: SecretLabels
    consumers: dict[str, str | None] = field(default_factory=dict)
    """Name -> id of the secret it was started with."""
    max_secrets: int = 2
    bad: set[str] = field(default_factory=set)
    every_new_one_is_bad: bool = False
    can_deactivate: bool = True
    somebody_tries: bool = False
    """A consumer that nobody knows is refused once PREVIOUS is off."""
    stages: tuple[int, ...] = (1,)
    moves: list[Move] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)

    def observed(self) -> Observed:
        return Observed(tuple(self.secrets.values()), self.labels)

    def active(self, secret_id: str | None) -> bool:
        return (
            secret_id is not None and secret_id in self.secrets and (self.secrets[secret_id].active)
        )

    def works(self, name: str) -> bool:
        return self.active(self.consumers[name]) and self.consumers[name] not in self.bad

    def look(self) -> Step:
        running = {n: held if self.works(n) else None for n, held in self.consumers.items()}
        self.evidence = replace(self.evidence, running=running)
        return next_step(
            self.observed(),
            marker=MINE,
            evidence=self.evidence,
            max_secrets=self.max_secrets,
            can_deactivate=self.can_deactivate,
            stages=self.stages,
        )

    def run(self, crashes: Sequence[bool] = ()) -> Step:
        left = iter(crashes)
        for _ in range(LIMIT):
            step = self.look()
            if step.final:
                return step
            try:
                self.apply(step, crash=next(left, False))
            except Crash:
                self.evidence = Evidence()
        raise AssertionError(f"no end: {self.moves}")

    def apply(self, step: Step, *, crash: bool = False) -> None:
        current_worked = self.active(self.labels.current_id)
        working = {name for name in self.consumers if self.works(name)}
        self.moves.append(step.move)
        try:
            self._move(step, crash)
        finally:
            if current_worked:
                assert self.active(self.labels.current_id), f"CURRENT died by {step}"
            if step.move is not Move.RESTART:
                still = {name for name in self.consumers if self.works(name)}
                assert working <= still, f"an outage by {step}"

    def _move(self, step: Step, crash: bool) -> None:
        labels, sid = self.labels, step.secret_id
        match step.move:
            case Move.CREATE_SECRET:
                assert len(self.secrets) < self.max_secrets, "too_many_secrets"
                assert labels.pending_id is None
                assert labels.previous_id is None, "its PREVIOUS would be forgotten"
                new = f"new{len(self.moves)}"
                self.secrets[new] = secret(new, mark=MINE, used=None)
                if self.every_new_one_is_bad:
                    self.bad.add(new)
                if not crash:
                    self._label(pending_id=new)
            case Move.PROMOTE:
                assert sid == labels.pending_id
                assert self.active(sid)
                assert labels.previous_id is None, "PREVIOUS would be forgotten"
                self._label(
                    current_id=labels.pending_id, pending_id=None, previous_id=labels.current_id
                )
            case Move.RESTART:
                assert step.consumers
                for number, name in enumerate(step.consumers):
                    if crash and number > 0:
                        raise Crash
                    self.consumers[name] = labels.current_id
                    if not self.works(name):
                        assert labels.current_id is not None
                        self._failed(labels.current_id)
            case Move.PROVE:
                assert sid == labels.current_id
                assert sid is not None
                previous = self.secrets.get(labels.previous_id or "")
                used = previous.last_used_at if previous else None
                self.evidence = replace(self.evidence, proof=Proof(sid, used))
            case Move.WATCH:
                assert sid is not None
                assert not self.active(sid)
                seen = "wanted" if self.somebody_tries else "unwanted"
                before: frozenset[str] = getattr(self.evidence, seen)
                self.evidence = replace(self.evidence, **{seen: before | {sid}})
            case Move.DEACTIVATE:
                assert sid is not None
                assert self.active(sid)
                assert sum(s.active for s in self.secrets.values()) > 1, "last_active_secret"
                self.secrets[sid] = replace(self.secrets[sid], active=False)
            case Move.ACTIVATE:
                assert sid is not None
                self.secrets[sid] = replace(self.secrets[sid], active=True)
            case Move.DELETE:
                assert sid is not None
                if self.can_deactivate:
                    assert not self.secrets[sid].active, "secret_active"
                assert any(s.active for n, s in self.secrets.items() if n != sid) or (
                    not self.secrets[sid].active
                ), "last_active_secret"
                del self.secrets[sid]
            case Move.DROP_PENDING:
                assert sid == labels.pending_id
                assert sid not in self.secrets, "nobody would know this secret any more"
                self._label(pending_id=None)
            case Move.DROP_PREVIOUS:
                assert sid == labels.previous_id
                assert sid not in self.secrets, "nobody would know this secret any more"
                self._label(previous_id=None)
            case Move.ROLL_BACK:
                assert sid == labels.previous_id
                assert self.active(sid)
                self._label(current_id=sid, previous_id=None)
            case Move.NONE | Move.ROTATE_IN_PLACE:
                raise AssertionError("a final step has no move, and this platform holds two")
        if crash:
            raise Crash

    def _label(self, **changed: str | None) -> None:
        self.labels = replace(self.labels, version=self.labels.version + 1, **changed)

    def _failed(self, secret_id: str) -> None:
        self.evidence = replace(self.evidence, failed=self.evidence.failed | {secret_id})


def ordinary() -> World:
    return World(
        {"old": secret("old")}, SecretLabels(1, "old"), {"api": "old", "worker": "old", "x": "old"}
    )
