"""One search of the SIEM server: the request's body on a set of documents, to the answer's body.

Decides what a search finds and shows; knows nothing of HTTP, credentials or snapshots.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rehearsal.world.siem_aggs import collect_all, parse_aggregations
from rehearsal.world.siem_documents import DocumentStore
from rehearsal.world.siem_errors import MAX_BUCKETS, Json, illegal, parsing
from rehearsal.world.siem_hits import SortKey, after, hit, ordered, parse_sort, parse_source
from rehearsal.world.siem_metrics import Context
from rehearsal.world.siem_query import AnyOf, Bool, MatchAll, Query, parse_query

RESULT_WINDOW = 10_000
_KEYS = (
    "query", "aggs", "aggregations", "size", "from", "sort", "search_after",
    "track_total_hits", "_source", "pit", "timeout",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scope:
    """What the search may see: these indices (None: all), without the failed (index, shard)s, and
    with `cut_short` only the first half of the documents found, as a search out of time does."""

    indices: tuple[str, ...] | None = None
    failed: frozenset[tuple[str, int]] = field(default_factory=frozenset)
    cut_short: bool = False


def search(
    store: DocumentStore, body: Json, scope: Scope, now: datetime, max_buckets: int = MAX_BUCKETS
) -> dict[str, Json]:
    """`hits` and `aggregations` of the answer. Raises SearchRefused."""
    if not isinstance(body, Mapping):
        raise parsing("Expected [START_OBJECT] but found another value")
    for key in body:
        if key not in _KEYS:
            raise parsing(f"Unknown key for a value in [{key}].")
    query = parse_query(body["query"], now) if body.get("query") is not None else MatchAll()
    memo_key = _memo_key(body.get("query"), scope)
    context = Context(store, now, memo_key, max_buckets)
    aggregations = parse_aggregations(body.get("aggs", body.get("aggregations", {})), context)
    keys = parse_sort(body.get("sort", []), store, in_pit="pit" in body)
    size, start = _window(body)
    found = _found(store, query, scope, memo_key)
    answer: dict[str, Json] = {"hits": {}}
    total = _total(body.get("track_total_hits", True), len(found))
    if total is not None:
        answer["hits"]["total"] = total
    score = 0.0 if isinstance(query, Bool) else 1.0
    page: Sequence[int] = []
    if size > 0:
        in_order = _in_order(store, found, keys, memo_key, body.get("sort"))
        if (cursor := body.get("search_after")) is not None:
            start = after(store, in_order, keys, cursor, now)
        page = in_order[start : start + size]
    elif "search_after" in body:
        after(store, [], keys, body["search_after"], now)
    answer["hits"]["max_score"] = None if keys or not page else score
    shown = parse_source(body.get("_source", True))
    answer["hits"]["hits"] = [hit(store, position, shown, keys, score) for position in page]
    if aggregations:
        answer["aggregations"] = collect_all(aggregations, context, found)
    return answer


def _memo_key(query: Json, scope: Scope) -> str | None:
    text = json.dumps(query, sort_keys=True, default=str)
    if '"now' in text:  # date math means other documents at the next call
        return None
    return f"{text}|{scope.indices}|{sorted(scope.failed)}|{scope.cut_short}"


def _found(store: DocumentStore, query: Query, scope: Scope, memo_key: str | None) -> Sequence[int]:
    if memo_key is not None and memo_key in store.memo:
        found: Sequence[int] = store.memo[memo_key]
        return found
    found = query.narrow(store, range(len(store.documents)))
    if scope.indices is not None:
        found = AnyOf("_index", frozenset(scope.indices)).narrow(store, found)
    if scope.failed:
        documents = store.documents
        found = [p for p in found if (documents[p].index, documents[p].shard) not in scope.failed]
    if scope.cut_short:
        found = found[: (len(found) + 1) // 2]
    if memo_key is not None:
        store.remember(memo_key, found)
    return found


def _in_order(
    store: DocumentStore,
    found: Sequence[int],
    keys: Sequence[SortKey],
    memo_key: str | None,
    sort: Json,
) -> Sequence[int]:
    name = ("sort", memo_key, json.dumps(sort))
    if memo_key is not None and name in store.memo:
        remembered: Sequence[int] = store.memo[name]
        return remembered
    in_order = ordered(store, found, keys)
    if memo_key is not None:
        store.remember(name, in_order)
    return in_order


def _window(body: Mapping[str, Json]) -> tuple[int, int]:
    size, start = body.get("size", 10), body.get("from", 0)
    for name, value in (("size", size), ("from", start)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise illegal(f"[{name}] parameter cannot be negative but was [{value}]")
    if body.get("search_after") is not None and start > 0:
        raise illegal("`from` parameter must be set to 0 when `search_after` is used", phase=True)
    if start + size > RESULT_WINDOW:
        reason = (
            "Result window is too large, from + size must be less than or equal to: "
            f"[{RESULT_WINDOW}] but was [{start + size}]. The setting is [index.max_result_window]."
        )
        raise illegal(reason, phase=True)
    return size, start


def _total(tracked: Any, found: int) -> dict[str, Json] | None:
    if tracked is False:
        return None
    if isinstance(tracked, int) and not isinstance(tracked, bool):
        limit = tracked
    elif tracked is True:
        return {"value": found, "relation": "eq"}
    else:
        raise illegal(f"[track_total_hits] cannot be [{tracked}]")
    if found > limit:
        return {"value": limit, "relation": "gte"}
    return {"value": found, "relation": "eq"}
