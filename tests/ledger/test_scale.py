"""Large incidents: memory stays flat, and what things cost here is printed (run pytest with -s).

LEDGER_ACCOUNTS=100000 pytest -s tests/ledger/test_scale.py -k costs repeats the figures of
docs/decisions/0002-ledger.md.
"""

import itertools
import os
import time
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from recovery.accounts import Account, Act, BatchRef, Outcome, Stage, Verdict

ACCOUNTS = int(os.environ.get("LEDGER_ACCOUNTS", "5000"))
HOUR = timedelta(hours=1)


@pytest.fixture
def large(world: Any) -> Any:
    world.ledger.admit(
        world.incident,
        [world.placed(n, wave=n // 2_500, batch=n // 500 % 5) for n in range(ACCOUNTS)],
    )
    return world


def peak(work: Callable[[], object]) -> int:
    work()  # once before, so that caches are filled
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_accounts_and_log_stream_in_flat_memory(large: Any) -> None:
    def take(count: int) -> int:
        accounts = large.ledger.accounts(large.incident)
        return sum(isinstance(a, Account) for a in itertools.islice(accounts, count))

    assert take(ACCOUNTS * 2) == ACCOUNTS
    few, all_of_them = peak(lambda: take(1_000)), peak(lambda: take(ACCOUNTS))
    assert all_of_them < few * 2.5, "two pages may be held, not five"

    def read(count: int) -> int:
        return sum(1 for _ in itertools.islice(large.ledger.audit(), count))

    few, all_of_them = peak(lambda: read(1_000)), peak(lambda: read(ACCOUNTS))
    assert all_of_them < few * 2.5
    verifying = peak(large.ledger.verify_audit)
    assert verifying < few * 2.5


def test_what_a_batch_costs(large: Any, backend: str) -> None:
    spent: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        spent.setdefault(name, []).append(time.perf_counter() - start)
        return result

    more = [large.placed(n, wave=99, batch=n // 500) for n in range(ACCOUNTS, ACCOUNTS + 500)]
    timed("admit", lambda: large.ledger.admit(large.incident, more))

    def carry_out(batch: BatchRef) -> list[str]:
        due = timed("due", lambda: large.ledger.due(batch, Stage.CONTAINED))
        acts = [Act(account.ref, "contain.revoke") for account in due]
        timed("intend", lambda: large.ledger.intend(large.incident, acts))
        outcomes = [Outcome(act, Verdict.DONE, receipt=act.subject[4:]) for act in acts]
        contained = Stage.CONTAINED
        timed("settle", lambda: large.ledger.settle(large.incident, outcomes, advance=contained))
        timed("tally", lambda: large.ledger.tally(large.incident))
        return [act.subject for act in acts]

    for batch in large.ledger.batches(large.incident):
        refs = carry_out(batch)
        assert len(refs) == 500
    timed("issue", lambda: large.ledger.issue(large.incident, refs))
    timed("arm", lambda: large.ledger.arm(large.incident, refs, ttl=timedelta(minutes=15)))
    timed("verify", large.ledger.verify_audit)
    entries = large.ledger.audit_head().seq
    for _ in range(100):
        timed("note", lambda: large.ledger.note(large.incident, "n", actor="a", facts={}))
    for number in range(100):
        key = f"ip:{number % 7}"
        timed("throttle", partial(large.ledger.throttle, key, limit=9, per=HOUR))
    assert large.ledger.tally(large.incident).in_stage(Stage.CONTAINED) == ACCOUNTS
    print(f"\n{backend}, {ACCOUNTS} accounts in batches of 500, {entries} audit entries verified;")
    print("  milliseconds   average    longest        all")
    for name, seconds in spent.items():
        figures = (sum(seconds) / len(seconds), max(seconds), sum(seconds))
        print(f"  {name:9}" + "".join(f"{figure * 1000:11.1f}" for figure in figures))


def test_keys_are_looked_up_and_the_incident_is_not_walked(world: Any, backend: str) -> None:
    """Each batch once walked its whole incident: a planner without statistics preferred the
    incident's index, and a condition rendered as "... = 1" fitted no index at all."""
    if backend != "sqlite":
        pytest.skip("SQLite's planner decides by the statement alone; PostgreSQL's by statistics")
    refs = world.contained(3)
    engine = world.ledger._db._engine(create=False)
    said: list[tuple[str, Any]] = []

    def listen(*call: Any) -> None:
        said.append((call[2], call[3]))

    sa.event.listen(engine, "before_cursor_execute", listen)
    world.ledger.record_sightings(world.incident, [world.sighting(n) for n in range(3)])
    world.ledger.admit(world.incident, [world.placed(n) for n in range(5)])
    world.carry_out(refs, "enroll.issue", advance=Stage.TOKEN_ISSUED)
    world.ledger.issue(world.incident, refs)
    world.ledger.arm(world.incident, refs, ttl=HOUR)
    list(world.ledger.accounts(world.incident, refs=refs))
    world.ledger.due(BatchRef(world.incident, 0, 0), Stage.CONTAINED)
    sa.event.remove(engine, "before_cursor_execute", listen)
    plans = []
    with world.ledger._read() as conn:
        for statement, parameters in said:
            if " IN (" in statement or "batch = ?" in statement:
                rows = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                plans += [row[3] for row in rows if row[3].startswith(("SEARCH", "SCAN"))]
    assert len(plans) > 8
    for plan in plans:
        assert plan.startswith("SEARCH"), plan
        assert not plan.endswith("(incident_id=?)"), plan
