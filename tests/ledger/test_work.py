"""Batches, intentions, outcomes: what is left after any interruption, and what never moves."""

import itertools
from datetime import timedelta
from typing import Any

import pytest

from recovery.accounts import Act, BatchRef, Outcome, Priority, Stage, Verdict
from recovery.errors import NotFound, Refused

STEP = "contain.revoke"


def test_waves_and_batches(world: Any) -> None:
    world.ledger.admit(
        world.incident,
        [
            world.placed(0, wave=0, batch=0),
            world.placed(1, wave=1, batch=0),
            world.placed(2, wave=1, batch=1),
            world.placed(3, wave=1, batch=1),
            world.placed(4, wave=2, batch=0, excluded="own service account"),
        ],
    )
    assert world.ledger.waves(world.incident) == {0: 1, 1: 2}
    every = [BatchRef(world.incident, w, b) for w, b in ((0, 0), (1, 0), (1, 1))]
    assert world.ledger.batches(world.incident) == every
    assert world.ledger.batches(world.incident, 1) == every[1:]
    assert world.ledger.batches(world.incident, 7) == []


def test_due_is_exactly_one_step_before_and_urgent_first(world: Any) -> None:
    placed = [
        world.placed(n, priority=Priority.HIGH if n in (3, 4) else Priority.NORMAL)
        for n in range(6)
    ]
    excluded = world.placed(6, excluded="break-glass", priority=Priority.HIGH)
    world.ledger.admit(world.incident, [*placed, excluded, world.placed(7, batch=1)])
    batch = BatchRef(world.incident, 0, 0)
    due = world.ledger.due(batch, Stage.CONTAINED)
    assert len(due) == 6
    assert {account.account_id for account in due[:2]} == {"u000003", "u000004"}
    assert [account.ref for account in due[2:]] == sorted(account.ref for account in due[2:])
    world.carry_out([due[0].ref], STEP, advance=Stage.CONTAINED)
    assert due[0].ref not in [a.ref for a in world.ledger.due(batch, Stage.CONTAINED)]
    assert [a.ref for a in world.ledger.due(batch, Stage.TOKEN_ISSUED)] == [due[0].ref]
    assert world.ledger.due(batch, Stage.NOTIFIED) == []


@pytest.mark.parametrize("stage", [Stage.SCOPED, Stage.EXCLUDED, Stage.MANUAL])
def test_nobody_becomes_due_for_a_stage_beside_the_path(world: Any, stage: Stage) -> None:
    with pytest.raises(ValueError, match="due"):
        world.ledger.due(BatchRef(world.incident, 0, 0), stage)


def test_accounts_are_filtered_and_ordered(world: Any) -> None:
    world.ledger.admit(
        world.incident, [world.placed(n, wave=n % 3, batch=n % 2) for n in range(12)]
    )
    every = list(world.ledger.accounts(world.incident))
    places = [(account.wave, account.batch, account.ref) for account in every]
    assert places == sorted(places)
    assert len(set(places)) == 12
    world.carry_out([every[0].ref, every[-1].ref], STEP, advance=Stage.CONTAINED)
    contained = list(world.ledger.accounts(world.incident, stages=[Stage.CONTAINED]))
    assert [account.ref for account in contained] == [every[0].ref, every[-1].ref]
    assert list(world.ledger.accounts(world.incident, stages=[])) == []
    assert len(list(world.ledger.accounts(world.incident, wave=1))) == 4
    named = [every[7].ref, every[2].ref, "acc-unknown", every[7].ref]
    found = list(world.ledger.accounts(world.incident, refs=named))
    assert [account.ref for account in found] == [every[2].ref, every[7].ref]
    assert list(world.ledger.accounts(world.incident, refs=[])) == []
    world.open("INC-2")
    assert list(world.ledger.accounts("INC-2", refs=named)) == []


def test_account_by_ref(world: Any) -> None:
    with pytest.raises(NotFound):
        world.ledger.account("acc-unknown")


def test_intend_sorts_acts_by_what_is_known(world: Any) -> None:
    refs = world.admitted(5)
    acts = [Act(ref, STEP) for ref in refs]
    assert world.ledger.intend(world.incident, [*acts, acts[0]]).fresh == tuple(acts)
    verdicts = [Verdict.DONE, Verdict.ALREADY, Verdict.REFUSED, Verdict.UNKNOWN]
    outcomes = [Outcome(act, v) for act, v in zip(acts, verdicts, strict=False)]
    world.ledger.settle(world.incident, outcomes)
    head = world.ledger.audit_head()
    again = world.ledger.intend(world.incident, acts)
    assert again.fresh == ()
    assert again.settled == (acts[0], acts[1])
    assert again.refused == (acts[2],)
    assert again.unsettled == (acts[3], acts[4])
    assert world.ledger.audit_head() == head, "what was known is not written again"
    follow_up = world.ledger.intend(world.incident, [Act(refs[0], STEP, generation=2)])
    assert len(follow_up.fresh) == 1


def test_intend_refuses_the_excluded_and_the_unknown_as_a_whole(world: Any) -> None:
    refs = world.admitted(1)
    world.ledger.admit(world.incident, [world.placed(9, excluded="break-glass")])
    head = world.ledger.audit_head()
    with pytest.raises(Refused, match="excluded"):
        world.ledger.intend(world.incident, [Act(refs[0], STEP), Act(world.ref(9), STEP)])
    with pytest.raises(NotFound, match="not admitted"):
        world.ledger.intend(world.incident, [Act(refs[0], STEP), Act("acc-x", STEP)])
    assert world.ledger.audit_head() == head
    assert list(world.ledger.acts(world.incident, "contain")) == []


def test_settling_what_was_never_intended_is_refused_as_a_whole(world: Any) -> None:
    refs = world.admitted(2)
    known = world.ledger.intend(world.incident, [Act(refs[0], STEP)]).fresh[0]
    with pytest.raises(Refused, match="never intended"):
        world.ledger.settle(
            world.incident,
            [Outcome(known, Verdict.DONE), Outcome(Act(refs[1], STEP), Verdict.DONE)],
            advance=Stage.CONTAINED,
        )
    assert world.ledger.unsettled(world.incident)[0].act == known
    assert world.stage(refs[0]) is Stage.SCOPED


def test_a_settled_act_keeps_its_record(world: Any) -> None:
    ref = world.admitted(1)[0]
    act = Act(ref, STEP)
    intended = world.clock.now
    world.ledger.intend(world.incident, [act])
    settled = world.clock.forward(seconds=2)
    world.ledger.settle(
        world.incident,
        [Outcome(act, Verdict.DONE, "revoked", "rcpt-7", (("sessions", 3), ("tokens", 5)))],
        advance=Stage.CONTAINED,
    )
    (record,) = world.ledger.acts(world.incident, STEP)
    assert record.act == act
    assert (record.verdict, record.detail, record.receipt) == (Verdict.DONE, "revoked", "rcpt-7")
    assert record.counts == {"sessions": 3, "tokens": 5}
    assert (record.intended_at, record.settled_at) == (intended, settled)
    entry = list(world.ledger.audit())[-1]
    assert (entry.event, entry.verdict) == ("settle", "DONE")
    assert entry.facts == {
        "step": STEP,
        "generation": 1,
        "detail": "revoked",
        "receipt": "rcpt-7",
        "count.sessions": 3,
        "count.tokens": 5,
        "stage": "CONTAINED",
    }


def test_a_final_verdict_stays(world: Any) -> None:
    finals = [v for v in Verdict if v is not Verdict.UNKNOWN]
    cases = list(itertools.product(finals, Verdict))
    refs = world.admitted(len(cases))
    for ref, (final, later) in zip(refs, cases, strict=True):
        (act,) = world.carry_out([ref], STEP, final)
        before = list(world.ledger.acts(world.incident, STEP))
        world.clock.forward(seconds=1)
        world.ledger.settle(world.incident, [Outcome(act, later, "x")], advance=Stage.CONTAINED)
        assert list(world.ledger.acts(world.incident, STEP)) == before, (final, later)
        # The verdict that stands decides, not the one just given.
        expected = Stage.CONTAINED if final.settled_well else Stage.SCOPED
        assert world.stage(ref) is expected, (final, later)


def test_unknown_may_become_anything(world: Any) -> None:
    refs = world.admitted(len(Verdict))
    acts = world.carry_out(refs, STEP, Verdict.UNKNOWN, advance=Stage.CONTAINED)
    assert {world.stage(ref) for ref in refs} == {Stage.SCOPED}
    assert [record.act for record in world.ledger.unsettled(world.incident)] == acts
    outcomes = [Outcome(act, later) for act, later in zip(acts, Verdict, strict=True)]
    world.ledger.settle(world.incident, outcomes, advance=Stage.CONTAINED)
    assert [r.verdict for r in world.ledger.acts(world.incident, STEP)] == list(Verdict)
    for ref, later in zip(refs, Verdict, strict=True):
        assert (world.stage(ref) is Stage.CONTAINED) == later.settled_well


def test_every_outcome_of_an_account_must_be_well_to_advance(world: Any) -> None:
    """One refused revocation among three leaves the account uncontained, in either order."""
    refs = world.admitted(3)
    steps = ["contain.refresh", "contain.access", "contain.sessions"]
    acts = [Act(ref, step) for ref in refs for step in steps]
    world.ledger.intend(world.incident, acts)
    bad = {Act(refs[0], steps[0]): Verdict.REFUSED, Act(refs[1], steps[2]): Verdict.UNKNOWN}
    world.ledger.settle(
        world.incident,
        [Outcome(act, bad.get(act, Verdict.DONE)) for act in acts],
        advance=Stage.CONTAINED,
    )
    stages = [world.stage(ref) for ref in refs]
    assert stages == [Stage.SCOPED, Stage.SCOPED, Stage.CONTAINED]


def test_of_two_outcomes_for_one_act_the_final_one_counts(world: Any) -> None:
    ref = world.admitted(1)[0]
    act = Act(ref, STEP)
    world.ledger.intend(world.incident, [act])
    told = [
        Outcome(act, Verdict.UNKNOWN),
        Outcome(act, Verdict.DONE),
        Outcome(act, Verdict.UNKNOWN),
    ]
    world.ledger.settle(world.incident, told)
    (record,) = world.ledger.acts(world.incident, STEP)
    assert record.verdict is Verdict.DONE


def test_accounts_never_go_backward_nor_out_of_where_they_stand_aside(world: Any) -> None:
    refs = world.admitted(3)
    world.carry_out(refs[:2], "enroll.bind", advance=Stage.ENROLLED)
    world.carry_out(refs[:1], "notify.email", advance=Stage.NOTIFIED)
    assert world.stage(refs[0]) is Stage.ENROLLED
    world.carry_out([refs[2]], STEP, advance=Stage.CONTAINED)
    assert world.ledger.stand_aside(world.incident, refs, "no usable contact") == 1
    world.carry_out([refs[2]], "notify.email", advance=Stage.NOTIFIED)
    assert world.stage(refs[2]) is Stage.MANUAL


@pytest.mark.parametrize("stage", [Stage.SCOPED, Stage.EXCLUDED, Stage.MANUAL])
def test_no_outcome_advances_to_a_stage_beside_the_path(world: Any, stage: Stage) -> None:
    with pytest.raises(ValueError, match="moves"):
        world.ledger.settle(world.incident, [], advance=stage)


def test_reopened_acts_are_fresh_once(world: Any) -> None:
    refs = world.admitted(3)
    acts = world.carry_out(refs[:2], STEP, Verdict.REFUSED)
    done = world.carry_out(refs[2:], STEP)
    assert world.ledger.reopen(world.incident, [*acts[:1], *done, Act("acc-none", STEP)]) == 1
    assert world.ledger.reopen(world.incident, acts[:1]) == 0
    assert world.ledger.tally(world.incident).of_verdict(STEP, Verdict.REFUSED) == 2
    world.ledger.settle(world.incident, [Outcome(acts[0], Verdict.DONE)])
    assert world.ledger.tally(world.incident).of_verdict(STEP, Verdict.REFUSED) == 2
    world.clock.forward(seconds=1)
    again = world.ledger.intend(world.incident, acts)
    assert (again.fresh, again.refused) == ((acts[0],), (acts[1],))
    assert world.ledger.intend(world.incident, acts).unsettled == (acts[0],)
    world.ledger.settle(world.incident, [Outcome(acts[0], Verdict.DONE)], advance=Stage.CONTAINED)
    assert world.stage(refs[0]) is Stage.CONTAINED
    assert world.events().count("reopen") == 1


def test_standing_aside_and_release(world: Any) -> None:
    refs = world.contained(3)
    world.carry_out(refs[2:], "enroll.issue", advance=Stage.TOKEN_ISSUED)
    assert world.ledger.stand_aside(world.incident, refs, "brand account: call them") == 2
    assert world.ledger.stand_aside(world.incident, refs, "again") == 0
    account = world.account(refs[0])
    assert (account.stage, account.stage_reason) == (Stage.MANUAL, "brand account: call them")
    assert world.ledger.due(BatchRef(world.incident, 0, 0), Stage.TOKEN_ISSUED) == []
    assert world.ledger.release(world.incident, refs, actor="mona") == 2
    assert world.ledger.release(world.incident, refs, actor="mona") == 0
    account = world.account(refs[0])
    assert (account.stage, account.stage_reason) == (Stage.CONTAINED, "")
    events = [(e.event, e.actor) for e in world.ledger.audit()]
    assert events[-1] == ("stage.released", "mona")


def test_released_are_those_who_came_back(world: Any) -> None:
    refs = world.contained(4)
    world.ledger.stand_aside(world.incident, refs[:3], "call them")
    assert world.ledger.released(world.incident) == frozenset()
    world.ledger.release(world.incident, refs[1:], actor="mona")
    assert world.ledger.released(world.incident) == {refs[1], refs[2]}
    world.carry_out(refs[1:2], "enroll.bind", advance=Stage.ENROLLED)
    world.ledger.stand_aside(world.incident, refs[2:3], "again")
    assert world.ledger.released(world.incident) == {refs[1]}


def test_acts_by_step_and_by_phase_in_order_of_intention(world: Any) -> None:
    refs = world.admitted(2)
    world.carry_out(refs, "notify.email")
    world.clock.forward(seconds=1)
    world.carry_out(refs, "notify.sms", Verdict.REFUSED)
    world.carry_out(refs, "notifyx")
    world.carry_out(refs, "notify_y")
    world.clock.forward(seconds=1)
    world.ledger.reopen(world.incident, [Act(refs[0], "notify.sms")])
    world.ledger.intend(world.incident, [Act(refs[0], "notify.sms")])
    steps = [(r.act.step, r.act.subject) for r in world.ledger.acts(world.incident, "notify")]
    assert steps == [
        ("notify.email", refs[0]),
        ("notify.email", refs[1]),
        ("notify.sms", refs[1]),
        ("notify.sms", refs[0]),
    ]
    assert len(list(world.ledger.acts(world.incident, "notify.email"))) == 2
    assert list(world.ledger.acts(world.incident, "notify%")) == []


def test_acts_are_paged_without_loss(world: Any) -> None:
    refs = world.admitted(1200)
    world.carry_out(refs, "notify.email")
    world.carry_out(refs, "notify.sms")
    seen = [(r.act.subject, r.act.step) for r in world.ledger.acts(world.incident, "notify")]
    assert len(seen) == len(set(seen)) == 2400
    assert len({a.ref for a in world.ledger.accounts(world.incident)}) == 1200


def test_tally_counts_by_wave(world: Any) -> None:
    world.ledger.admit(world.incident, [world.placed(n, wave=n % 2) for n in range(6)])
    evens, odds = [world.ref(n) for n in (0, 2, 4)], [world.ref(n) for n in (1, 3, 5)]
    world.carry_out(evens, STEP, advance=Stage.CONTAINED)
    world.carry_out(odds[:1], STEP, Verdict.REFUSED)
    world.ledger.intend(world.incident, [Act(odds[1], STEP), Act("client-1", "rotate.create")])
    tally = world.ledger.tally(world.incident)
    assert tally.stages == {(0, Stage.CONTAINED): 3, (1, Stage.SCOPED): 3}
    assert tally.verdicts == {
        (STEP, 0, Verdict.DONE): 3,
        (STEP, 1, Verdict.REFUSED): 1,
        (STEP, 1, None): 1,
        ("rotate.create", -1, None): 1,
    }
    assert tally.of_verdict("contain", None, Verdict.REFUSED) == 2


def test_stage_times_tell_the_first_arrival(world: Any) -> None:
    refs = sorted(world.contained(2))
    start = world.clock.now
    world.clock.forward(minutes=1)
    world.ledger.issue(world.incident, refs)
    world.clock.forward(minutes=1)
    world.ledger.arm(world.incident, refs, ttl=timedelta(minutes=5))
    world.carry_out(refs[:1], "notify.email", advance=Stage.NOTIFIED)
    world.clock.forward(minutes=1)
    world.ledger.issue(world.incident, refs[:1])
    times = list(world.ledger.stage_times(world.incident))
    assert times == [
        (refs[0], Stage.SCOPED, start),
        (refs[0], Stage.CONTAINED, start),
        (refs[0], Stage.TOKEN_ISSUED, start + timedelta(minutes=1)),
        (refs[0], Stage.NOTIFIED, start + timedelta(minutes=2)),
        (refs[1], Stage.SCOPED, start),
        (refs[1], Stage.CONTAINED, start),
        (refs[1], Stage.TOKEN_ISSUED, start + timedelta(minutes=1)),
    ]


def test_stage_times_are_paged_without_loss(world: Any) -> None:
    refs = world.contained(1100)
    times = list(world.ledger.stage_times(world.incident))
    assert len(times) == len(set(times)) == 2200
    assert [ref for ref, _, _ in times] == [ref for ref in sorted(refs) for _ in range(2)]


def test_spans_from_the_first_intention_to_the_last_outcome(world: Any) -> None:
    """By incident and by exactly this step: other steps and incidents don't widen them."""
    assert world.ledger.spans(STEP) == []
    world.ledger.admit(world.incident, [world.placed(n) for n in range(2)])
    first, second = [a.ref for a in world.ledger.accounts(world.incident)]
    began = world.ledger.now()
    world.carry_out([first], STEP)
    ended = world.clock.forward(minutes=9)
    world.carry_out([second], STEP)
    world.clock.forward(hours=1)
    world.carry_out([first], f"{STEP}.more")
    assert world.ledger.spans(STEP) == [(began, ended)]
