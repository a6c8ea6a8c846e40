"""The SIEM client against the rehearsal's Elasticsearch: what it finds is the traffic's truth."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from clients.http import Timeouts, Wire
from clients.siem import ElasticsearchClient
from clients.siem_presets import chosen
from recovery.accounts import Sighting
from recovery.errors import Incomplete, Misconfigured, Refused, Unknown
from recovery.own_resets import OwnResets
from recovery.refusals import AuthCounts
from rehearsal.world.faults import CloseAfter, Delay, InvalidJson, Status
from rehearsal.world.serving import Loopback
from rehearsal.world.siem_app import Credential, SiemApp
from rehearsal.world.traffic import Traffic, generate, tallies
from rehearsal.world.wire_faults import PartialShards, TimedOut

NOW = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
READER = Credential("api_key", "reader", "read-secret")
ANALYST = Credential("basic", "analyst", "pass-word")
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


class Hands:
    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at


def people(prefix: str, count: int) -> list[tuple[str, str, str | None]]:
    return [(f"u-{prefix}{n:05d}", f"{prefix}-{n}", f"{prefix}{n}@x.example") for n in range(count)]


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return generate(random.Random(7), NOW, people("hit", 1_150), people("calm", 600), scale=0.4)


@pytest.fixture(scope="module")
def app(traffic: Traffic) -> SiemApp:
    return SiemApp(Hands().now, traffic.documents, credentials=[READER, ANALYST])


@asynccontextmanager
async def searching(
    app: SiemApp,
    *,
    index: str = "logs-*",
    presets: tuple[str, ...] = ("okta", "ecs"),
    credential: Credential | None = READER,
    read: timedelta = timedelta(seconds=20),
    **settings: Any,
) -> AsyncIterator[ElasticsearchClient]:
    async def sleep(_: float) -> None:
        return

    async with Loopback(app) as server:
        wire = Wire(
            "the SIEM",
            server.url,
            headers={"Authorization": credential.authorization} if credential else None,
            credential="API key",
            timeout=Timeouts(read=read),
            sleep=sleep,
        )
        async with ElasticsearchClient(
            wire, index=index, presets=chosen(presets), **settings
        ) as client:
            yield client


@pytest.fixture
async def siem(app: SiemApp) -> AsyncIterator[ElasticsearchClient]:
    app.faults.clear()
    async with searching(app) as client:
        yield client


async def all_sightings(
    siem: ElasticsearchClient, start: datetime, end: datetime
) -> list[Sighting]:
    return [sighting async for page in siem.sightings(start, end) for sighting in page]


def event(at: datetime, action: str, **more: Any) -> dict[str, Any]:
    return {
        "@timestamp": at.isoformat(),
        "data_stream": {"type": "logs", "dataset": "small", "namespace": "default"},
        "event": {"action": action, "outcome": "success"},
        **more,
    }


def small(*documents: Mapping[str, Any], clock: Hands | None = None, **options: Any) -> SiemApp:
    hands = clock or Hands()
    return SiemApp(hands.now, documents, credentials=[READER], **options)


# Who


async def test_every_account_of_the_burst_is_sighted(
    siem: ElasticsearchClient, app: SiemApp, traffic: Traffic
) -> None:
    truth = traffic.truth
    found = await all_sightings(siem, truth.burst_start, truth.burst_end)
    assert {s.account_id for s in found} == truth.accounts(as_of=NOW)
    assert len(found) > 1_000, "more than one page"
    expected = tallies(truth.burst(as_of=NOW))
    resets: Counter[str] = Counter()
    first: dict[str, datetime] = {}
    last: dict[str, datetime] = {}
    for sighting in found:
        account = sighting.account_id
        resets[account] += sighting.resets
        first[account] = min(first.get(account, sighting.first_seen), sighting.first_seen)
        last[account] = max(last.get(account, sighting.last_seen), sighting.last_seen)
        assert sighting.source in ("okta", "ecs")
    assert resets == {account: tally.count for account, tally in expected.items()}
    assert first == {account: tally.first for account, tally in expected.items()}
    assert last == {account: tally.last for account, tally in expected.items()}
    assert app.open_pits == 0


async def test_the_actor_of_a_mass_reset_is_not_taken_for_a_victim(
    siem: ElasticsearchClient, traffic: Traffic
) -> None:
    truth = traffic.truth
    found = await all_sightings(siem, truth.burst_start, truth.burst_end)
    actors = await siem.actors(truth.burst_start, truth.burst_end, most=1)
    [(busiest, count)] = actors.items()
    assert busiest == "00usvcprovisioning01"
    assert count > 700
    assert busiest not in {s.account_id for s in found}


async def test_resets_that_name_nobody_are_counted_by_source(
    siem: ElasticsearchClient, traffic: Traffic
) -> None:
    truth = traffic.truth
    counts = await siem.unattributed(truth.burst_start, truth.burst_end)
    assert set(counts) == {"okta", "ecs"}
    assert sum(counts.values()) == truth.unattributed(as_of=NOW) == 5
    assert min(counts.values()) > 0


async def test_only_the_chosen_presets_are_searched(app: SiemApp, traffic: Traffic) -> None:
    truth = traffic.truth
    async with searching(app, presets=("ecs",)) as siem:
        found = await all_sightings(siem, truth.burst_start, truth.burst_end)
    assert {s.source for s in found} == {"ecs"}
    assert 0 < len(found) < len(truth.accounts(as_of=NOW))


async def test_stragglers_come_with_a_later_run(traffic: Traffic) -> None:
    clock = Hands()
    truth = traffic.truth
    app = SiemApp(clock.now, traffic.documents, credentials=[READER])
    async with searching(app) as siem:
        first = await all_sightings(siem, truth.burst_start, truth.burst_end)
        clock.at = NOW + timedelta(minutes=10)
        second = await all_sightings(siem, truth.burst_start, truth.burst_end)
    assert {s.account_id for s in second} == truth.accounts()
    assert {s.account_id for s in second} > {s.account_id for s in first}


async def test_the_window_is_half_open() -> None:
    at = NOW - timedelta(hours=1)
    documents = [
        event(at + timedelta(milliseconds=ms), "user-password-reset", user={"id": f"u-{ms}"})
        for ms in (-1, 0, 999, 1_000)
    ]
    async with searching(small(*documents)) as siem:
        found = await all_sightings(siem, at, at + timedelta(seconds=1))
        counts = await siem.reset_counts(at, at + timedelta(seconds=1), timedelta(seconds=1))
    assert {s.account_id for s in found} == {"u-0", "u-999"}
    assert [(b.start, b.count) for b in counts] == [(at, 2)]


async def test_an_administrators_reset_names_the_target_in_plain_ecs() -> None:
    at = NOW - timedelta(hours=1)
    documents = [
        event(at, "user-password-reset", user={"id": "u-admin", "target": {"id": "u-1"}}),
        event(at, "user-password-reset", user={"id": "u-2"}),
        event(at, "user-password-reset"),
    ]
    async with searching(small(*documents)) as siem:
        found = await all_sightings(siem, at, NOW)
        assert await siem.unattributed(at, NOW) == {"okta": 0, "ecs": 1}
    assert {s.account_id for s in found} == {"u-1", "u-2"}


async def test_a_snapshot_is_not_moved_by_new_documents(traffic: Traffic) -> None:
    truth = traffic.truth
    app = SiemApp(Hands().now, traffic.documents, credentials=[READER])
    seen: list[str] = []
    async with searching(app) as siem:
        async for page in siem.sightings(truth.burst_start, truth.burst_end):
            if not seen:
                late = event(truth.burst_start, "user-password-reset", user={"id": "u-zzz"})
                app.append([late])
            seen.extend(s.account_id for s in page)
        assert set(seen) == truth.accounts(as_of=NOW)
        again = await all_sightings(siem, truth.burst_start, truth.burst_end)
    assert {s.account_id for s in again} == {*seen, "u-zzz"}


# How many


async def test_the_series_is_whole_and_true(siem: ElasticsearchClient, traffic: Traffic) -> None:
    start = NOW - timedelta(days=26)
    buckets = await siem.reset_counts(start, NOW, MINUTE)
    assert len(buckets) == 26 * 24 * 60
    assert [b.start for b in buckets] == [start + n * MINUTE for n in range(len(buckets))]
    counted: Counter[datetime] = Counter()
    for reset in traffic.truth.within(start, NOW, as_of=NOW):
        counted[reset.at.replace(second=0, microsecond=0)] += 1
    assert {b.start: b.count for b in buckets if b.count} == counted


async def test_a_crooked_window_counts_only_what_is_inside(
    siem: ElasticsearchClient, traffic: Traffic
) -> None:
    start = traffic.truth.burst_start + timedelta(seconds=20)
    end = start + timedelta(minutes=2, seconds=15)
    buckets = await siem.reset_counts(start, end, MINUTE)
    assert [b.start.second for b in buckets] == [0] * len(buckets)
    assert buckets[0].start <= start
    assert sum(b.count for b in buckets) == len(traffic.truth.within(start, end, as_of=NOW))


async def test_the_last_stretch_is_left_out_where_documents_take_their_time(
    app: SiemApp,
) -> None:
    async with searching(app, until_lag=timedelta(minutes=5)) as siem:
        buckets = await siem.reset_counts(NOW - timedelta(hours=1), NOW, MINUTE)
        assert len(buckets) == 55
        assert await siem.reset_counts(NOW - MINUTE, NOW, MINUTE) == []


@pytest.mark.parametrize("bucket", [timedelta(0), timedelta(microseconds=1500), -MINUTE])
async def test_a_bucket_that_cannot_be(siem: ElasticsearchClient, bucket: timedelta) -> None:
    with pytest.raises(ValueError):
        await siem.reset_counts(NOW - timedelta(hours=1), NOW, bucket)
    with pytest.raises(ValueError):
        await siem.reset_counts(datetime(2026, 3, 4), NOW, MINUTE)


# Never a part


@pytest.mark.parametrize("fault", [PartialShards(), TimedOut(), InvalidJson()])
async def test_a_part_of_the_truth_is_no_answer(
    siem: ElasticsearchClient,
    app: SiemApp,
    traffic: Traffic,
    fault: PartialShards | TimedOut | InvalidJson,
) -> None:
    truth = traffic.truth
    window = (truth.burst_start, truth.burst_end)
    app.faults.inject(fault, "_search", times=None)
    with pytest.raises(Incomplete):
        await all_sightings(siem, *window)
    with pytest.raises(Incomplete):
        await siem.reset_counts(*window, MINUTE)
    with pytest.raises(Incomplete):
        await siem.unattributed(*window)
    with pytest.raises(Incomplete):
        await siem.actors(*window)
    assert app.open_pits == 0


async def test_a_shard_that_is_lost_between_two_pages(
    siem: ElasticsearchClient, app: SiemApp, traffic: Traffic
) -> None:
    truth = traffic.truth
    app.faults.inject(PartialShards(), "_search", spare=1)
    with pytest.raises(Incomplete):
        await all_sightings(siem, truth.burst_start, truth.burst_end)


async def test_a_snapshot_that_expired_is_no_end_of_the_list(traffic: Traffic) -> None:
    clock = Hands()
    truth = traffic.truth
    app = SiemApp(clock.now, traffic.documents, credentials=[READER])
    async with searching(app) as siem:
        pages = siem.sightings(truth.burst_start, truth.burst_end)
        await anext(pages)
        clock.at += timedelta(minutes=6)
        with pytest.raises(Incomplete):
            await anext(pages)


async def test_lost_and_late_answers_are_asked_again(
    siem: ElasticsearchClient, app: SiemApp, traffic: Traffic
) -> None:
    truth = traffic.truth
    app.faults.inject(CloseAfter(), "_search", times=2)
    app.faults.inject(Status(503), "_pit")
    found = await all_sightings(siem, truth.burst_start, truth.burst_end)
    assert {s.account_id for s in found} == truth.accounts(as_of=NOW)


async def test_a_silent_siem_ends_the_search(app: SiemApp) -> None:
    app.faults.clear()
    app.faults.inject(Delay(0.4), "_search", times=None)
    async with searching(app, read=timedelta(seconds=0.05)) as siem:
        with pytest.raises(Unknown):
            await siem.reset_counts(NOW - timedelta(hours=1), NOW, MINUTE)
    app.faults.clear()


async def test_too_many_buckets_is_told() -> None:
    at = NOW - timedelta(hours=1)
    app = small(event(at, "user-password-reset", user={"id": "u-1"}), max_buckets=50)
    async with searching(app) as siem:
        with pytest.raises(Refused):
            await siem.reset_counts(at, NOW, MINUTE)


# Set up wrongly


async def test_check_and_what_it_finds(app: SiemApp) -> None:
    app.faults.clear()
    async with searching(app) as siem:
        await siem.check()
    async with searching(app, credential=ANALYST) as siem:
        await siem.check()
    for wrong in (None, Credential("api_key", "reader", "guess")):
        async with searching(app, credential=wrong) as siem:
            with pytest.raises(Misconfigured) as caught:
                await siem.check()
            assert "API key" in str(caught.value)
            assert "guess" not in str(caught.value)


@pytest.mark.parametrize("index", ["logs-nothing", "metrics-*"])
async def test_an_index_that_is_not_there_is_no_empty_list(app: SiemApp, index: str) -> None:
    app.faults.clear()
    async with searching(app, index=index) as siem:
        with pytest.raises(Misconfigured):
            await siem.check()
        with pytest.raises(Misconfigured):
            await siem.reset_counts(NOW - timedelta(hours=1), NOW, MINUTE)
        with pytest.raises(Misconfigured):
            await all_sightings(siem, NOW - timedelta(hours=1), NOW)


# ---------------------------------------------------------------- our own resets


async def test_our_own_resets_are_left_out_while_we_contained(traffic: Traffic) -> None:
    """By actor and time: the same account at another hour, and others at that hour, still count."""
    app = SiemApp(Hands(NOW + 3 * HOUR).now, traffic.documents, credentials=[READER])
    began = NOW + HOUR
    times = [began + n * timedelta(seconds=1) for n in range(60)]
    app.append([okta_reset(at, f"u-hit{n:05d}", "u-svc-recovery") for n, at in enumerate(times)])
    app.append([okta_reset(began + MINUTE / 2, "u-calm00001", "u-somebody")])
    app.append([okta_reset(began + HOUR, "u-calm00002", "u-svc-recovery")])
    own = OwnResets(("u-svc-recovery",), ((began, began + MINUTE),))
    start, end = NOW + HOUR / 2, NOW + 3 * HOUR
    async with searching(app) as siem:
        everything = await siem.reset_counts(start, end, MINUTE)
        others = await siem.reset_counts(start, end, MINUTE, own=own)
        seen = {s.account_id async for page in siem.sightings(start, end, own=own) for s in page}
        unknown = await siem.unattributed(start, end, own=own)
    assert sum(b.count for b in everything) == 62
    assert [(b.start, b.count) for b in others if b.count] == [(began, 1), (began + HOUR, 1)]
    assert seen == {"u-calm00001", "u-calm00002"}
    assert not any(unknown.values())


def okta_reset(at: datetime, account_id: str, actor: str) -> dict[str, Any]:
    stamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "data_stream": {"type": "logs", "dataset": "okta.system", "namespace": "default"},
        "@timestamp": stamp,
        "event": {
            "action": "user.account.reset_password",
            "outcome": "success",
            "ingested": stamp,
        },
        "user": {"id": actor, "target": {"id": account_id}},
    }


# Authentications of app clients.

CLIENT_WORDS: dict[str, Any] = {
    "actions": ["client-authentication"],
    "client_field": "client.user.id",
}


def authentications(client_id: str, *outcomes: str, at: datetime = NOW) -> list[dict[str, Any]]:
    return [
        event(
            at + timedelta(milliseconds=number),
            "client-authentication",
            client={"user": {"id": client_id}},
            event={"action": "client-authentication", "outcome": outcome},
        )
        for number, outcome in enumerate(outcomes)
    ]


async def test_refused_clients_are_counted_for_each() -> None:
    app = small(
        *authentications("app-1", "success", "failure", "success"),
        *authentications("app-2", "success"),
        *authentications("app-9", "failure"),
        *authentications("app-1", "failure", at=NOW + timedelta(seconds=5)),
        event(NOW, "another-thing", client={"user": {"id": "app-1"}}),
        clock=Hands(NOW + timedelta(minutes=1)),
    )
    async with searching(app) as siem:
        found = await siem.client_authentications(
            ["app-1", "app-2", "app-3"], NOW, NOW + timedelta(seconds=5), **CLIENT_WORDS
        )
        nobody = await siem.client_authentications([], NOW, NOW, **CLIENT_WORDS)
    assert found == {
        "app-1": AuthCounts(refused=1, total=3),
        "app-2": AuthCounts(refused=0, total=1),
        "app-3": AuthCounts(),
    }
    assert nobody == {}


async def test_a_part_of_the_authentications_is_no_answer() -> None:
    app = small(*authentications("app-1", "success", "failure"))
    app.faults.inject(PartialShards(), "_search")
    async with searching(app) as siem:
        with pytest.raises(Incomplete):
            await siem.client_authentications(
                ["app-1"], NOW, NOW + timedelta(seconds=5), **CLIENT_WORDS
            )
