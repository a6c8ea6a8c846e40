"""The rotation's decisions: examples that tell the story, and a simulated platform, Vault and
consumers in which `next_step` is followed from every state to its end."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recovery.app_clients import InPlan, Lift, lift_of, plan_order
from recovery.rotate import (
    AppClient,
    ClientSecret,
    Consumer,
    Evidence,
    Move,
    Proof,
    SecretLabels,
    Step,
    StepKind,
    describe_plan,
    marker,
    plan_waves,
    untouched_reason,
)
from tests.recovery.rotate_world import BORN, LIMIT, MINE, OTHERS, World, ordinary, secret


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
        Move.WATCH,
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
    while world.look().move is not Move.WATCH:
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


def test_who_is_refused_after_the_deactivation_gets_the_old_secret_back() -> None:
    """Nobody knew this consumer and it was idle during the test; now it shows."""
    world = ordinary()
    world.somebody_tries = True
    end = world.run()
    assert end.kind is StepKind.ASK
    assert "still uses PREVIOUS" in end.reason
    assert world.moves[-3:] == [Move.DEACTIVATE, Move.WATCH, Move.ACTIVATE]
    assert world.active("old")
    assert set(world.consumers.values()) == {world.labels.current_id}


def test_after_an_interruption_what_is_off_is_watched_anew() -> None:
    world = ordinary()
    while world.look().move is not Move.DELETE:
        world.apply(world.look())
    world.evidence = Evidence()
    moves = []
    while not (step := world.look()).final:
        moves.append(step.move)
        world.apply(step)
    assert moves == [Move.PROVE, Move.WATCH, Move.DELETE, Move.DROP_PREVIOUS]


def test_a_platform_that_can_only_delete_deletes_after_the_test() -> None:
    world = ordinary()
    world.can_deactivate = False
    assert world.run().kind is StepKind.DONE
    assert world.moves[-3:] == [Move.PROVE, Move.DELETE, Move.DROP_PREVIOUS]
    assert_rotated(world)


def test_after_the_canary_consumers_follow_in_the_stages_of_the_runbook() -> None:
    world = ordinary()
    world.consumers = {f"app-{n}": "old" for n in range(7)}
    world.stages = (1, 2)
    restarts = []
    while not (step := world.look()).final:
        if step.move is Move.RESTART:
            restarts.append(len(step.consumers))
        world.apply(step)
    assert restarts == [1, 2, 4]


def test_a_stage_that_was_interrupted_is_finished_before_the_next() -> None:
    world = ordinary()
    world.consumers = {f"app-{n}": "old" for n in range(7)}
    world.stages = (1, 3)
    while len(world.look().consumers) != 3:
        world.apply(world.look())
    first = world.look().consumers[0]
    world.consumers[first] = world.labels.current_id
    assert len(world.look().consumers) == 2


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
        Move.WATCH,
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
        assert len(world.moves) <= 14, world.moves
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
    return World(
        secrets,
        labels,
        dict(consumers),
        max_secrets=max(2, len(ids)),
        can_deactivate=draw(st.booleans()),
        stages=draw(st.sampled_from(((1,), (1, 1), (2,), ()))),
    )


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


RISKS = ("low", "medium", "high")
PLANS = st.lists(
    st.builds(
        InPlan,
        client_id=st.uuids().map(str),
        risk=st.sampled_from((*RISKS, "unheard of")),
        linked_accounts=st.integers(min_value=0, max_value=99),
        consumers=st.frozensets(st.sampled_from("pqrstuv"), max_size=4),
    ),
    max_size=25,
    unique_by=lambda client: client.client_id,
)


@settings(max_examples=300, deadline=None)
@given(PLANS, st.lists(st.integers(min_value=0, max_value=5), max_size=4).map(tuple))
def test_no_two_secrets_of_one_consumer_are_under_way_at_once(
    clients: list[InPlan], sizes: tuple[int, ...]
) -> None:
    """The lock is the plan itself: a wave ends before the next one begins."""
    by_id = {client.client_id: client for client in clients}
    waves = plan_order(clients, sizes)
    assert sorted(one for wave in waves for one in wave) == sorted(by_id)
    for number, wave in enumerate(waves):
        assert wave
        assert len(wave) <= max(1, sizes[number] if number < len(sizes) else len(clients))
        locked = [name for one in wave for name in by_id[one].consumers]
        assert len(locked) == len(set(locked))
    # Who waits for a later wave although it is of lower risk waits for a place or for a consumer.
    for number, wave in enumerate(waves):
        full = number < len(sizes) and len(wave) == max(1, sizes[number])
        busy = {name for one in wave for name in by_id[one].consumers}
        for later in (by_id[one] for after in waves[number + 1 :] for one in after):
            assert full or later.consumers & busy


def test_which_approval_lets_a_client_be_rotated_that_is_left_to_a_person() -> None:
    assert lift_of(client("a")) is None
    assert lift_of(client("a", consumers=())) is Lift.UNKNOWN
    assert lift_of(client("a", max_secrets=1)) is Lift.GAP
    assert lift_of(client("a", consumers=(), max_secrets=1)) is None, "both dangers at once"
    no_job = replace(client("a"), consumers=(Consumer("x", "https://x.example/health", ""),))
    assert lift_of(no_job) is None
    key = replace(client("a"), kind="api_key")
    assert lift_of(key) is None
    assert "api_key" in untouched_reason(key)


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
