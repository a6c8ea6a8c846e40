"""Walks every outcome of every move of a rotation and writes what it walked: docs/rotation.md.

`python -m tests.recovery.rotate_map` writes the page; the test compares it with the code.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

from recovery.rotate import Evidence, Move, Observed, Proof, SecretLabels, Step, StepKind
from recovery.rotate_in_place import next_step_in_place
from tests.recovery.rotate_world import MINE, Crash, World, ordinary, secret

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rotation.md"
ON_TRIAL = (Move.PROMOTE, Move.RESTART, Move.PROVE)
Arrow = tuple[str, str, str]
"""From, move, to; to is empty at the end."""

STATES = {
    "Before": ("the old secret", "CURRENT is the old one"),
    "Orphan": ("the old one, and a new one with our marker", "CURRENT is the old one"),
    "Staged": ("both active", "CURRENT is the old one, PENDING the new one"),
    "PendingOff": ("the old one, and the new one inactive", "the same"),
    "PendingGone": ("the old one", "the same"),
    "Promoted": ("both active", "CURRENT is the new one, PREVIOUS the old one"),
    "Proven": ("both active", "the same; CURRENT passed its test in this run"),
    "StillUsed": ("both active again", "the same; somebody was refused without the old one"),
    "Retiring": ("the new one, and the old one inactive", "the same"),
    "Unwanted": ("the new one, and the old one inactive", "the same; nobody asked for the old one"),
    "Wanted": ("the new one, and the old one inactive", "the same; somebody asked for the old one"),
    "Retired": ("the new one", "CURRENT is the new one, PREVIOUS the old one"),
    "Rotated": ("the new secret alone", "CURRENT is the new one"),
}
IN_PLACE = {
    "Before": ("the old secret", "CURRENT is the old one"),
    "Replaced": ("the new secret alone", "CURRENT is the old one, PENDING the new one"),
    "Lost": ("a new secret that nobody has", "CURRENT is the old one"),
    "Promoted": ("the new secret alone", "CURRENT is the new one, PREVIOUS the old one"),
    "Rotated": ("the new secret alone", "CURRENT is the new one"),
}


def state_of(world: World) -> str:
    """The page's name for where a world is that began as `ordinary`."""
    labels, new, evidence = world.labels, world.labels.pending_id, world.evidence
    if new is not None:
        if new not in world.secrets:
            return "PendingGone"
        return "Staged" if world.active(new) else "PendingOff"
    old = labels.previous_id
    if old is not None:
        if world.active(old):
            if old in evidence.wanted:
                return "StillUsed"
            proven = evidence.proof is not None and evidence.proof.secret_id == labels.current_id
            return "Proven" if proven else "Promoted"
        if old not in world.secrets:
            return "Retired"
        if old in evidence.wanted:
            return "Wanted"
        return "Unwanted" if old in evidence.unwanted else "Retiring"
    if labels.current_id != "old":
        return "Rotated"
    return "Before" if list(world.secrets) == ["old"] else "Orphan"


def outcomes(world: World, step: Step) -> Iterator[World]:
    """Everything that can come of a move, and what the world may do to us before it."""
    if world.consumers["api"] is not None:
        went_down = deepcopy(world)
        went_down.consumers["api"] = None
        yield went_down
    if step.final:
        return
    for crash in (False, True):
        done = deepcopy(world)
        try:
            done.apply(step, crash=crash)
        except Crash:
            done.evidence = Evidence()
        yield done
    if step.move is Move.WATCH:
        seen = deepcopy(world)
        seen.somebody_tries = True
        seen.apply(step)
        seen.somebody_tries = False
        yield seen
    died_before = deepcopy(world)
    died_before.evidence = Evidence()
    yield died_before
    if step.move in ON_TRIAL:
        did_not_work = deepcopy(world)
        did_not_work._failed(step.secret_id or "")
        yield did_not_work


def walked() -> set[Arrow]:
    """Every arrow from `ordinary` on."""
    arrows: set[Arrow] = set()
    seen: set[object] = set()
    waiting = [ordinary()]
    while waiting:
        world = waiting.pop()
        step = world.look()
        if step.kind is StepKind.DONE:
            arrows.add((state_of(world), "done", ""))
        elif step.kind is StepKind.ASK:
            arrows.add((state_of(world), "ask", ""))
        for after in outcomes(world, step) if step.kind is not StepKind.ASK else ():
            if after.moves != world.moves:
                arrows.add((state_of(world), step.move.value, state_of(after)))
            if (key := facts(after)) not in seen:
                seen.add(key)
                waiting.append(after)
    return arrows


def facts(world: World) -> object:
    """What matters of a world; new secrets are told apart by the order of their making alone."""
    names = {"old": "old"} | {
        sid: f"new {number}" for number, sid in enumerate(s for s in world.secrets if s != "old")
    }

    def name(secret_id: str | None) -> str | None:
        return names.get(secret_id, "gone") if secret_id is not None else None

    def all_of(ids: frozenset[str]) -> tuple[str, ...]:
        return tuple(sorted(name(one) or "" for one in ids))

    labels, evidence = world.labels, world.evidence
    return (
        tuple(sorted((names[s.secret_id], s.active) for s in world.secrets.values())),
        tuple(map(name, (labels.current_id, labels.pending_id, labels.previous_id))),
        tuple(sorted((n, name(held)) for n, held in world.consumers.items())),
        name(evidence.proof.secret_id) if evidence.proof else None,
        tuple(all_of(ids) for ids in (evidence.failed, evidence.wanted, evidence.unwanted)),
    )


# Where the platform holds one secret.


@dataclass
class OneSecret:
    """A platform with one secret, Vault and two consumers, of which one tries both."""

    held: str = "old"
    labels: SecretLabels = field(default_factory=lambda: SecretLabels(1, "old"))
    consumers: dict[str, str | None] = field(
        default_factory=lambda: {"api": "old", "worker": "old"}
    )
    evidence: Evidence = field(default_factory=Evidence)
    approved: bool = True
    made: int = 0

    def look(self) -> Step:
        only = secret(self.held, mark=None if self.held == "old" else MINE)
        running = {n: held if held == self.held else None for n, held in self.consumers.items()}
        self.evidence = replace(self.evidence, running=running)
        return next_step_in_place(
            Observed((only,), self.labels),
            marker=MINE,
            evidence=self.evidence,
            approved=self.approved,
            prepared={"worker"},
        )

    def apply(self, step: Step, *, crash: bool = False) -> None:
        labels = self.labels
        match step.move:
            case Move.ROTATE_IN_PLACE:
                self.made += 1
                self.held = f"new{self.made}"
                if not crash:
                    self.labels = replace(labels, pending_id=self.held)
            case Move.PROMOTE:
                assert labels.pending_id == self.held, "what the platform does not take"
                assert labels.previous_id is None
                self.labels = replace(
                    labels, current_id=self.held, pending_id=None, previous_id=labels.current_id
                )
            case Move.RESTART:
                self.consumers |= dict.fromkeys(step.consumers, labels.current_id)
            case Move.PROVE:
                self.evidence = replace(self.evidence, proof=Proof(step.secret_id or "", None))
            case Move.DROP_PREVIOUS:
                assert labels.previous_id != self.held
                self.labels = replace(labels, previous_id=None)
            case Move.DROP_PENDING:
                assert labels.pending_id != self.held
                self.labels = replace(labels, pending_id=None)
            case _:
                raise AssertionError(f"{step.move} where one secret is all there is")
        if crash:
            self.evidence = Evidence()

    def state(self) -> str:
        if self.labels.pending_id is not None:
            return "Replaced"
        if self.labels.previous_id is not None:
            return "Promoted"
        if self.labels.current_id != self.held:
            return "Lost"
        return "Before" if self.held == "old" else "Rotated"


def walked_in_place() -> set[Arrow]:
    arrows: set[Arrow] = set()
    seen: set[str] = set()
    unapproved = OneSecret(approved=False)
    waiting = [OneSecret(), unapproved]
    while waiting:
        world = waiting.pop()
        step = world.look()
        if step.final:
            arrows.add((world.state(), step.kind.value, ""))
            continue
        for crash in (False, True):
            after = deepcopy(world)
            after.apply(step, crash=crash)
            arrows.add((world.state(), step.move.value, after.state()))
            key = repr(replace(after, made=0)).replace(after.held, "held")
            if key not in seen:
                seen.add(key)
                waiting.append(after)
        if step.move in (Move.RESTART, Move.PROVE):
            failed = deepcopy(world)
            failed.evidence = Evidence(failed=frozenset({world.held}))
            waiting.append(failed)
    return arrows


# The page.


def page() -> str:
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    parts = {
        "two": _chart(walked(), STATES),
        "one": _chart(walked_in_place(), IN_PLACE),
    }
    for name, made in parts.items():
        begin, end = f"<!-- {name}: made by the test -->", f"<!-- {name}: end -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n{made}\n{end}{tail}"
    return text


def _chart(arrows: set[Arrow], states: dict[str, tuple[str, str]]) -> str:
    order = list(states)
    moves: dict[tuple[str, str], list[str]] = {}
    for start, move, end in sorted(arrows, key=lambda a: (order.index(a[0]), a[1], a[2])):
        moves.setdefault((start, end), []).append(move)
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> Before"]
    for (start, end), names in moves.items():
        lines.append(f"    {start} --> {end or '[*]'} : {', '.join(names)}")
    lines += ["```", "", "| State | At the platform | In Vault | What may come next |"]
    lines.append("|---|---|---|---|")
    for state, (platform, vault) in states.items():
        steps = sorted({move for start, move, _ in arrows if start == state})
        lines.append(f"| {state} | {platform} | {vault} | {', '.join(f'`{s}`' for s in steps)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
