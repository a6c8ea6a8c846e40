"""Several processes on one ledger: one winner, one chain, nothing lost when one of them dies."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger
from ledger.revisions import newest
from recovery.accounts import BatchRef, Outcome, Stage, Verdict

ROOT = Path(__file__).resolve().parent.parent.parent
RACER = Path(__file__).with_name("racer.py")


@pytest.fixture
def world(world: Any) -> Any:
    """The racers' clock is the real one, so this world's is, too."""
    world.clock.now = datetime.now(UTC)
    return world


def race(
    url: str, *calls: tuple[str, ...], meanwhile: Callable[[], object] | None = None
) -> list[Any]:
    """Start a process per call, let them go at once, and return their answers. `meanwhile` is
    called here again and again until they are done."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(RACER), url, *call],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        )
        for call in calls
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        while meanwhile is not None and any(process.poll() is None for process in processes):
            meanwhile()
        answers = []
        for process in processes:
            out, err = process.communicate(timeout=60)
            assert process.returncode in (0, -9), err
            answers.append(json.loads(out) if out else None)
        return answers
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def test_two_hundred_racers_redeem_and_one_wins(world: Any, url: str) -> None:
    (enrollment,) = world.armed(1)
    for process in "ab":
        for number in range(100):
            world.ledger.begin(
                enrollment.jti, session_hash=f"{process}-{number}", ttl=timedelta(minutes=10)
            )
    answers = race(url, *(("redeem", enrollment.jti, process, "100") for process in "ab"))
    assert sum((Counter(answer) for answer in answers), Counter()) == {"won": 1, "refused": 199}
    assert world.events().count("enrollment.redeemed") == 1
    world.ledger.verify_audit()


def test_parallel_guesses_get_no_more_attempts(world: Any, url: str) -> None:
    (enrollment,) = world.armed(1)
    world.ledger.begin(enrollment.jti, session_hash="cookie", ttl=timedelta(minutes=10))
    world.ledger.store_code("cookie", code_hash="right", ttl=timedelta(minutes=5), max_sends=3)
    answers = race(url, ("guess", "cookie", "30"), ("guess", "cookie", "30"))
    assert sum((Counter(answer) for answer in answers), Counter()) == {"wrong": 5, "exhausted": 55}


def test_throttle_counts_across_processes(world: Any, url: str) -> None:
    answers = race(url, ("throttle", "ip:1", "40"), ("throttle", "ip:1", "40"))
    assert sum(answers) == 25


def test_two_writers_leave_one_valid_chain(world: Any, url: str) -> None:
    seen: list[int] = []

    def verify() -> None:
        seen.append(world.ledger.verify_audit()[0])

    answers = race(url, *(("write", world.incident, name, "15") for name in "ab"), meanwhile=verify)
    assert answers == ["done", "done"]
    assert len(set(seen)) > 3, "verified while it grew"
    assert seen == sorted(seen)
    count, head = world.ledger.verify_audit()
    assert count == head.seq == 1 + 2 * 15 * 81
    assert world.ledger.tally(world.incident).of_verdict("rotate", Verdict.DONE) == 2 * 15 * 40
    assert [entry.seq for entry in world.ledger.audit()] == list(range(1, count + 1))


def test_two_issuers_give_one_enrollment(world: Any, url: str) -> None:
    refs = world.contained(20)
    one, two = race(url, *(("issue", world.incident, *refs) for _ in "ab"))
    assert one == two
    assert {e.generation for e in world.ledger.current_enrollments(world.incident, refs)} == {1}


def test_two_processes_may_migrate_at_once(empty_url: str) -> None:
    assert race(empty_url, ("migrate",), ("migrate",)) == [newest(), newest()]


@pytest.mark.parametrize("when", ["after intending", "while settling"])
def test_what_a_killed_process_left_is_found(world: Any, url: str, connect: Any, when: str) -> None:
    refs = world.admitted(4)
    assert race(url, ("die", world.incident, when, *refs)) == [None]
    survivor: Ledger = connect()
    left = survivor.unsettled(world.incident)
    assert {record.act.subject for record in left} == set(refs)
    assert {record.verdict for record in left} == {None}
    assert len(survivor.due(BatchRef(world.incident, 0, 0), Stage.CONTAINED)) == 4
    intention = survivor.intend(world.incident, [record.act for record in left])
    assert intention.fresh == ()
    assert len(intention.unsettled) == 4
    outcomes = [Outcome(record.act, Verdict.ALREADY) for record in left]
    survivor.settle(world.incident, outcomes, advance=Stage.CONTAINED)
    assert survivor.unsettled(world.incident) == []
    assert survivor.tally(world.incident).in_stage(Stage.CONTAINED) == 4
    survivor.verify_audit()


def test_a_reader_is_not_held_up_by_a_writer(world: Any, connect: Any) -> None:
    reader: Ledger = connect()
    world.admitted(3)
    with world.ledger._write() as tx:
        tx.log(world.incident, "long")
        assert reader.tally(world.incident).in_stage(Stage.SCOPED) == 3
        assert reader.verify_audit()[0] == 4
    assert reader.verify_audit()[0] == 5
