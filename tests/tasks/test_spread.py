"""A few at a time, and at the end it is known what was done."""

import asyncio

import pytest

from recovery.errors import Misconfigured, RecoveryError, Unreachable
from tasks.spread import spread


class Work:
    """Counts who is at work at once. `bad` items raise instead of answering."""

    def __init__(self, bad: dict[int, Exception] | None = None) -> None:
        self.bad = bad or {}
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.most = 0

    async def __call__(self, item: int) -> str:
        self.begun.append(item)
        self.most = max(self.most, len(self.begun) - len(self.ended))
        await asyncio.sleep(0.001 * (item % 3))
        self.ended.append(item)
        if item in self.bad:
            raise self.bad[item]
        return f"did {item}"


@pytest.mark.parametrize(("items", "width"), [(0, 4), (1, 4), (25, 1), (25, 4), (3, 50)])
async def test_every_item_is_worked_once_and_never_more_than_width_at_once(
    items: int, width: int
) -> None:
    work = Work()
    worked = await spread(range(items), work, width=width)
    assert sorted(worked.results) == sorted(f"did {n}" for n in range(items))
    assert worked.stopped_by is None
    assert sorted(work.begun) == list(range(items))
    assert work.most == min(items, width)


async def test_an_error_lets_those_in_flight_finish_and_starts_no_more() -> None:
    error = Unreachable("Ask the platform")
    work = Work({4: error})
    worked = await spread(range(1000), work, width=4)
    assert worked.stopped_by is error
    # What was begun has ended, and all of it but the failed one is in the results.
    assert sorted(work.begun) == sorted(work.ended)
    assert sorted(worked.results) == sorted(f"did {n}" for n in work.begun if n != 4)
    assert len(work.begun) < 15


async def test_the_first_error_is_the_one_that_is_told() -> None:
    errors: list[RecoveryError] = [Unreachable("first"), Misconfigured("second")]
    release = asyncio.Event()

    async def act(item: int) -> None:
        if item == 1:
            await release.wait()
        else:
            release.set()
        raise errors[item]

    worked = await spread([0, 1], act, width=2)
    assert worked.stopped_by is errors[0]
    assert worked.results == []


async def test_an_item_is_taken_only_when_somebody_is_free_for_it() -> None:
    """A generator is not read ahead: what it yields is decided late."""
    taken: list[int] = []
    running = asyncio.Event()

    def items() -> list[int]:
        return [1, 2, 3]

    def lazily() -> object:
        for item in items():
            taken.append(item)
            yield item

    async def act(item: int) -> int:
        assert taken[-1] <= item + 1
        running.set()
        await asyncio.sleep(0)
        return item

    worked = await spread(lazily(), act, width=1)  # type: ignore[arg-type]
    assert worked.results == [1, 2, 3]


async def test_a_mistake_of_ours_is_not_swallowed() -> None:
    work = Work({2: ZeroDivisionError("ours")})
    with pytest.raises(ExceptionGroup) as caught:
        await spread(range(10), work, width=3)
    assert caught.group_contains(ZeroDivisionError, match="ours")
