"""Which client is begun when: waves, the budget of failures, freeze windows, and who overrules."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flows.client_waves import FREEZE_GATE, Worked, over_clients
from recovery.errors import Misconfigured, Refused
from recovery.gates import Hold
from recovery.policy import FreezePolicy, load_policy
from recovery.rotate import StepKind
from rehearsal.prefect_server import ROOT
from tasks.case import Case
from tasks.rotate import Rotated

POLICY, _ = load_policy(ROOT / "runbooks" / "mass-password-reset.yaml")
TUESDAY = datetime(2026, 11, 24, 9, tzinfo=UTC)
WAVES = [["a"], ["b", "c", "d", "e"], ["f", "g"]]


@dataclass
class Hands:
    """Does the work of a client, remembers the order, fails where told."""

    bad: frozenset[str] = frozenset()
    stops: str = ""
    overrules: bool = False
    now: datetime = TUESDAY
    freeze: tuple[FreezePolicy, ...] = ()
    at_once: int = 2
    begun: list[str] = field(default_factory=list)
    together: int = 0
    most_together: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def work(self, case: Case, client_id: str) -> Rotated:
        self.begun.append(client_id)
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        await asyncio.sleep(0.005)
        self.together -= 1
        if client_id == self.stops:
            raise Misconfigured("Do it", got="no permission")
        if client_id in self.bad:
            raise Refused("Do it", code="no")
        return Rotated(client_id, StepKind.DONE, "rotated")

    async def not_stopped(self) -> None:
        return

    async def may_go(self, case: Case, gate: str, hold: Hold) -> bool:
        self.asked.append((gate, hold.reason))
        return self.overrules

    async def run(self, waves: list[list[str]] | None = None) -> Worked:
        rotate = POLICY.rotate.model_copy(
            update={"max_failures": 1, "at_once": self.at_once, "freeze": self.freeze}
        )
        case = SimpleNamespace(
            policy=POLICY.model_copy(update={"rotate": rotate}),
            ledger=SimpleNamespace(now=lambda: self.now),
            brake=SimpleNamespace(check=self.not_stopped),
        )
        return await over_clients(cast(Any, case), waves or WAVES, self.work, self.may_go)


async def test_wave_by_wave_and_not_more_at_once_than_told() -> None:
    hands = Hands()
    worked = await hands.run()
    assert hands.begun == list("abcdefg")
    assert (hands.most_together, worked.held, len(worked.done)) == (2, "", 7)


async def test_a_spent_budget_stops_the_waves_that_follow() -> None:
    hands = Hands(bad=frozenset("a"))
    worked = await hands.run()
    assert hands.begun == ["a"]
    assert worked.held == "hold.rotate.0"
    assert worked.reason == "1 of 1 rotations need a person: a"


async def test_a_spent_budget_stops_the_rest_of_its_own_wave() -> None:
    hands = Hands(bad=frozenset("b"))
    worked = await hands.run()
    assert hands.begun == ["a", "b", "c"], "c was under way beside b"
    assert worked.held == "hold.rotate.1"
    assert {r.client_id for r in worked.done} == set("abc")


async def test_a_person_lets_the_rest_of_the_wave_go_on() -> None:
    hands = Hands(bad=frozenset("b"), overrules=True)
    worked = await hands.run()
    assert hands.begun == list("abcdefg")
    assert worked.held == ""
    assert [gate for gate, _ in hands.asked] == ["hold.rotate.1"]


async def test_the_last_failure_holds_nothing_because_nothing_is_left() -> None:
    worked = await Hands(bad=frozenset("g")).run()
    assert (worked.held, sum(r.failed for r in worked.done)) == ("", 1)


async def test_what_is_wrong_for_all_stops_everything() -> None:
    hands = Hands(stops="b")
    with pytest.raises(Misconfigured):
        await hands.run()
    assert set(hands.begun) <= set("abcde")


FROZEN = (FreezePolicy.model_validate({"from": "tue 08:00", "until": "tue 18:00"}),)


async def test_a_freeze_window_holds_before_the_first_client() -> None:
    hands = Hands(freeze=FROZEN)
    worked = await hands.run()
    assert hands.begun == []
    assert worked.held == FREEZE_GATE
    assert "tue 08:00 to tue 18:00 UTC, until 2026-11-24 18:00 UTC" in worked.reason


async def test_an_approval_overrules_a_freeze_window() -> None:
    hands = Hands(freeze=FROZEN, overrules=True)
    assert (await hands.run()).held == ""
    assert hands.begun == list("abcdefg")
    assert {gate for gate, _ in hands.asked} == {FREEZE_GATE}
    assert len({reason for _, reason in hands.asked}) == 1


async def test_outside_of_the_window_nobody_is_asked() -> None:
    hands = Hands(freeze=FROZEN, now=datetime(2026, 11, 24, 18, tzinfo=UTC))
    assert (await hands.run()).held == ""
    assert hands.asked == []
