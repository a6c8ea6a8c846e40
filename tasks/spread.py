"""Runs one act per item, a few at a time, so that what was done is always known at the end."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from recovery.errors import RecoveryError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Spread(Generic[Result]):
    """Results of the items that were worked, and the error that stopped the rest, if any."""

    results: list[Result]
    stopped_by: RecoveryError | None

    def or_raise(self) -> list[Result]:
        """The results, where nothing stopped the rest."""
        if self.stopped_by is not None:
            raise self.stopped_by
        return self.results


async def spread(
    items: Iterable[Item],
    act: Callable[[Item], Awaitable[Result]],
    *,
    width: int,
    before: Callable[[], Awaitable[None]] | None = None,
) -> Spread[Result]:
    """Works on `width` items at a time. A RecoveryError out of `act`, or out of `before`, which is
    asked ahead of each, lets those in flight finish and starts no more; the caller settles the
    results first and raises `stopped_by` then."""
    queue = iter(items)
    results: list[Result] = []
    stopped_by: RecoveryError | None = None

    async def work() -> None:
        nonlocal stopped_by
        for item in queue:
            if stopped_by is not None:
                return
            try:
                if before is not None:
                    await before()
                results.append(await act(item))
            except RecoveryError as error:
                stopped_by = stopped_by or error
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(work())
    return Spread(results, stopped_by)
