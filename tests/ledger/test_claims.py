"""Claims on work: one holder at a time, and what a silent one loses."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

LIFE = timedelta(seconds=60)


def claim(world: Any, holder: str, now: datetime, *work: str) -> Any:
    return world.ledger.claim(world.incident, work, holder=holder, now=now, until=now + LIFE)


def test_one_holder_at_a_time_and_all_or_nothing(world: Any, clock: Any) -> None:
    now = clock()
    assert claim(world, "first", now, "people.0.0", "people.0.1").taken
    refused = claim(world, "second", now, "people.0.1", "people.0.2")
    assert not refused.taken
    assert refused.free_at == now + LIFE
    # Nothing of it was taken: the part that was free still is.
    assert claim(world, "third", now, "people.0.2").taken
    world.ledger.drop_claims(world.incident, "first")
    again = claim(world, "second", now, "people.0.1")
    assert again.taken
    assert again.lapsed_at is None


def test_a_silent_holder_loses_it_and_the_log_says_so(world: Any, clock: Any) -> None:
    now = clock()
    claim(world, "silent", now, "client.app-1")
    later = now + LIFE
    taken = claim(world, "next", later, "client.app-1")
    assert taken.taken
    assert taken.lapsed_at == now + LIFE
    entry = list(world.ledger.audit(world.incident))[-1]
    assert entry.event == "claim.lapsed"
    assert (entry.facts["work"], entry.facts["holder"]) == ("client.app-1", "silent")
    world.ledger.verify_audit()


def test_what_lapsed_cannot_be_renewed(world: Any, clock: Any) -> None:
    """A process that slept must not find its work again: another may have had it meanwhile."""
    now = clock()
    claim(world, "sleeper", now, "people.0.0", "people.0.1")
    renew = world.ledger.renew_claims
    soon = now + LIFE / 2
    assert renew(world.incident, "sleeper", now=soon, until=soon + LIFE) == 2
    late = soon + LIFE
    assert renew(world.incident, "sleeper", now=late, until=late + LIFE) == 0
    claim(world, "next", late, "people.0.0")
    assert renew(world.incident, "sleeper", now=late, until=late + LIFE) == 0
    assert not claim(world, "sleeper", late, "people.0.0").taken


def test_dropping_leaves_what_another_has_taken(world: Any, clock: Any) -> None:
    now = clock()
    claim(world, "sleeper", now, "people.0.0")
    later = now + LIFE
    claim(world, "next", later, "people.0.0")
    world.ledger.drop_claims(world.incident, "sleeper")
    assert not claim(world, "third", later, "people.0.0").taken


def test_of_many_at_once_one_gets_it(world: Any, clock: Any) -> None:
    now = clock()
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda n: claim(world, f"run-{n}", now, "people.0.0").taken, range(32)))
    assert got.count(True) == 1
