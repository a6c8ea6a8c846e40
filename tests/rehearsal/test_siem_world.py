"""The SIEM server speaks Elasticsearch's wire with its semantics, and what a search finds is
exactly what the traffic's own truth says."""

import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest
import pytest_asyncio

from rehearsal.world.faults import CloseAfter, CloseBefore, Delay, InvalidJson, Status
from rehearsal.world.serving import Loopback
from rehearsal.world.siem_app import Credential, SiemApp
from rehearsal.world.traffic import Tally, Traffic, generate, tallies
from rehearsal.world.wire_faults import PartialShards, TimedOut

NOW = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
READER = Credential("api_key", "reader", "read-secret")
SHIPPER = Credential("api_key", "shipper", "ship-secret", may_write=True)
ANALYST = Credential("basic", "analyst", "pass-word")
CREDENTIALS = (READER, SHIPPER, ANALYST)
RESET_ACTIONS = ["user.account.reset_password", "user-password-reset"]


class Hands:
    """A clock that stands still until it is set."""

    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at


def people(prefix: str, count: int) -> list[tuple[str, str, str | None]]:
    return [(f"u-{prefix}{n:05d}", f"{prefix}-{n}", f"{prefix}{n}@x.example") for n in range(count)]


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return generate(random.Random(7), NOW, people("hit", 338), people("calm", 1_500))


@pytest.fixture(scope="module")
def big(traffic: Traffic) -> SiemApp:
    return SiemApp(Hands().now, traffic.documents, credentials=CREDENTIALS)


@asynccontextmanager
async def served(
    app: SiemApp, credential: Credential | None = READER
) -> AsyncIterator[httpx.AsyncClient]:
    headers = {} if credential is None else {"Authorization": credential.authorization}
    async with (
        Loopback(app) as loopback,
        httpx.AsyncClient(base_url=loopback.url, headers=headers, timeout=20) as client,
    ):
        yield client


@pytest.fixture
async def siem(big: SiemApp) -> AsyncIterator[httpx.AsyncClient]:
    big.faults.clear()
    async with served(big) as client:
        yield client


def event(
    at: datetime, action: str = "user-password-reset", ingested: datetime | None = None, **more: Any
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "@timestamp": at.isoformat(),
        "data_stream": {"type": "logs", "dataset": "small", "namespace": "default"},
        "event": {"action": action, "outcome": "success"},
        **more,
    }
    if ingested is not None:
        document["event"]["ingested"] = ingested.isoformat()
    return document


def small(*documents: dict[str, Any], clock: Hands | None = None, **options: Any) -> SiemApp:
    hands = clock if clock is not None else Hands()
    return SiemApp(hands.now, documents, credentials=CREDENTIALS, **options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three() -> AsyncIterator[httpx.AsyncClient]:
    """Documents a, b and c, one a minute up to now, in every spelling of user.target.id."""
    okta = [{"id": "u-1", "type": "User"}, {"id": "app-1", "type": "AppInstance"}]
    documents = [
        event(NOW - timedelta(minutes=3), tag="a", okta={"target": okta})
        | {"user": {"target": {"id": "u-1"}}},
        event(NOW - timedelta(minutes=2), tag="b", source={"port": 443})
        | {"user.target.id": "u-1"},
        event(NOW - timedelta(minutes=1), tag="c", okta={"target": [{"id": "u-2", "type": "User"}]})
        | {"user": {"target.id": "u-2"}},
    ]
    async with served(small(*documents)) as client:
        yield client


def resets_in(start: datetime, end: datetime) -> dict[str, Any]:
    window = {"gte": start.isoformat(), "lt": end.isoformat()}
    return {
        "bool": {
            "filter": [
                {"range": {"@timestamp": window}},
                {"terms": {"event.action": RESET_ACTIONS}},
                {"term": {"event.outcome": "success"}},
            ]
        }
    }


def only(query: dict[str, Any], *more: dict[str, Any]) -> dict[str, Any]:
    return {"bool": {"filter": [query, *more]}}


OKTA = {"term": {"event.module": "okta"}}
PLAIN = {"bool": {"must_not": [OKTA]}}


async def searched(
    client: httpx.AsyncClient, body: dict[str, Any], path: str = "/logs-*/_search"
) -> dict[str, Any]:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def composite_pages(
    client: httpx.AsyncClient,
    query: dict[str, Any],
    field: str,
    *,
    size: int = 100,
    missing_bucket: bool = False,
    path: str = "/logs-*/_search",
    pit: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Every bucket of a composite, walked by after_key until it is absent."""
    source: dict[str, Any] = {"field": field}
    if missing_bucket:
        source["missing_bucket"] = True
    composite: dict[str, Any] = {"size": size, "sources": [{"uid": {"terms": source}}]}
    times = {
        "first": {"min": {"field": "@timestamp"}},
        "last": {"max": {"field": "@timestamp"}},
    }
    buckets: list[dict[str, Any]] = []
    for _ in range(200):
        body: dict[str, Any] = {
            "size": 0,
            "query": query,
            "aggs": {"accounts": {"composite": composite, "aggs": times}},
        }
        if pit is not None:
            body["pit"] = pit
        answer = await searched(client, body, path)
        if pit is not None:
            pit = {**pit, "id": answer["pit_id"]}
        part = answer["aggregations"]["accounts"]
        buckets.extend(part["buckets"])
        if "after_key" not in part:
            return buckets
        composite = {**composite, "after": part["after_key"]}
    raise AssertionError("the walk does not end")


def as_tallies(*walks: list[dict[str, Any]]) -> dict[str, Tally]:
    """The buckets of several walks joined by account, without the null bucket."""
    joined: dict[str, Tally] = {}
    for bucket in (bucket for walk in walks for bucket in walk):
        uid = bucket["key"]["uid"]
        if uid is None:
            continue
        first = datetime.fromisoformat(bucket["first"]["value_as_string"])
        last = datetime.fromisoformat(bucket["last"]["value_as_string"])
        count = bucket["doc_count"]
        if uid in joined:
            known = joined[uid]
            first, last = min(first, known.first), max(last, known.last)
            count += known.count
        joined[uid] = Tally(first, last, count)
    return joined


async def affected_accounts(client: httpx.AsyncClient, traffic: Traffic) -> dict[str, Tally]:
    query = resets_in(traffic.truth.burst_start, traffic.truth.burst_end)
    okta = await composite_pages(client, only(query, OKTA), "user.target.id")
    plain = await composite_pages(client, only(query, PLAIN), "user.id")
    return as_tallies(okta, plain)


# ---------------------------------------------------------------- the traffic and its truth


def test_traffic_has_the_asked_shape(traffic: Traffic) -> None:
    truth = traffic.truth
    assert 40_000 <= len(traffic.documents) <= 60_000
    assert truth.burst_start == NOW - timedelta(minutes=12)
    hit = {person[0] for person in people("hit", 338)}
    assert hit <= truth.accounts()
    assert truth.accounts() - hit == truth.bystanders
    assert 1 <= len(truth.bystanders) <= 2
    assert truth.unattributed() == 5
    assert len(truth.late_ids) == 6
    counts = Counter(tally.count for tally in tallies(truth.burst()).values())
    assert counts[2] >= 3
    for day in range(1, 26):
        start = NOW - timedelta(days=day)
        resets = len(truth.within(start - timedelta(days=1), start))
        assert 55 <= resets <= 120
    stamps = [document["@timestamp"] for document in traffic.documents]
    assert stamps == sorted(stamps)
    assert max(stamps) <= NOW.isoformat()[:-6] + ".000Z"


def test_traffic_has_a_weekly_rhythm(traffic: Traffic) -> None:
    by_weekday: Counter[int] = Counter()
    days: Counter[int] = Counter()
    for day in range(2, 26):
        start = (NOW - timedelta(days=day)).replace(hour=0)
        by_weekday[start.weekday()] += len(traffic.truth.within(start, start + timedelta(days=1)))
        days[start.weekday()] += 1
    mean = {weekday: by_weekday[weekday] / days[weekday] for weekday in days}
    assert min(mean[0], mean[1], mean[2]) > max(mean[5], mean[6])


def test_traffic_is_the_same_for_a_seed() -> None:
    one, two, other = (
        generate(random.Random(seed), NOW, people("a", 50), people("b", 200), scale=0.1)
        for seed in (3, 3, 4)
    )
    assert one == two
    assert one != other


def test_traffic_of_a_default_world_is_quick() -> None:
    began = time.process_time()
    generate(random.Random(3), NOW, people("a", 338), people("b", 400))
    assert time.process_time() - began < 4  # 0.8 s alone on two idle cores


def test_scale_multiplies_the_ordinary_traffic() -> None:
    tenth = generate(random.Random(3), NOW, people("a", 50), people("b", 200), scale=0.1)
    assert 3_500 <= len(tenth.documents) <= 7_000
    assert len(tenth.truth.accounts()) in (51, 52)


def test_the_burst_is_where_the_world_says() -> None:
    start = NOW - timedelta(hours=2)
    crowd = people("a", 60)
    hits = {person[0]: start + timedelta(seconds=5 * n) for n, person in enumerate(crowd)}
    truth = generate(
        random.Random(5), NOW, crowd, people("b", 50), 2, burst_start=start, hits=hits
    ).truth
    found = tallies(truth.burst())
    assert {uid: found[uid].first for uid in hits} == hits
    with pytest.raises(ValueError, match="outside"):
        generate(random.Random(5), NOW, crowd, [], 2, hits={crowd[0][0]: NOW})


def test_both_document_shapes_are_in_the_burst(traffic: Traffic) -> None:
    ids = {reset.document_id for reset in traffic.truth.burst()}
    burst = [d for d in traffic.documents if d["event"]["id"] in ids]
    okta = [d for d in burst if d["event"].get("module") == "okta"]
    plain = [d for d in burst if d["event"]["action"] == "user-password-reset"]
    assert len(okta) + len(plain) == len(burst)
    assert min(len(okta), len(plain)) > 50
    admin = [d for d in okta if d["user"]["name"] == "svc-provisioning@corp.example"]
    assert len(admin) > 100
    persons = [t for d in admin for t in d["okta"]["target"] if t["type"] == "User"]
    assert any(person["alternate_id"] == "unknown" for person in persons)
    assert all("email" not in d["user"].get("target", {}) for d in okta)
    assert all(d["event"]["category"] == ["iam"] for d in plain)


# ---------------------------------------------------------------- what a search finds


async def test_composite_pages_sum_to_the_truth(traffic: Traffic) -> None:
    truth = traffic.truth
    late = truth.late_accounts(NOW)
    assert late
    clock = Hands()
    app = SiemApp(clock.now, traffic.documents, credentials=CREDENTIALS)
    async with served(app) as client:
        found = await affected_accounts(client, traffic)
        assert found == tallies(truth.burst(as_of=NOW))
        assert not late & set(found)
        clock.at = NOW + timedelta(minutes=5)
        again = await affected_accounts(client, traffic)
        assert again == tallies(truth.burst())
        assert late <= set(again)


async def test_missing_bucket_counts_the_unattributed(
    siem: httpx.AsyncClient, traffic: Traffic
) -> None:
    truth = traffic.truth
    query = resets_in(truth.burst_start, truth.burst_end)
    for part, field in ((OKTA, "user.target.id"), (PLAIN, "user.id")):
        without = await composite_pages(siem, only(query, part), field)
        including = await composite_pages(siem, only(query, part), field, missing_bucket=True)
        assert including[0]["key"]["uid"] is None
        assert including[1:] == without
        body = {"query": only(query, part), "aggs": {"nobody": {"missing": {"field": field}}}}
        nobody = (await searched(siem, body))["aggregations"]["nobody"]["doc_count"]
        assert nobody == including[0]["doc_count"]
        if part is OKTA:
            okta_nobody = nobody
    assert okta_nobody + nobody == truth.unattributed()


async def test_composite_keys_ascend_and_pages_are_full(
    siem: httpx.AsyncClient, traffic: Traffic
) -> None:
    query = resets_in(NOW - timedelta(days=30), NOW)
    big_pages = await composite_pages(siem, query, "user.id", size=1_000)
    small_pages = await composite_pages(siem, query, "user.id", size=37)
    assert big_pages == small_pages
    keys = [bucket["key"]["uid"] for bucket in big_pages]
    assert keys == sorted(set(keys))


async def test_composite_of_two_sources_in_both_orders() -> None:
    documents = [
        event(NOW - timedelta(minutes=n), action=a, user={"id": u})
        for n, (a, u) in enumerate([("x", "2"), ("y", "1"), ("x", "1"), ("x", "2")], 1)
    ]
    sources = [
        {"action": {"terms": {"field": "event.action", "order": "desc"}}},
        {"uid": {"terms": {"field": "user.id"}}},
    ]
    async with served(small(*documents)) as client:
        keys: list[Any] = []
        after: dict[str, Any] = {}
        for _ in range(5):
            body = {
                "size": 0,
                "aggs": {"c": {"composite": {"size": 2, "sources": sources, **after}}},
            }
            part = (await searched(client, body))["aggregations"]["c"]
            keys += [(*b["key"].values(), b["doc_count"]) for b in part["buckets"]]
            if "after_key" not in part:
                break
            after = {"after": part["after_key"]}
    assert keys == [("y", "1", 1), ("x", "1", 1), ("x", "2", 2)]


async def test_date_histogram_fills_empty_minutes_fast(
    siem: httpx.AsyncClient, traffic: Traffic
) -> None:
    start = NOW - timedelta(days=26)
    histogram: dict[str, dict[str, Any]] = {
        "date_histogram": {
            "field": "@timestamp",
            "fixed_interval": "1m",
            "min_doc_count": 0,
            "extended_bounds": {"min": start.isoformat(), "max": NOW.isoformat()},
        }
    }
    body = {"size": 0, "query": resets_in(start, NOW), "aggs": {"minutes": histogram}}
    await searched(siem, body)  # the columns are read once
    began = time.process_time()
    answer = await searched(siem, {"size": 0, "aggs": {"minutes": histogram}})
    assert time.process_time() - began < 1
    everything = answer["aggregations"]["minutes"]["buckets"]
    assert sum(b["doc_count"] for b in everything) == answer["hits"]["total"]["value"]
    buckets = (await searched(siem, body))["aggregations"]["minutes"]["buckets"]
    assert len(buckets) == 26 * 24 * 60 + 1
    keys = [bucket["key"] for bucket in buckets]
    assert {b - a for a, b in pairwise(keys)} == {60_000}
    assert buckets[0]["key_as_string"] == "2026-02-06T10:00:00.000Z"
    assert sum(b["doc_count"] == 0 for b in buckets) > 30_000
    truth = traffic.truth.within(start, NOW, as_of=NOW)
    assert sum(bucket["doc_count"] for bucket in buckets) == len(truth)
    sparse: dict[str, Any] = {**histogram["date_histogram"], "min_doc_count": 1}
    body["aggs"] = {"minutes": {"date_histogram": sparse}}
    filled = (await searched(siem, body))["aggregations"]["minutes"]["buckets"]
    assert filled == [bucket for bucket in buckets if bucket["doc_count"]]


async def test_terms_is_a_top_list_that_owns_up(siem: httpx.AsyncClient, traffic: Traffic) -> None:
    truth = traffic.truth
    query = only(resets_in(truth.burst_start, truth.burst_end), OKTA)
    body: dict[str, Any] = {
        "size": 0,
        "query": query,
        "aggs": {"top": {"terms": {"field": "user.target.id"}}},
    }
    part = (await searched(siem, body))["aggregations"]["top"]
    assert len(part["buckets"]) == 10
    counts = [bucket["doc_count"] for bucket in part["buckets"]]
    assert counts == sorted(counts, reverse=True)
    walk = await composite_pages(siem, query, "user.target.id")
    assert sum(counts) + part["sum_other_doc_count"] == sum(b["doc_count"] for b in walk)
    assert part["sum_other_doc_count"] > 0
    body["aggs"]["top"]["terms"].update(size=5, order={"_key": "asc"})
    part = (await searched(siem, body))["aggregations"]["top"]
    assert [b["key"] for b in part["buckets"]] == [b["key"]["uid"] for b in walk[:5]]


async def test_metrics_of_one_account() -> None:
    documents = [
        event(NOW - timedelta(minutes=3), user={"id": "u-1", "email": "old@x.example"}),
        event(NOW - timedelta(minutes=1), user={"id": "u-1", "email": "new@x.example"}),
        event(NOW - timedelta(minutes=2), user={"id": "u-2"}),
        event(NOW - timedelta(minutes=2)),
    ]
    newest = [{"@timestamp": {"order": "desc"}}]
    aggs = {
        "accounts": {
            "terms": {"field": "user.id"},
            "aggs": {
                "first": {"min": {"field": "@timestamp"}},
                "last": {"max": {"field": "@timestamp"}},
                "mails": {"value_count": {"field": "user.email"}},
                "latest": {"top_metrics": {"metrics": {"field": "user.email"}, "sort": newest}},
                "document": {"top_hits": {"size": 1, "sort": newest, "_source": ["user.email"]}},
            },
        },
        "distinct": {"cardinality": {"field": "user.id"}},
        "second": {"filter": {"term": {"user.id": "u-2"}}},
        "none": {"max": {"field": "event.created"}},
    }
    async with served(small(*documents)) as client:
        found = (await searched(client, {"size": 0, "aggs": aggs}))["aggregations"]
    one, two = found["accounts"]["buckets"]
    assert (one["key"], one["doc_count"], two["key"], two["doc_count"]) == ("u-1", 2, "u-2", 1)
    assert one["first"]["value_as_string"] == "2026-03-04T09:57:00.000Z"
    assert one["last"]["value"] == (NOW - timedelta(minutes=1)).timestamp() * 1000
    assert (one["mails"]["value"], two["mails"]["value"]) == (2, 0)
    top = {"sort": ["2026-03-04T09:59:00.000Z"], "metrics": {"user.email": "new@x.example"}}
    assert one["latest"]["top"] == [top]
    assert two["latest"]["top"][0]["metrics"] == {"user.email": None}
    (hit,) = one["document"]["hits"]["hits"]
    assert hit["_source"] == {"user": {"email": "new@x.example"}}
    assert one["document"]["hits"]["total"] == {"value": 2, "relation": "eq"}
    assert found["distinct"] == {"value": 2}
    assert found["second"]["doc_count"] == 1
    assert found["none"] == {"value": None}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"match_all": {}}, "abc"),
        ({"match_none": {}}, ""),
        ({"term": {"user.target.id": "u-1"}}, "ab"),
        ({"term": {"user.target.id": {"value": "u-2"}}}, "c"),
        ({"term": {"okta.target.type": "User"}}, "ac"),
        ({"term": {"okta.target.id": "app-1"}}, "a"),
        ({"exists": {"field": "okta.target"}}, "ac"),
        ({"exists": {"field": "user.target"}}, "abc"),
        ({"exists": {"field": "source.port"}}, "b"),
        ({"term": {"source.port": "443"}}, "b"),
        ({"range": {"source.port": {"gt": 442, "lte": 443}}}, "b"),
        ({"range": {"@timestamp": {"gte": "now-2m"}}}, "bc"),
        ({"range": {"@timestamp": {"gt": "2026-03-04T09:58:00Z", "lt": "now"}}}, "c"),
        ({"range": {"@timestamp": {"lte": 1_772_618_220_000, "format": "epoch_millis"}}}, "a"),
        ({"range": {"@timestamp": {"gte": "2026-03-04", "lte": "2026-03-04"}}}, "abc"),
        ({"range": {"@timestamp": {"lt": "2026-03-04"}}}, ""),
        ({"bool": {"should": [{"term": {"tag": "a"}}, {"term": {"tag": "c"}}]}}, "ac"),
        (
            {"bool": {"filter": [{"match_all": {}}], "should": [{"term": {"tag": "c"}}]}},
            "abc",
        ),
        (
            {
                "bool": {
                    "must": {"match_all": {}},
                    "should": [{"term": {"tag": "c"}}],
                    "minimum_should_match": 1,
                }
            },
            "c",
        ),
        ({"bool": {"must_not": {"terms": {"tag": ["a", "b"]}}}}, "c"),
        ({"bool": {}}, "abc"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_queries_find(three: httpx.AsyncClient, query: dict[str, Any], found: str) -> None:
    answer = await searched(three, {"query": query, "sort": ["@timestamp"]})
    assert "".join(hit["_source"]["tag"] for hit in answer["hits"]["hits"]) == found
    assert answer["hits"]["total"]["value"] == len(found)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"query": {"match": {"a": "b"}}}, "parsing_exception"),
        ({"query": {"term": {"a": "1", "b": "2"}}}, "parsing_exception"),
        ({"query": {"term": {"a": "1"}, "range": {}}}, "parsing_exception"),
        ({"query": {"terms": {"a": "1"}}}, "parsing_exception"),
        ({"query": {"range": {"@timestamp": {"from": 1}}}}, "parsing_exception"),
        ({"query": {"range": {"@timestamp": {"gte": "yesterday"}}}}, "parse_exception"),
        ({"query": {"bool": {"filters": []}}}, "x_content_parse_exception"),
        ({"query": {}}, "illegal_argument_exception"),
        ({"aggs": {"a": {"sum": {"field": "b"}}}}, "parsing_exception"),
        ({"aggs": {"a": {"terms": {"field": "b"}, "min": {"field": "b"}}}}, "parsing_exception"),
        ({"aggs": {"a": {}}}, "parsing_exception"),
        ({"aggs": {"a": {"terms": {"field": "b", "script": 1}}}}, "x_content_parse_exception"),
        ({"aggs": {"a": {"terms": {"size": 3}}}}, "illegal_argument_exception"),
        ({"aggs": {"a": {"min": {"field": "event.action"}}}}, "illegal_argument_exception"),
        (
            {"aggs": {"a": {"min": {"field": "@timestamp"}, "aggs": {"b": {"max": {}}}}}},
            "aggregation_initialization_exception",
        ),
        (
            {"aggs": {"a": {"date_histogram": {"field": "@timestamp"}}}},
            "illegal_argument_exception",
        ),
        ({"query_string": "x"}, "parsing_exception"),
        ({"sort": ["never.seen"]}, "query_shard_exception"),
        ({"sort": ["_shard_doc"]}, "illegal_argument_exception"),
        ({"from": 9_001, "size": 1_000}, "illegal_argument_exception"),
        ({"size": 10_001}, "illegal_argument_exception"),
        ({"search_after": [1]}, "illegal_argument_exception"),
        ({"search_after": [1, 2], "sort": ["@timestamp"]}, "illegal_argument_exception"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_not_known_is_refused(
    three: httpx.AsyncClient, body: dict[str, Any], kind: str
) -> None:
    answer = await three.post("/logs-*/_search", json=body)
    assert answer.status_code == 400
    refusal = answer.json()
    assert refusal["status"] == 400
    assert refusal["error"]["root_cause"][0]["type"] == kind
    assert refusal["error"]["root_cause"][0]["reason"]
    assert refusal["error"]["type"] in (kind, "search_phase_execution_exception")
    assert answer.headers["X-Elastic-Product"] == "Elasticsearch"


async def test_too_many_buckets() -> None:
    histogram = {"field": "@timestamp", "fixed_interval": "1s"}
    documents = [event(NOW - timedelta(days=2)), event(NOW - timedelta(seconds=1))]
    async with served(small(*documents)) as client:
        body: dict[str, Any] = {"size": 0, "aggs": {"s": {"date_histogram": histogram}}}
        answer = await client.post("/logs-*/_search", json=body)
        assert answer.status_code == 400
        cause = answer.json()["error"]["caused_by"]
        assert cause["type"] == "too_many_buckets_exception"
        assert cause["max_buckets"] == 65_536
        sources = [{"uid": {"terms": {"field": "user.id"}}}]
        body["aggs"] = {"c": {"composite": {"size": 65_537, "sources": sources}}}
        answer = await client.post("/logs-*/_search", json=body)
        assert answer.json()["error"]["caused_by"]["type"] == "too_many_buckets_exception"


async def test_hits_page_by_search_after_and_count() -> None:
    documents = [
        event(NOW - timedelta(seconds=n // 3), user={"id": f"u-{n:03d}"}) for n in range(30)
    ]
    sort = [{"@timestamp": "desc"}, {"user.id": {"order": "asc"}}]
    async with served(small(*documents)) as client:
        seen: list[str] = []
        body: dict[str, Any] = {"size": 7, "sort": sort, "_source": False}
        for _ in range(10):
            hits = (await searched(client, body))["hits"]["hits"]
            if not hits:
                break
            assert all("_source" not in hit and hit["_score"] is None for hit in hits)
            seen += [hit["sort"][1] for hit in hits]
            body["search_after"] = hits[-1]["sort"]
        assert seen == [f"u-{n:03d}" for n in range(30)]
        total = (await searched(client, {"track_total_hits": 12}))["hits"]["total"]
        assert total == {"value": 12, "relation": "gte"}
        assert "total" not in (await searched(client, {"track_total_hits": False}))["hits"]
        assert len((await searched(client, {}))["hits"]["hits"]) == 10
        body = {"from": 28, "size": 5, "sort": ["@timestamp"]}
        assert len((await searched(client, body))["hits"]["hits"]) == 2


# ---------------------------------------------------------------- time, snapshots, indices


async def test_a_document_is_found_once_ingested() -> None:
    clock = Hands()
    late = event(NOW - timedelta(minutes=5), ingested=NOW + timedelta(minutes=1), tag="late")
    app = small(event(NOW - timedelta(minutes=1), tag="prompt"), late, clock=clock)
    async with served(app) as client:
        body = {"sort": ["@timestamp"], "aggs": {"t": {"cardinality": {"field": "tag"}}}}
        tags = [hit["_source"]["tag"] for hit in (await searched(client, body))["hits"]["hits"]]
        assert tags == ["prompt"]
        clock.at += timedelta(minutes=1)
        answer = await searched(client, body)
        assert [hit["_source"]["tag"] for hit in answer["hits"]["hits"]] == ["late", "prompt"]
        assert answer["aggregations"]["t"]["value"] == 2
    assert app.searchable == 2


async def test_many_late_documents_keep_the_order() -> None:
    clock = Hands()
    documents = [
        event(
            NOW - timedelta(seconds=n),
            ingested=NOW + timedelta(seconds=n % 3 * 60),
            user={"id": f"u-{n}"},
        )
        for n in range(1_200)
    ]
    app = small(*documents, clock=clock)
    async with served(app) as client:
        for minute in range(3):
            clock.at = NOW + timedelta(minutes=minute)
            body = {"size": 1_200, "sort": ["@timestamp"]}
            hits = (await searched(client, body))["hits"]["hits"]
            found = [int(hit["_source"]["user"]["id"][2:]) for hit in hits]
            assert found == [n for n in range(1_199, -1, -1) if n % 3 <= minute]


async def test_point_in_time_is_frozen_and_pages_every_document() -> None:
    clock = Hands()
    app = small(*(event(NOW, user={"id": f"u-{n}"}) for n in range(25)), clock=clock)
    async with served(app) as client:
        opened = (await client.post("/logs-*/_pit?keep_alive=1m")).json()
        app.append([event(NOW, user={"id": "u-new"})])
        assert (await searched(client, {}))["hits"]["total"]["value"] == 26
        pit = {"id": opened["id"], "keep_alive": "1m"}
        body: dict[str, Any] = {"size": 10, "sort": ["@timestamp"], "pit": pit}
        seen: list[str] = []
        for _ in range(5):
            answer = await searched(client, body, "/_search")
            pit = {"id": answer["pit_id"], "keep_alive": "1m"}
            hits = answer["hits"]["hits"]
            if not hits:
                break
            seen += [hit["_source"]["user"]["id"] for hit in hits]
            body = {**body, "pit": pit, "search_after": hits[-1]["sort"]}
        assert seen == [f"u-{n}" for n in range(25)]
        walk = await composite_pages(
            client, {"match_all": {}}, "user.id", size=4, path="/_search", pit=pit
        )
        assert {bucket["key"]["uid"] for bucket in walk} == set(seen)
        assert app.open_pits == 1


async def test_the_newest_id_of_a_point_in_time_counts() -> None:
    async with served(small(event(NOW))) as client:
        first = (await client.post("/logs-*/_pit?keep_alive=1m")).json()["id"]
        second = (await searched(client, {"pit": {"id": first}}, "/_search"))["pit_id"]
        again = await searched(client, {"pit": {"id": first}}, "/_search")  # its answer was lost
        await searched(client, {"pit": {"id": second}}, "/_search")
        assert again["pit_id"] != second
        old = await client.post("/_search", json={"pit": {"id": first}})
        assert old.status_code == 404
        closed = await client.request("DELETE", "/_pit", json={"id": second})
        assert closed.json() == {"succeeded": True, "num_freed": 3}
        closed = await client.request("DELETE", "/_pit", json={"id": second})
        assert (closed.status_code, closed.json()["num_freed"]) == (404, 0)


async def test_a_point_in_time_expires_unless_kept_alive() -> None:
    clock = Hands()
    async with served(small(event(NOW), clock=clock)) as client:
        opened = (await client.post("/logs-*/_pit?keep_alive=1m")).json()["id"]
        clock.at += timedelta(seconds=50)
        pit = {"id": opened, "keep_alive": "1m"}
        kept = (await searched(client, {"pit": pit}, "/_search"))["pit_id"]
        clock.at += timedelta(seconds=50)
        kept = (await searched(client, {"pit": {"id": kept}}, "/_search"))["pit_id"]
        clock.at += timedelta(seconds=20)
        gone = await client.post("/_search", json={"pit": {"id": kept}})
        assert gone.status_code == 404
        refusal = gone.json()["error"]
        assert refusal["root_cause"][0]["type"] == "search_context_missing_exception"
        assert refusal["type"] == "search_phase_execution_exception"


async def test_refusals_around_a_point_in_time() -> None:
    async with served(small(event(NOW))) as client:
        assert (await client.post("/logs-*/_pit")).status_code == 400
        assert (await client.post("/logs-*/_pit?keep_alive=soon")).status_code == 400
        assert (await client.post("/logs-*/_pit?keep_alive=25h")).status_code == 400
        assert (await client.post("/nowhere/_pit?keep_alive=1m")).status_code == 404
        opened = (await client.post("/logs-*/_pit?keep_alive=1m")).json()["id"]
        with_index = await client.post("/logs-*/_search", json={"pit": {"id": opened}})
        assert with_index.status_code == 400
        nonsense = await client.post("/_search", json={"pit": {"id": "bm9uc2Vuc2U="}})
        assert nonsense.status_code == 400


async def test_indices_are_named_by_data_stream(siem: httpx.AsyncClient) -> None:
    everything = (await searched(siem, {"size": 0}))["hits"]["total"]["value"]
    parts = 0
    for index in ("logs-okta.system-default", "logs-account.*", "logs-platform.api-default"):
        answer = await searched(siem, {"size": 0, "aggs": {}}, f"/{index}/_search")
        assert answer["_shards"] == {"total": 3, "successful": 3, "skipped": 0, "failed": 0}
        parts += answer["hits"]["total"]["value"]
    assert parts == everything
    both = await searched(siem, {"size": 0}, "/logs-*,-logs-okta.system-default/_search")
    assert both["_shards"]["total"] == 6
    none = await searched(siem, {}, "/metrics-*/_search")
    assert none["hits"]["total"]["value"] == 0
    missing = await siem.post("/logs-typo/_search", json={})
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "index_not_found_exception"
    assert missing.json()["error"]["index"] == "logs-typo"
    lenient = await siem.post("/logs-typo/_search?ignore_unavailable=true", json={})
    assert lenient.status_code == 200


# ---------------------------------------------------------------- who may


async def test_credentials() -> None:
    app = small(event(NOW))
    for credential in (READER, ANALYST):
        async with served(app, credential) as client:
            assert (await client.get("/")).json()["version"]["number"].startswith("8.")
            assert (await client.get("/logs-*/_search")).status_code == 200
    for refused in (None, Credential("api_key", "reader", "wrong")):
        async with served(app, refused) as client:
            answer = await client.post("/logs-*/_search", json={})
            assert answer.status_code == 401
            assert answer.json()["error"]["type"] == "security_exception"
            assert answer.headers["X-Elastic-Product"] == "Elasticsearch"
            assert "ApiKey" in answer.headers.get_list("WWW-Authenticate")


async def test_a_read_only_key_cannot_write() -> None:
    app = small(event(NOW))
    document = event(NOW, user={"id": "u-9"})
    async with served(app) as client:
        answer = await client.post("/logs-small-default/_doc", json=document)
        assert answer.status_code == 403
        assert answer.json()["error"]["type"] == "security_exception"
    assert app.searchable == 1
    async with served(app, SHIPPER) as client:
        answer = await client.post("/logs-small-default/_doc", json=document)
        assert (answer.status_code, answer.json()["result"]) == (201, "created")
    assert app.searchable == 2


async def test_requests_that_elasticsearch_would_not_take() -> None:
    async with served(small(event(NOW))) as client:
        url = "/logs-*/_search"
        plain = await client.post(url, content="{}", headers={"Content-Type": "text/plain"})
        assert plain.status_code == 406
        newer = "application/vnd.elasticsearch+json; compatible-with=9"
        media = await client.post(url, content="{}", headers={"Content-Type": newer})
        assert media.json()["error"]["type"] == "media_type_header_exception"
        same = "application/vnd.elasticsearch+json; compatible-with=8"
        media = await client.post(url, content="{}", headers={"Content-Type": same})
        assert media.status_code == 200
        json_type = {"Content-Type": "application/json"}
        assert (await client.post(url, content="{", headers=json_type)).status_code == 400
        assert (await client.post(f"{url}?typed_keys=true", json={})).status_code == 400
        assert (await client.get("/_cat/indices")).status_code == 400
        assert (await client.put(url, json={})).status_code == 405


# ---------------------------------------------------------------- faults


async def test_partial_shards_leave_documents_out(
    siem: httpx.AsyncClient, big: SiemApp, traffic: Traffic
) -> None:
    query = resets_in(traffic.truth.burst_start, traffic.truth.burst_end)
    whole = await searched(siem, {"size": 0, "query": query})
    big.faults.inject(PartialShards(shards=2))
    part = await searched(siem, {"size": 0, "query": query})
    assert part["_shards"]["failed"] == 2
    assert part["_shards"]["successful"] == part["_shards"]["total"] - 2
    assert len(part["_shards"]["failures"]) == 2
    assert 0 < part["hits"]["total"]["value"] < whole["hits"]["total"]["value"]
    assert (await searched(siem, {"size": 0, "query": query}))["hits"] == whole["hits"]
    big.faults.inject(PartialShards(shards=1))
    strict = await siem.post("/logs-*/_search?allow_partial_search_results=false", json={})
    assert strict.status_code == 503
    assert strict.json()["error"]["reason"] == "Partial shards failure"
    big.faults.inject(PartialShards(shards=1_000))
    assert (await siem.post("/logs-*/_search", json={})).status_code == 503


async def test_timed_out_says_so_and_is_short(siem: httpx.AsyncClient, big: SiemApp) -> None:
    whole = await searched(siem, {"size": 0})
    big.faults.inject(TimedOut())
    short = await searched(siem, {"size": 0})
    assert (whole["timed_out"], short["timed_out"]) == (False, True)
    assert short["_shards"]["failed"] == 0
    assert 0 < short["hits"]["total"]["value"] < whole["hits"]["total"]["value"]


async def test_faults_of_the_transport() -> None:
    app = small(event(NOW))
    async with served(app) as client:
        app.faults.inject(Status(503), "_search", times=2, spare=1)
        app.faults.inject(Status(429, "1"), "_pit")
        codes = [(await client.post("/logs-*/_search", json={})).status_code for _ in range(4)]
        assert codes == [200, 503, 503, 200]
        limited = await client.post("/logs-*/_pit?keep_alive=1m")
        assert (limited.status_code, limited.headers["Retry-After"]) == (429, "1")
        assert limited.json()["error"]["type"] == "es_rejected_execution_exception"
        assert limited.headers["X-Elastic-Product"] == "Elasticsearch"
        app.faults.inject(InvalidJson())
        with pytest.raises(json.JSONDecodeError):
            (await client.post("/logs-*/_search", json={})).json()
        app.faults.inject(Delay(0.2))
        began = time.monotonic()
        await searched(client, {})
        assert time.monotonic() - began >= 0.2
        for cut in (CloseBefore(), CloseAfter()):
            fault = app.faults.inject(cut)
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post("/logs-*/_search", json={})
            assert fault.hits == 1
        assert (await client.post("/logs-*/_search", json={})).status_code == 200
