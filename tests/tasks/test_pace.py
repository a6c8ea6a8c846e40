"""The quota of a platform against the real limit of a real Prefect server."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from recovery.errors import Misconfigured
from recovery.policy import Quota
from rehearsal.prefect_server import PrefectServer
from tasks.pace import QuotaPace, check_limit, limit_name

QUOTA = Quota(per_second=20, concurrent=4)
SLACK = 2
"""A late timer moves a request from one second into the next."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    try:
        server.start_server()
        server.wait_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def api(server: PrefectServer) -> Iterator[None]:
    given = {PREFECT_API_URL: server.api, PREFECT_API_AUTH_STRING: server.auth}
    with temporary_settings(given):
        yield


async def make_limit(
    system: str, *, slots: int = 20, decay: float = 20.0, active: bool = True
) -> None:
    async with get_client() as client:
        await client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(
                name=limit_name(system), limit=slots, active=active, slot_decay_per_second=decay
            )
        )


async def calls(pace: QuotaPace, count: int) -> list[float]:
    """When each of `count` requests that all want to go at once was let go."""
    times: list[float] = []

    async def call() -> None:
        await pace()
        times.append(time.monotonic())

    await asyncio.gather(*(call() for _ in range(count)))
    return times


def most_in_a_second(times: list[float]) -> int:
    return max(sum(t <= other < t + 1 for other in times) for t in times)


async def test_never_more_than_the_quota_in_any_second() -> None:
    await make_limit("one")
    times = await calls(QuotaPace("one", QUOTA), 55)
    assert most_in_a_second(times) <= QUOTA.per_second + SLACK
    # And not needlessly slow: 54 intervals of 50 ms, with a lease every half second.
    assert 2.5 <= times[-1] - times[0] < 8


async def test_two_workers_share_one_quota() -> None:
    """Each has its own pace; the limit on the server holds both. It has one second in store."""
    await make_limit("shared")
    began = time.monotonic()
    paces = [QuotaPace("shared", QUOTA) for _ in range(2)]
    times = [t for went in await asyncio.gather(*(calls(p, 40) for p in paces)) for t in went]
    for t in sorted(times):
        let_go = sum(other <= t for other in times)
        assert let_go <= QUOTA.per_second * (t - began + 1) + SLACK
    assert max(times) - began >= 80 / QUOTA.per_second - 1.2


async def test_a_pause_does_not_turn_into_a_burst() -> None:
    await make_limit("paused")
    pace = QuotaPace("paused", QUOTA)
    await calls(pace, 3)
    await asyncio.sleep(1.5)
    times = await calls(pace, 8)
    assert times[-1] - times[0] >= 7 / QUOTA.per_second - 0.05


async def test_a_limit_that_does_not_exist_stops_the_run_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(Misconfigured) as caught:
        await QuotaPace("absent", QUOTA)()
    assert time.monotonic() - began < 10
    assert str(caught.value).startswith("Lease a part of the quota (recovery-absent): ")
    assert "python -m flows.setup" in str(caught.value)


async def test_a_good_limit_passes_the_check() -> None:
    await make_limit("good")
    await check_limit("good", QUOTA)


@pytest.mark.parametrize(
    ("system", "limit", "got"),
    [
        ("missing", None, "none of that name"),
        ("inactive", {"active": False}, "limit 20, decay 20.0, inactive"),
        ("still", {"decay": 0.0}, "limit 20, decay 0.0, active"),
        ("small", {"slots": 9}, "limit 9, decay 20.0, active"),
    ],
)
async def test_a_limit_that_would_not_hold_is_refused_before_the_run(
    system: str, limit: dict[str, float] | None, got: str
) -> None:
    if limit is not None:
        await make_limit(system, **limit)  # type: ignore[arg-type]
    with pytest.raises(Misconfigured) as caught:
        await check_limit(system, QUOTA)
    assert f"Look up a global limit (recovery-{system})" in str(caught.value)
    assert f"got {got}" in str(caught.value)
