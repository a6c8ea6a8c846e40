"""Talks to Elasticsearch 8 or 9 about password resets: how many by the minute, and of whom.

Never a shorter list: lost shards, a search out of time or a page that does not add up is
`Incomplete`. Counting is done by exact aggregations; ES|QL and hits would cut at 10,000 rows.
"""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta
from urllib.parse import quote

import httpx

from clients.http import OnWire, Wire
from clients.siem_answers import (
    AccountBucket,
    AccountsAnswer,
    ActorsAnswer,
    Body,
    ClientsAnswer,
    CountsAnswer,
    PitAnswer,
    SearchAnswer,
    incomplete,
    millis,
)
from clients.siem_presets import Clause, Preset, Rule
from recovery.accounts import Sighting
from recovery.detect_burst import Bucket
from recovery.errors import Misconfigured, NotFound, RecoveryError
from recovery.own_resets import OwnResets
from recovery.refusals import AuthCounts

_TIME = "@timestamp"
_MOST_BUCKETS = 10_000
_PAGE = 1_000
_KEEP_ALIVE = "5m"


class ElasticsearchClient(OnWire):
    """Reads one index pattern. Windows are [start, end); dates have a resolution of 1 ms.

    `until_lag` is how long documents take to become searchable: `reset_counts` leaves out the
    last such stretch, whose counts would be too small. Closing it closes the wire.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        index: str,
        presets: Sequence[Preset],
        until_lag: timedelta = timedelta(0),
    ) -> None:
        self._wire = wire
        self._path = quote(index, safe="*,:")
        self._presets = tuple(presets)
        self._until_lag = until_lag

    async def check(self) -> None:
        """Returns where the index can be searched and an Elasticsearch answers."""
        attempted = "Check the SIEM"
        body = {"size": 0, "track_total_hits": True, "query": {"match_all": {}}}
        response = await self._search(attempted, body)
        if response.headers.get("x-elastic-product") != "Elasticsearch":
            raise Misconfigured(
                attempted,
                expected="Elasticsearch",
                got="another product, such as OpenSearch",
                advice="Correct the address in the block for the SIEM.",
            )
        self._wire.read(response, SearchAnswer).whole(attempted)

    async def reset_counts(
        self,
        start: datetime,
        end: datetime,
        bucket: timedelta,
        *,
        own: OwnResets | None = None,
    ) -> list[Bucket]:
        """Resets per bucket, one after the other without a gap, empty ones too; without `own`.

        Buckets lie on the grid of whole buckets since 1970 (UTC); the first and the last one may
        stick out of the window and count only what is inside of it.
        """
        attempted = "Count resets by time"
        length = _length(bucket)
        resets = _any_of((rule for p in self._presets for rule in p.rules), own)
        first, last = millis(start), millis(end - self._until_lag)
        counts: list[Bucket] = []
        while first < last:
            stop = min(last, (first // length + _MOST_BUCKETS) * length)
            histogram = {
                "field": _TIME,
                "fixed_interval": f"{length}ms",
                "min_doc_count": 0,
                "extended_bounds": {"min": first, "max": stop - 1},
            }
            body = _body(first, stop, [resets])
            body["aggs"] = {"by_time": {"date_histogram": histogram}}
            response = await self._search(attempted, body)
            answer = self._wire.read(response, CountsAnswer)
            total = answer.whole(attempted)
            buckets = answer.aggregations.by_time.buckets
            expected = range(first // length * length, stop, length)
            if [b.key for b in buckets] != list(expected):
                raise incomplete(attempted, "a series with gaps")
            if sum(b.doc_count for b in buckets) != total:
                raise incomplete(attempted, "buckets that do not add up")
            counts.extend(Bucket(b.start, b.doc_count) for b in buckets)
            first = stop
        return counts

    async def sightings(
        self, start: datetime, end: datetime, *, own: OwnResets | None = None
    ) -> AsyncIterator[list[Sighting]]:
        """Every account with a reset not among `own`, page by page, out of one frozen snapshot.

        An account comes once for each source and field that names it.
        """
        attempted = "List the accounts with resets"
        async with self._snapshot(attempted) as snapshot:
            for preset in self._presets:
                for rule in preset.rules:
                    for account_field in rule.accounts:
                        must, must_not = rule.clauses_for(account_field)
                        must_not = [*must_not, *_ours(rule, own)]
                        body = _body(millis(start), millis(end), must, must_not)
                        async for page in snapshot.accounts(body, account_field):
                            yield [bucket.sighting(preset.name) for bucket in page]

    async def unattributed(
        self, start: datetime, end: datetime, *, own: OwnResets | None = None
    ) -> dict[str, int]:
        """For each source, how many resets name no account: counted and shown, never guessed."""
        attempted = "Count resets without an account"
        counts = dict.fromkeys((preset.name for preset in self._presets), 0)
        for preset in self._presets:
            for rule in preset.rules:
                must, must_not = rule.clauses_without_account()
                must_not = [*must_not, *_ours(rule, own)]
                response = await self._search(
                    attempted, _body(millis(start), millis(end), must, must_not)
                )
                counts[preset.name] += self._wire.read(response, SearchAnswer).whole(attempted)
        return counts

    async def actors(self, start: datetime, end: datetime, *, most: int = 10) -> dict[str, int]:
        """Who did the resets: opaque id -> how many, the busiest first. One actor for many
        accounts is a bug or a stolen admin; each account for itself points at its own people."""
        attempted = "Count resets by actor"
        counts: Counter[str] = Counter()
        for rule in (rule for preset in self._presets for rule in preset.rules):
            body = _body(millis(start), millis(end), rule.clauses())
            body["aggs"] = {"actors": {"terms": {"field": rule.actor, "size": most}}}
            response = await self._search(attempted, body)
            answer = self._wire.read(response, ActorsAnswer)
            answer.whole(attempted)
            counts.update({str(b.key): b.doc_count for b in answer.aggregations.actors.buckets})
        return dict(counts.most_common(most))

    async def client_authentications(
        self,
        client_ids: Collection[str],
        start: datetime,
        end: datetime,
        *,
        actions: Collection[str],
        client_field: str,
    ) -> Mapping[str, AuthCounts]:
        """How often each app client authenticated and how often it was refused; every id once.

        Counted by aggregation. ECS has no words for an OAuth client, so `actions` (event.action)
        and `client_field` are told; event.outcome is ECS's.
        """
        wanted = sorted(set(client_ids))
        both: list[Clause] = [
            {"terms": {"event.action": sorted(actions)}},
            {"terms": {client_field: wanted}},
        ]
        failed = [*both, {"term": {"event.outcome": "failure"}}]
        window = millis(start), millis(end)
        total = await self._by_client(_body(*window, both), client_field, len(wanted))
        refused = await self._by_client(_body(*window, failed), client_field, len(wanted))
        # The second search may have seen a document more.
        return {
            one: AuthCounts(refused.get(one, 0), max(total.get(one, 0), refused.get(one, 0)))
            for one in wanted
        }

    async def _by_client(self, body: Body, client_field: str, most: int) -> Mapping[str, int]:
        attempted = "Count authentications of app clients"
        if most == 0:
            return {}
        body["aggs"] = {"clients": {"terms": {"field": client_field, "size": most}}}
        answer = self._wire.read(await self._search(attempted, body), ClientsAnswer)
        matching = answer.whole(attempted)
        counts = {str(b.key): b.doc_count for b in answer.aggregations.clients.buckets}
        if sum(counts.values()) != matching:
            raise incomplete(attempted, "buckets that do not add up")
        return counts

    async def _search(self, attempted: str, body: Body) -> httpx.Response:
        with _translated(attempted):
            return await self._wire.request(
                "POST",
                f"/{self._path}/_search",
                attempted=attempted,
                params={"allow_no_indices": "false"},
                json=body,
                repeatable=True,
            )

    @asynccontextmanager
    async def _snapshot(self, attempted: str) -> AsyncIterator["_Snapshot"]:
        """A point in time, given back at the end; one that is lost expires by itself."""
        with _translated(attempted):
            response = await self._wire.request(
                "POST",
                f"/{self._path}/_pit",
                attempted=attempted,
                params={"keep_alive": _KEEP_ALIVE, "allow_no_indices": "false"},
                repeatable=True,
            )
        snapshot = _Snapshot(self._wire, attempted, self._wire.read(response, PitAnswer).id)
        try:
            yield snapshot
        finally:
            with suppress(RecoveryError):
                await snapshot.close()


class _Snapshot:
    """The index as it was when the point in time was opened."""

    def __init__(self, wire: Wire, attempted: str, pit_id: str) -> None:
        self._wire = wire
        self._attempted = attempted
        self._id = pit_id

    async def accounts(self, body: Body, account_field: str) -> AsyncIterator[list[AccountBucket]]:
        """The matching documents by account, until there is no further page."""
        composite: Body = {
            "size": _PAGE,
            "sources": [{"account": {"terms": {"field": account_field}}}],
        }
        times = {"first": {"min": {"field": _TIME}}, "last": {"max": {"field": _TIME}}}
        body = {**body, "aggs": {"accounts": {"composite": composite, "aggs": times}}}
        total: int | None = None
        counted = 0
        while True:
            answer = await self._page(body)
            matching = answer.whole(self._attempted)
            if total is not None and matching != total:
                raise incomplete(self._attempted, "a snapshot that changed")
            total = matching
            page = answer.aggregations.accounts
            counted += sum(bucket.doc_count for bucket in page.buckets)
            if page.buckets:
                yield page.buckets
            if page.after_key is None:
                break
            after = page.after_key.model_dump()
            if after == composite.get("after"):
                raise incomplete(self._attempted, "the same page again")
            composite["after"] = after
        if counted < total:
            raise incomplete(self._attempted, f"{counted} of {total} documents")

    async def close(self) -> None:
        await self._wire.request(
            "DELETE",
            "/_pit",
            attempted="Give a snapshot of the SIEM back",
            json={"id": self._id},
            ok=(200, 404),
            repeatable=True,
        )

    async def _page(self, body: Body) -> AccountsAnswer:
        with _translated(self._attempted):
            response = await self._wire.request(
                "POST",
                "/_search",
                attempted=self._attempted,
                json={**body, "pit": {"id": self._id, "keep_alive": _KEEP_ALIVE}},
                repeatable=True,
            )
        answer = self._wire.read(response, AccountsAnswer)
        # A newer id may come with any page, and only the newest is good.
        self._id = answer.pit_id or self._id
        return answer


@contextmanager
def _translated(attempted: str) -> Iterator[None]:
    """404 is no finding about a person here: the index is not there, or the snapshot is gone."""
    try:
        yield
    except NotFound as error:
        if error.code != "index_not_found_exception":
            raise incomplete(attempted, "a snapshot that has expired") from None
        raise Misconfigured(
            attempted,
            expected="an index of the configured name",
            got=error.code,
            advice="Correct the index pattern in the block for the SIEM.",
        ) from None


def _body(first: int, stop: int, must: Sequence[Clause], must_not: Sequence[Clause] = ()) -> Body:
    """A search for counts alone in [first, stop), both in epoch milliseconds."""
    query: Body = {"filter": [_window(first, stop), *must]}
    if must_not:
        query["must_not"] = list(must_not)
    return {"size": 0, "track_total_hits": True, "query": {"bool": query}}


def _any_of(rules: Iterable[Rule], own: OwnResets | None) -> Clause:
    kinds = [
        {"bool": {"filter": rule.clauses(), "must_not": list(_ours(rule, own))}} for rule in rules
    ]
    return {"bool": {"should": kinds, "minimum_should_match": 1}}


def _ours(rule: Rule, own: OwnResets | None) -> list[Clause]:
    """The forced resets of our own containment, for `must_not`."""
    if own is None or not own.spans:
        return []
    spans = [_window(millis(start), millis(end)) for start, end in own.spans]
    by_us: Clause = {"terms": {rule.actor: list(own.actors)}}
    then: Clause = {"bool": {"should": spans, "minimum_should_match": 1}}
    return [{"bool": {"filter": [by_us, then]}}]


def _window(first: int, stop: int) -> Clause:
    return {"range": {_TIME: {"gte": first, "lt": stop, "format": "epoch_millis"}}}


def _length(bucket: timedelta) -> int:
    """In milliseconds. ValueError for what Elasticsearch can't count by."""
    length, rest = divmod(bucket, timedelta(milliseconds=1))
    if length < 1 or rest:
        raise ValueError("a bucket is a whole number of milliseconds, and at least one")
    return length
