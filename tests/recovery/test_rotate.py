"""The rotation's decisions: examples that tell the story, and a simulated platform, Vault and
consumers in which `next_step` is followed from every state to its end."""

import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recovery.rotate import (
    AppClient,
    ClientSecret,
    Consumer,
    Evidence,
    Move,
    Observed,
    Proof,
    SecretLabels,
    Step,
    StepKind,
    describe_plan,
    marker,
    next_step,
    plan_waves,
    untouched_reason,
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
            self.observed(), marker=MINE, evidence=self.evidence, max_secrets=self.max_secrets
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
                assert not self.secrets[sid].active, "secret_active"
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
            case Move.NONE:
                raise AssertionError("a final step has no move")
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


def assert_rotated(world: World) -> None:
    current = world.labels.current_id
    assert current is not None
    assert world.secrets[current].marker == MINE
    assert world.labels == SecretLabels(world.labels.version, current)
    assert [s.secret_id for s in world.secrets.values() if s.active] == [current]
    assert set(world.consumers.values()) <= {current}


# The story.


def test_an_undisturbed_rotation() -> None:
    world = ordinary()
    assert world.run().kind is StepKind.DONE
    assert world.moves == [
        Move.CREATE_SECRET,
        Move.PROMOTE,
        Move.RESTART,
        Move.RESTART,
        Move.PROVE,
        Move.DEACTIVATE,
        Move.DELETE,
        Move.DROP_PREVIOUS,
    ]
    assert_rotated(world)


def test_the_first_restart_is_a_canary_and_the_rest_follows() -> None:
    world = ordinary()
    restarts = []
    for _ in range(LIMIT):
        step = world.look()
        if step.final:
            break
        if step.move is Move.RESTART:
            restarts.append(step.consumers)
        world.apply(step)
    assert restarts == [("api",), ("worker", "x")]


def test_a_secret_that_does_not_work_is_rolled_back_and_taken_away() -> None:
    world = ordinary()
    world.every_new_one_is_bad = True
    end = world.run()
    assert end.kind is StepKind.ASK
    assert "did not work" in end.reason
    assert world.labels == SecretLabels(world.labels.version, "old")
    assert list(world.secrets) == ["old"]
    assert set(world.consumers.values()) == {"old"}
    assert world.moves.count(Move.RESTART) == 2, "the canary out and back, nobody else"


def test_a_failed_test_rolls_back() -> None:
    world = ordinary()
    while world.look().move is not Move.PROVE:
        world.apply(world.look())
    world._failed(world.labels.current_id or "")
    assert world.look().move is Move.ROLL_BACK
    assert world.run().kind is StepKind.ASK
    assert set(world.consumers.values()) == {"old"}
    assert list(world.secrets) == ["old"]


def test_retiring_too_early_is_undone() -> None:
    """Deactivating comes before deleting for this: a consumer that still needed the old one."""
    world = ordinary()
    while world.look().move is not Move.DELETE:
        world.apply(world.look())
    current = world.labels.current_id
    assert current is not None
    world.bad.add(current)
    world.moves.clear()
    assert world.run().kind is StepKind.ASK
    assert world.moves == [
        Move.RESTART,
        Move.ACTIVATE,
        Move.ROLL_BACK,
        Move.RESTART,
        Move.RESTART,
        Move.DEACTIVATE,
        Move.DELETE,
    ]
    assert set(world.consumers.values()) == {"old"}
    assert world.labels == SecretLabels(world.labels.version, "old")


def test_a_pending_secret_that_fails_before_anybody_uses_it() -> None:
    world = ordinary()
    world.apply(world.look())
    assert world.look().move is Move.PROMOTE
    world._failed(world.labels.pending_id or "")
    assert world.run().kind is StepKind.ASK
    assert world.moves == [
        Move.CREATE_SECRET,
        Move.DEACTIVATE,
        Move.DELETE,
        Move.DROP_PENDING,
    ]


def test_somebody_unknown_who_still_uses_the_old_secret_is_not_cut_off() -> None:
    world = ordinary()
    while world.look().kind is not StepKind.RETIRE:
        world.apply(world.look())
    old = world.secrets["old"]
    world.secrets["old"] = replace(old, last_used_at=BORN + timedelta(minutes=1))
    end = world.look()
    assert end.kind is StepKind.ASK
    assert "still uses PREVIOUS" in end.reason
    assert end.secret_id == "old"


def test_after_a_restart_nothing_is_retired_before_a_new_test() -> None:
    world = ordinary()
    while world.look().kind is not StepKind.RETIRE:
        world.apply(world.look())
    world.evidence = Evidence()
    assert world.look().move is Move.PROVE


def test_a_test_of_another_secret_proves_nothing() -> None:
    world = ordinary()
    while world.look().move is not Move.PROVE:
        world.apply(world.look())
    world.evidence = replace(world.evidence, proof=Proof("old", BORN))
    assert world.look().move is Move.PROVE


def test_an_orphan_of_this_incident_is_deleted_and_not_used() -> None:
    world = ordinary()
    world.secrets["lost"] = secret("lost", mark=MINE, used=None)
    step = world.look()
    assert (step.kind, step.move, step.secret_id) == (StepKind.REPAIR, Move.DEACTIVATE, "lost")
    assert world.run().kind is StepKind.DONE
    assert_rotated(world)


def test_pending_in_vault_whose_secret_is_gone_is_dropped() -> None:
    world = ordinary()
    world.labels = SecretLabels(2, "old", "gone")
    step = world.look()
    assert (step.kind, step.move, step.secret_id) == (StepKind.REPAIR, Move.DROP_PENDING, "gone")
    assert world.run().kind is StepKind.DONE


def test_pending_of_an_older_incident_is_not_used() -> None:
    world = ordinary()
    world.secrets["p"] = secret("p", mark=OTHERS, used=None)
    world.labels = SecretLabels(2, "old", "p")
    assert world.look().move is Move.DEACTIVATE
    assert world.run().kind is StepKind.DONE
    assert_rotated(world)


def test_both_current_and_previous_go_on_with_deployment_test_and_retirement() -> None:
    world = World(
        {"old": secret("old"), "new": secret("new", mark=MINE)},
        SecretLabels(3, "new", None, "old"),
        {"api": "new", "worker": "old"},
    )
    assert world.look() == Step(
        StepKind.DEPLOY,
        Move.RESTART,
        "these consumers don't run on CURRENT yet",
        "new",
        ("worker",),
    )
    assert world.run().kind is StepKind.DONE
    assert world.moves == [
        Move.RESTART,
        Move.PROVE,
        Move.DEACTIVATE,
        Move.DELETE,
        Move.DROP_PREVIOUS,
    ]


def test_a_secret_that_vault_does_not_know_is_left_to_a_person() -> None:
    world = ordinary()
    world.secrets["whose"] = secret("whose")
    end = world.run()
    assert end.kind is StepKind.ASK
    assert end.secret_id == "whose"
    assert world.moves == []


def test_with_room_for_a_third_we_rotate_and_still_ask_about_the_stranger() -> None:
    world = ordinary()
    world.secrets["whose"] = secret("whose")
    world.max_secrets = 3
    end = world.run()
    assert end.kind is StepKind.ASK
    assert end.secret_id == "whose"
    assert world.secrets[world.labels.current_id or ""].marker == MINE
    assert set(world.secrets) == {"whose", world.labels.current_id}


def test_an_inactive_secret_makes_room() -> None:
    world = ordinary()
    world.secrets["dead"] = secret("dead", active=False)
    step = world.look()
    assert (step.move, step.secret_id) == (Move.DELETE, "dead")
    assert world.run().kind is StepKind.DONE


def test_a_client_with_room_for_one_secret_is_left_to_a_person() -> None:
    world = ordinary()
    world.max_secrets = 1
    assert world.run().kind is StepKind.ASK
    assert world.moves == []


def test_a_dead_current_goes_back_to_a_previous_that_works() -> None:
    world = World(
        {"old": secret("old"), "new": secret("new", active=False, mark=OTHERS)},
        SecretLabels(3, "new", None, "old"),
        {"api": "new"},
    )
    assert world.look().move is Move.ROLL_BACK
    assert world.run().kind is StepKind.DONE
    assert_rotated(world)


def test_a_dead_current_beside_an_active_stranger_is_left_as_it_is() -> None:
    """Somebody has rotated by hand; Vault's idea of the client is no longer the truth."""
    for labels in (SecretLabels(2, "old"), SecretLabels(2, "old", "gone"), SecretLabels(2)):
        world = World(
            {"old": secret("old", active=False), "by hand": secret("by hand")},
            labels,
            {"api": "by hand"},
        )
        assert world.run().kind is StepKind.ASK
        assert world.moves == []


def test_the_only_active_secret_is_never_deactivated() -> None:
    world = World({"lost": secret("lost", mark=MINE)}, SecretLabels(0), max_secrets=1)
    assert world.run().kind is StepKind.ASK
    assert world.moves == []


def test_a_second_new_secret_is_not_deployed_after_the_first() -> None:
    world = World(
        {"new": secret("new", mark=MINE), "newer": secret("newer", mark=MINE, used=None)},
        SecretLabels(4, "new", "newer"),
        {"api": "new"},
    )
    assert world.run().kind is StepKind.DONE
    assert world.moves == [Move.DEACTIVATE, Move.DELETE, Move.DROP_PENDING]


def test_a_consumer_that_is_down_is_restarted_before_anything_is_created() -> None:
    world = ordinary()
    world.consumers["api"] = None
    step = world.look()
    assert (step.move, step.consumers) == (Move.RESTART, ("api",))


# The diagram.

DIAGRAM = Path(__file__).resolve().parents[2] / "docs" / "decisions" / "0003-rotation.md"
ARROW = re.compile(r"^ +(\w+) --> (\w+|\[\*\]) : (\w+)", re.MULTILINE)
Arrow = tuple[str, str, str]


def state_of(world: World) -> str:
    """The diagram's name for where a world is that began as `ordinary`."""
    labels, new = world.labels, world.labels.pending_id
    if new is not None:
        if new not in world.secrets:
            return "PendingGone"
        return "Staged" if world.active(new) else "PendingOff"
    if labels.previous_id is not None:
        proof = world.evidence.proof
        if world.active(labels.previous_id):
            proven = proof is not None and proof.secret_id == labels.current_id
            return "Proven" if proven else "Promoted"
        return "Retiring" if labels.previous_id in world.secrets else "Retired"
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
    died_before = deepcopy(world)
    died_before.evidence = Evidence()
    yield died_before
    if step.move in (Move.PROMOTE, Move.RESTART, Move.PROVE):
        did_not_work = deepcopy(world)
        did_not_work._failed(step.secret_id or "")
        yield did_not_work


def test_the_diagram_is_what_the_code_does() -> None:
    drawn = {
        (start, move, "" if end == "[*]" else end)
        for start, end, move in ARROW.findall(DIAGRAM.read_text(encoding="utf-8"))
    }
    assert len(drawn) > 20
    walked: set[Arrow] = set()
    seen: set[object] = set()
    waiting = [ordinary()]
    while waiting:
        world = waiting.pop()
        step = world.look()
        if step.kind is StepKind.DONE:
            walked.add((state_of(world), "done", ""))
        if step.kind is StepKind.ASK:
            continue
        for after in outcomes(world, step):
            if after.moves != world.moves:
                walked.add((state_of(world), step.move.value, state_of(after)))
            if (key := facts(after)) not in seen:
                seen.add(key)
                waiting.append(after)
    assert walked - drawn == set(), "walked and not drawn"
    assert drawn - walked == set(), "drawn and never walked"


def facts(world: World) -> object:
    """What matters of a world; new secrets are told apart by the order of their making alone."""
    names = {"old": "old"} | {
        sid: f"new {number}" for number, sid in enumerate(s for s in world.secrets if s != "old")
    }

    def name(secret_id: str | None) -> str | None:
        return names.get(secret_id, "gone") if secret_id is not None else None

    labels, evidence = world.labels, world.evidence
    return (
        tuple(sorted((names[s.secret_id], s.active) for s in world.secrets.values())),
        tuple(map(name, (labels.current_id, labels.pending_id, labels.previous_id))),
        tuple(sorted((n, name(held)) for n, held in world.consumers.items())),
        name(evidence.proof.secret_id) if evidence.proof else None,
        tuple(sorted(name(one) or "" for one in evidence.failed)),
    )


# Every state.

IDS = ("a", "b")
WHOSE = (MINE, OTHERS, "a note of somebody", None)


def all_labels(ids: tuple[str, ...]) -> list[SecretLabels]:
    places = [
        (None, *ids, "gone1"),
        (None, *ids, "gone2"),
        (None, *ids, "gone3"),
    ]
    return [
        SecretLabels(5, *labels)
        for labels in product(*places)
        if len({x for x in labels if x is not None}) == sum(x is not None for x in labels)
    ]


def all_states() -> Iterator[World]:
    kinds = list(product((True, False), WHOSE, (BORN, None)))
    for count in range(3):
        ids = IDS[:count]
        for chosen in product(kinds, repeat=count):
            secrets = {
                sid: secret(sid, active=active, mark=mark, used=used)
                for sid, (active, mark, used) in zip(ids, chosen, strict=True)
            }
            for labels in all_labels(ids):
                yield World(dict(secrets), labels)


def strangers(world: World) -> list[ClientSecret]:
    """Active ones that Vault does not know and that no rotation of ours can have left."""
    known = {world.labels.current_id, world.labels.pending_id, world.labels.previous_id}
    return [
        s
        for s in world.secrets.values()
        if s.secret_id not in known
        and s.active
        and s.marker != MINE
        and not (s.marker == OTHERS and s.last_used_at is None)
    ]


def check_end(world: World, end: Step, whose: list[ClientSecret]) -> None:
    for stranger in whose:
        assert world.secrets.get(stranger.secret_id) == stranger, "not ours to touch"
    if whose:
        assert end.kind is StepKind.ASK
    else:
        assert end.kind is StepKind.DONE, (end, world.moves)
        assert_rotated(world)


def test_every_state_of_platform_and_vault_ends_well() -> None:
    """DONE from everywhere, and ASK exactly where an active secret of somebody else is there."""
    states = 0
    for world in all_states():
        states += 1
        whose = strangers(world)
        check_end(world, world.run(), whose)
        assert len(world.moves) <= 12, world.moves
    assert states > 8000


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any state, with consumers that run on anything, and room for two or three secrets."""
    ids = draw(st.sampled_from(((), ("a",), ("a", "b"), ("a", "b", "c"))))
    secrets = {
        sid: secret(
            sid,
            active=draw(st.booleans()),
            mark=draw(st.sampled_from(WHOSE)),
            used=draw(st.sampled_from((BORN, None))),
        )
        for sid in ids
    }
    labels = draw(st.sampled_from(all_labels(ids)))
    held = st.sampled_from((None, "gone1", *ids))
    consumers = draw(st.dictionaries(st.sampled_from(("api", "sync", "worker")), held))
    return World(secrets, labels, dict(consumers), max_secrets=max(2, len(ids)))


@settings(max_examples=600, deadline=None)
@given(worlds(), st.lists(st.booleans(), max_size=8))
def test_any_state_with_consumers_and_crashes_ends_well(world: World, crashes: list[bool]) -> None:
    """A run may die after or in the middle of any act; the next one goes on by looking.

    No act ends a consumer that worked, and CURRENT keeps working once it does: `World.apply`.
    """
    whose = strangers(world)
    held = {world.consumers[name] for name in world.consumers if world.works(name)}
    free = [s for s in world.secrets.values() if not s.active or s.secret_id not in held]
    end = world.run(crashes)
    if end.kind is StepKind.ASK and not whose:
        # Nothing under CURRENT works and every place is taken by a secret somebody runs on.
        assert not free
        assert not world.active(world.labels.current_id)
        assert world.moves == [] or set(world.moves) <= {Move.DROP_PENDING, Move.DROP_PREVIOUS}
    else:
        check_end(world, end, whose)


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_a_new_secret_that_never_works_leaves_everybody_where_he_was(world: World) -> None:
    world.every_new_one_is_bad = True
    # One that an earlier run left as PENDING may work; then bringing it in is right.
    pending = world.secrets.get(world.labels.pending_id or "")
    assume(pending is None or pending.marker != MINE)
    before = {name: held for name, held in world.consumers.items() if world.works(name)}
    on_current = set(before.values()) <= {world.labels.current_id}
    rotated = world.active(world.labels.current_id) and (
        world.secrets[world.labels.current_id or ""].marker == MINE
    )
    end = world.run()
    assert end.final
    if on_current and before and not rotated:
        assert end.kind is StepKind.ASK
        assert {n: h for n, h in world.consumers.items() if n in before} == before


@settings(max_examples=300, deadline=None)
@given(worlds(), st.integers(min_value=0, max_value=9))
def test_deciding_twice_is_deciding_once(world: World, steps: int) -> None:
    for _ in range(steps):
        step = world.look()
        assert step == world.look()
        if step.final:
            return
        world.apply(step)


# Waves.


def client(
    name: str,
    risk: str = "low",
    *,
    consumers: tuple[str, ...] | None = None,
    linked: int = 0,
    max_secrets: int = 2,
) -> AppClient:
    names = (f"{name}-api",) if consumers is None else consumers
    return AppClient(
        name,
        name,
        "team",
        risk,
        linked,
        max_secrets,
        tuple(Consumer(n, f"https://{n}.example/health", "restart-consumer") for n in names),
    )


def test_lowest_risk_goes_first() -> None:
    clients = [
        client("d", "high"),
        client("c", "medium"),
        client("b", "low", linked=9),
        client("a", "low", linked=70),
        client("e", "unheard of"),
    ]
    waves = plan_waves(clients, (1, 2))
    assert [[c.client_id for c in wave] for wave in waves] == [["b"], ["a", "c"], ["d", "e"]]


def test_clients_that_share_a_consumer_are_never_in_one_wave() -> None:
    clients = [client(n, consumers=("shared", f"{n}-own")) for n in "abc"] + [client("z")]
    waves = plan_waves(clients, (1, 4))
    assert [[c.client_id for c in wave] for wave in waves] == [["a"], ["b", "z"], ["c"]]


def test_whom_a_rotation_cannot_touch() -> None:
    assert untouched_reason(client("a")) == ""
    assert "no known consumer" in untouched_reason(client("a", consumers=()))
    assert "one secret" in untouched_reason(client("a", max_secrets=1))
    assert "CI job" in untouched_reason(
        replace(client("a"), consumers=(Consumer("x", "https://x.example/health", ""),))
    )
    assert "health" in untouched_reason(
        replace(client("a"), consumers=(Consumer("x", "", "restart"),))
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("low", "medium", "high")),
            st.frozensets(st.sampled_from("pqrstuv"), max_size=3),
        ),
        max_size=20,
    ),
    st.lists(st.integers(min_value=1, max_value=5), max_size=4).map(tuple),
)
def test_waves_hold_every_client_once(
    drawn: list[tuple[str, frozenset[str]]], sizes: tuple[int, ...]
) -> None:
    clients = [
        client(f"c{number:02}", risk, consumers=tuple(sorted(names)))
        for number, (risk, names) in enumerate(drawn)
    ]
    waves = plan_waves(clients, sizes)
    planned = [c.client_id for wave in waves for c in wave]
    assert sorted(planned) == sorted(c.client_id for c in clients if not untouched_reason(c))
    assert len(planned) == len(set(planned))
    for number, wave in enumerate(waves):
        assert wave
        if number < len(sizes):
            assert len(wave) <= sizes[number]
        names = [consumer.name for c in wave for consumer in c.consumers]
        assert len(names) == len(set(names))
    if waves:
        order = ("low", "medium", "high")
        assert order.index(waves[0][0].risk) == min(
            order.index(c.risk) for c in clients if c.consumers
        )


# Words.


def test_the_marker_is_the_same_for_the_same_incident_and_tells_nothing() -> None:
    assert marker("INC-2026-0142") == MINE != OTHERS
    assert "2026" not in MINE
    assert "0142" not in MINE
    assert MINE.startswith("INC-")
    assert len(MINE) == 20


@pytest.mark.parametrize(
    ("waves", "untouched", "text"),
    [
        ([], {}, "nothing to rotate"),
        ([], {"app-1": "frozen"}, "nothing to rotate; 1 left to a person (app-1)"),
        (
            [(client("a"),), (client("b"), client("c", consumers=("x", "y")))],
            {"app-1": "frozen"},
            "3 client secrets in 2 waves (1, 2): create, deploy to 4 consumers, test, retire; "
            "1 left to a person (app-1)",
        ),
    ],
)
def test_the_plan_in_one_line(
    waves: list[tuple[AppClient, ...]], untouched: dict[str, str], text: str
) -> None:
    assert describe_plan(waves, untouched) == text
