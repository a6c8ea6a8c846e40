"""One secret at a time: no step without an approval, every interruption ends well, and the page of
states is what the code does."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.rotate import ClientSecret, Evidence, Move, Observed, SecretLabels, StepKind
from recovery.rotate_in_place import next_step_in_place
from tests.recovery.rotate_map import PAGE, OneSecret, page, walked, walked_in_place
from tests.recovery.rotate_world import BORN, LIMIT, MINE


def moves_of(world: OneSecret, crashes: list[bool] | None = None) -> list[Move]:
    left = iter(crashes or [])
    moves = []
    for _ in range(LIMIT):
        step = world.look()
        if step.final:
            return moves
        moves.append(step.move)
        world.apply(step, crash=next(left, False))
    raise AssertionError(f"no end: {moves}")


def test_who_can_not_help_himself_is_restarted_first() -> None:
    world = OneSecret(consumers={"worker": "old", "api": "old", "sync": "old"})
    restarted = []
    while not (step := world.look()).final:
        if step.move is Move.RESTART:
            restarted.append(step.consumers)
        world.apply(step)
    assert restarted == [("api", "sync"), ("worker",)]


def test_the_story() -> None:
    assert moves_of(OneSecret()) == [
        Move.ROTATE_IN_PLACE,
        Move.PROMOTE,
        Move.RESTART,
        Move.RESTART,
        Move.DROP_PREVIOUS,
        Move.PROVE,
    ]


def test_nothing_is_done_without_the_approval() -> None:
    world = OneSecret(approved=False)
    assert moves_of(world) == []
    assert world.look().kind is StepKind.ASK
    assert "approval" in world.look().reason


def test_a_value_that_is_lost_is_rotated_once_more_and_one_in_vault_never() -> None:
    lost = OneSecret()
    assert moves_of(lost, [True])[:2] == [Move.ROTATE_IN_PLACE, Move.ROTATE_IN_PLACE]
    staged = OneSecret()
    assert moves_of(staged, [False, True]).count(Move.ROTATE_IN_PLACE) == 1


@given(st.lists(st.booleans(), max_size=8))
def test_a_run_may_die_anywhere(crashes: list[bool]) -> None:
    world = OneSecret()
    moves_of(world, crashes)
    assert world.look().kind is StepKind.DONE
    assert world.labels == SecretLabels(1, world.held)
    assert set(world.consumers.values()) == {world.held}


def test_a_secret_of_somebody_else_is_left_alone() -> None:
    by_hand = ClientSecret("by hand", BORN, True, None, BORN)
    step = next_step_in_place(
        Observed((by_hand,), SecretLabels(2, "old")),
        marker=MINE,
        evidence=Evidence(),
        approved=True,
    )
    assert (step.kind, "by hand" in step.reason) == (StepKind.ASK, True)


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_secrets_is_not_guessed_at(count: int) -> None:
    held = tuple(ClientSecret(f"s{n}", BORN, True, MINE, None) for n in range(count))
    observed = Observed(held, SecretLabels(1, "s0"))
    step = next_step_in_place(observed, marker=MINE, evidence=Evidence(), approved=True)
    assert step.kind is StepKind.ASK


def test_a_secret_that_does_not_serve_asks_and_is_not_rotated_again() -> None:
    world = OneSecret()
    moves_of(world)
    world.evidence = replace(world.evidence, failed=frozenset({world.held}))
    assert world.look().kind is StepKind.ASK
    assert moves_of(world) == []


# The page.


def test_the_page_of_states_is_what_the_code_does() -> None:
    """Draw it anew with `python -m tests.recovery.rotate_map`."""
    assert len(walked()) > 40
    assert len(walked_in_place()) > 10
    assert PAGE.read_text(encoding="utf-8") == page()
