"""Whatever is called in whatever order: stages only go forward, but for the one step that may.

A model of a few accounts is walked by hypothesis beside the real ledger, on both databases.
"""

import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from recovery.accounts import Act, Outcome, Stage, Verdict
from recovery.errors import Refused, Unverified

STEPS = ("contain.revoke", "notify.email", "enroll.bind", "validate.probe")
PATH_STAGES = (
    *(Stage.CONTAINED, Stage.TOKEN_ISSUED, Stage.NOTIFIED, Stage.ENROLLED, Stage.VALIDATED),
)
NUMBERS = st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True)
_incidents = itertools.count(1)


def histories(world: Any) -> type[RuleBasedStateMachine]:
    """A machine over this world's ledger; every history gets an incident of its own."""

    class Histories(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.incident = f"INC-H-{next(_incidents)}"
            world.open(self.incident)
            world.ledger.admit(
                self.incident,
                [world.placed(n, excluded="break-glass" if n == 4 else None) for n in range(5)],
            )
            self.refs = [world.ref(n, self.incident) for n in range(5)]
            self.before = self._stages()
            self.issued: set[str] = set()
            self.released: set[str] = set()
            self.verdicts: dict[Act, Verdict | None] = {}
            self.reopened: set[Act] = set()
            self.winners: dict[str, str] = {}

        def _stages(self) -> dict[str, Stage]:
            return {a.ref: a.stage for a in world.ledger.accounts(self.incident)}

        def _pick(self, numbers: Sequence[int], *, excluded: bool = True) -> list[str]:
            return [self.refs[n] for n in numbers if excluded or n != 4]

        @rule(numbers=NUMBERS, step=st.sampled_from(STEPS), generation=st.integers(1, 2))
        def intend(self, numbers: list[int], step: str, generation: int) -> None:
            acts = [Act(ref, step, generation) for ref in self._pick(numbers)]
            if 4 in numbers:
                try:
                    world.ledger.intend(self.incident, acts)
                except Refused:
                    return
                raise AssertionError("an excluded account was intended")
            found = world.ledger.intend(self.incident, acts)
            for act in acts:
                known = act in self.verdicts and act not in self.reopened
                assert (act in found.fresh) != known
                if act in found.fresh:
                    self.verdicts[act] = None
                    self.reopened.discard(act)
                assert (act in found.settled) == (
                    self.verdicts[act] in (Verdict.DONE, Verdict.ALREADY)
                )
                assert (act in found.refused) == (self.verdicts[act] is Verdict.REFUSED)

        @rule(
            data=st.data(),
            verdict=st.sampled_from(list(Verdict)),
            advance=st.none() | st.sampled_from(PATH_STAGES),
        )
        def settle(self, data: Any, verdict: Verdict, advance: Stage | None) -> None:
            if not self.verdicts:
                return
            acts = data.draw(
                st.lists(st.sampled_from(sorted(self.verdicts, key=str)), min_size=1, unique=True)
            )
            self._settle(acts, verdict, advance)

        @rule(numbers=NUMBERS, step=st.sampled_from(STEPS), advance=st.sampled_from(PATH_STAGES))
        def carry_out(self, numbers: list[int], step: str, advance: Stage) -> None:
            """The usual way, so that histories get far enough to go wrong."""
            acts = [Act(ref, step) for ref in self._pick(numbers, excluded=False)]
            for act in world.ledger.intend(self.incident, acts).fresh:
                self.verdicts[act] = None
                self.reopened.discard(act)
            self._settle(acts, Verdict.DONE, advance)

        def _settle(self, acts: list[Act], verdict: Verdict, advance: Stage | None) -> None:
            before = self._stages()
            world.ledger.settle(self.incident, [Outcome(a, verdict) for a in acts], advance=advance)
            for act in acts:
                if self.verdicts[act] in (None, Verdict.UNKNOWN):
                    self.verdicts[act] = verdict
            after = self._stages()
            for ref in self.refs:
                mine = [self.verdicts[act] for act in acts if act.subject == ref]
                well = bool(mine) and all(v is not None and v.settled_well for v in mine)
                free = before[ref] not in (Stage.EXCLUDED, Stage.MANUAL)
                forward = advance is not None and free and before[ref].rank < advance.rank
                assert after[ref] == (advance if well and forward else before[ref])

        @rule(data=st.data())
        def reopen(self, data: Any) -> None:
            if not self.verdicts:
                return
            act = data.draw(st.sampled_from(sorted(self.verdicts, key=str)))
            refused = self.verdicts[act] is Verdict.REFUSED and act not in self.reopened
            assert world.ledger.reopen(self.incident, [act]) == int(refused)
            if refused:
                self.reopened.add(act)

        @rule(numbers=NUMBERS)
        def stand_aside(self, numbers: list[int]) -> None:
            refs = self._pick(numbers)
            expected = sum(self._stages()[ref] is Stage.CONTAINED for ref in refs)
            assert world.ledger.stand_aside(self.incident, refs, "why") == expected

        @rule(numbers=NUMBERS)
        def release(self, numbers: list[int]) -> None:
            refs = self._pick(numbers)
            stages = self._stages()
            self.released = {ref for ref in refs if stages[ref] is Stage.MANUAL}
            assert world.ledger.release(self.incident, refs, actor="mona") == len(self.released)

        @rule(numbers=NUMBERS)
        def issue(self, numbers: list[int]) -> None:
            refs = self._pick(numbers)
            issued = world.ledger.issue(self.incident, refs)
            self.issued = {enrollment.ref for enrollment in issued}
            stages = self._stages()
            assert all(stages[ref] in (Stage.TOKEN_ISSUED, Stage.NOTIFIED) for ref in self.issued)
            assert self.refs[4] not in self.issued

        @rule(numbers=NUMBERS)
        def arm(self, numbers: list[int]) -> None:
            world.ledger.arm(self.incident, self._pick(numbers), ttl=timedelta(minutes=15))

        @rule(numbers=NUMBERS)
        def invite_again(self, numbers: list[int]) -> None:
            self.issue(numbers)
            self.arm(numbers)

        @rule(number=st.integers(0, 4), browser=st.sampled_from("ab"))
        def redeem(self, number: int, browser: str) -> None:
            for current in world.ledger.current_enrollments(self.incident, [self.refs[number]]):
                session = f"{current.jti}-{browser}"
                try:
                    world.ledger.begin(current.jti, session_hash=session, ttl=timedelta(minutes=5))
                    world.ledger.redeem(current.jti, session)
                except Unverified:
                    continue
                assert self.winners.setdefault(current.jti, browser) == browser

        @rule(minutes=st.sampled_from([1, 16]))
        def wait(self, minutes: int) -> None:
            world.clock.forward(minutes=minutes)

        @invariant()
        def only_forward(self) -> None:
            after = self._stages()
            for ref, stage in after.items():
                before = self.before[ref]
                if stage is before:
                    continue
                assert before is not Stage.EXCLUDED
                assert stage is not Stage.EXCLUDED
                if before is Stage.MANUAL:
                    assert stage is Stage.CONTAINED
                    assert ref in self.released
                elif stage is Stage.MANUAL:
                    assert before is Stage.CONTAINED
                elif before.rank > stage.rank:
                    assert (before, stage) == (Stage.NOTIFIED, Stage.TOKEN_ISSUED)
                    assert ref in self.issued
            self.before, self.issued, self.released = after, set(), set()

        @invariant()
        def one_invitation_at_a_time(self) -> None:
            now = world.clock.now
            for current in world.ledger.current_enrollments(self.incident, self.refs):
                older = [e for e in self._all(current.ref) if e.jti != current.jti]
                assert not any(world.ledger.live(e, now) for e in older)

        def _all(self, ref: str) -> list[Any]:
            with world.ledger._read() as conn:
                rows = conn.exec_driver_sql(f"SELECT jti FROM enrollments WHERE ref = '{ref}'")
                return [world.ledger.enrollment(row[0]) for row in rows.all()]

        @invariant()
        def the_tally_adds_up(self) -> None:
            tally = world.ledger.tally(self.incident)
            assert sum(tally.stages.values()) == 5
            assert sum(tally.verdicts.values()) == len(self.verdicts)
            still = {record.act for record in world.ledger.unsettled(self.incident)}
            assert still == {a for a, v in self.verdicts.items() if v in (None, Verdict.UNKNOWN)}

        def teardown(self) -> None:
            world.ledger.verify_audit()

    return Histories


def test_histories(world: Any, backend: str) -> None:
    run_state_machine_as_test(
        histories(world),
        settings=settings(
            max_examples=30 if backend == "sqlite" else 8,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
