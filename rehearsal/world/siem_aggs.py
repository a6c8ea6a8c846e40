"""Aggregations of the SIEM server: the subset of Elasticsearch's that the rehearsal speaks, with
the semantics that decide whether a list of affected accounts is complete.

composite is exact and paged, and drops documents without the field unless missing_bucket; terms is
a top-N that says how much it left out; date_histogram fills empty buckets. Anything unknown is
refused, never ignored.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from rehearsal.world.siem_documents import DATE_FIELDS, DocumentStore, Scalar, epoch_ms, iso_ms
from rehearsal.world.siem_errors import (
    Json,
    SearchRefused,
    illegal,
    parsing,
    too_many_buckets,
    unknown_field,
)
from rehearsal.world.siem_metrics import METRICS, Aggregation, Context, required_field
from rehearsal.world.siem_query import Query, parse_query

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def collect_all(
    aggregations: Mapping[str, Aggregation], context: Context, positions: Sequence[int]
) -> dict[str, Json]:
    return {name: agg.collect(context, positions) for name, agg in aggregations.items()}


def parse_aggregations(
    body: Json, context: Context, *, nested: bool = False
) -> dict[str, Aggregation]:
    """The aggregations of a request by name. Raises SearchRefused for what is not known."""
    if not isinstance(body, Mapping):
        raise parsing("Expected [START_OBJECT] under [aggregations]")
    result: dict[str, Aggregation] = {}
    for name, definition in body.items():
        if re.search(r"[\[\]>]", name):
            raise parsing(f"Invalid aggregation name [{name}]")
        if not isinstance(definition, Mapping):
            raise parsing(f"Aggregation definition for [{name}] must be an object")
        subs = definition.get("aggs", definition.get("aggregations", {}))
        kinds = [key for key in definition if key not in ("aggs", "aggregations", "meta")]
        if not kinds:
            raise parsing(f"Missing definition for aggregation [{name}]")
        if len(kinds) > 1:
            raise parsing(f"Found two aggregation type definitions in [{name}]: {kinds[:2]}")
        result[name] = _parse_one(name, kinds[0], definition[kinds[0]], subs, context, nested)
    return result


def _parse_one(
    name: str, kind: str, body: Json, subs: Json, context: Context, nested: bool
) -> Aggregation:
    if not isinstance(body, Mapping) and kind != "filter":
        raise parsing(f"Expected [START_OBJECT] under [{kind}] in [{name}]")
    metric = METRICS.get(kind)
    if metric is not None:
        if subs:
            reason = f"Aggregator [{name}] of type [{kind}] cannot accept sub-aggregations"
            raise SearchRefused(400, "aggregation_initialization_exception", reason)
        return metric(body, context)
    children = parse_aggregations(subs, context, nested=True)
    if kind == "filter":
        return Filter(parse_query(body, context.now), children)
    if kind == "missing":
        return Missing(required_field("missing", body, ()), children)
    bucket = _BUCKETS.get(kind)
    if bucket is None:
        raise parsing(
            f"Unknown aggregation type [{kind}]",
            caused_by={
                "type": "named_object_not_found_exception",
                "reason": f"[1:1] unknown field [{kind}]",
            },
        )
    if kind == "composite" and nested:
        raise illegal("[composite] aggregation cannot be used with a parentAggregation", phase=True)
    return bucket(body, children, context)


@dataclass(frozen=True, slots=True)
class Filter(Aggregation):
    query: Query
    children: Mapping[str, Aggregation]

    def collect(self, context: Context, positions: Sequence[int]) -> dict[str, Json]:
        inside = self.query.narrow(context.store, positions)
        context.spend(1)
        return {"doc_count": len(inside), **collect_all(self.children, context, inside)}


@dataclass(frozen=True, slots=True)
class Missing(Aggregation):
    field: str
    children: Mapping[str, Aggregation]

    def collect(self, context: Context, positions: Sequence[int]) -> dict[str, Json]:
        column = context.store.column(self.field)
        inside = [position for position in positions if not column[position]]
        context.spend(1)
        return {"doc_count": len(inside), **collect_all(self.children, context, inside)}


@dataclass(frozen=True, slots=True)
class DateHistogram(Aggregation):
    field: str
    interval_ms: int
    min_doc_count: int
    bounds_ms: tuple[int, int] | None
    children: Mapping[str, Aggregation]

    def collect(self, context: Context, positions: Sequence[int]) -> dict[str, Json]:
        interval = self.interval_ms
        groups: dict[int, list[int]] = defaultdict(list)
        if self.field == "@timestamp":
            times = context.store.times
            for position in positions:
                groups[times[position] // interval].append(position)
        else:
            column = context.store.column(self.field)
            for position in positions:
                for slot in {int(value) // interval for value in column[position]}:
                    groups[slot].append(position)
        slots = self._slots(context, groups)
        context.spend(len(slots))
        buckets = []
        for slot in slots:
            inside = groups.get(slot, [])
            start = slot * interval
            head = {"key_as_string": iso_ms(start), "key": start, "doc_count": len(inside)}
            buckets.append({**head, **collect_all(self.children, context, inside)})
        return {"buckets": buckets}

    def _slots(self, context: Context, groups: Mapping[int, Sequence[int]]) -> Sequence[int]:
        if self.min_doc_count > 0:
            return sorted(
                slot for slot, inside in groups.items() if len(inside) >= self.min_doc_count
            )
        ends = [bound // self.interval_ms for bound in self.bounds_ms or ()]
        ends.extend((min(groups), max(groups)) if groups else ())
        slots = range(min(ends), max(ends) + 1) if ends else range(0)
        if len(slots) > context.max_buckets:  # before a list of that length is made
            raise too_many_buckets(context.max_buckets)
        return slots


@dataclass(frozen=True, slots=True)
class Terms(Aggregation):
    field: str
    size: int
    min_doc_count: int
    order: tuple[tuple[str, bool], ...]
    children: Mapping[str, Aggregation]

    def collect(self, context: Context, positions: Sequence[int]) -> dict[str, Json]:
        groups: dict[Scalar, list[int]] = defaultdict(list)
        column = context.store.column(self.field)
        for position in positions:
            for value in dict.fromkeys(column[position]):
                groups[value].append(position)
        keys = [key for key, inside in groups.items() if len(inside) >= self.min_doc_count]
        for name, descending in reversed(self.order):
            keys.sort(key=self._criterion(name, groups, context), reverse=descending)
        context.spend(min(len(keys), self.size))
        buckets = []
        for key in keys[: self.size]:
            inside = groups[key]
            head: dict[str, Json] = {"key": key}
            if self.field in DATE_FIELDS:
                head["key_as_string"] = iso_ms(float(key))
            head["doc_count"] = len(inside)
            buckets.append({**head, **collect_all(self.children, context, inside)})
        return {
            "doc_count_error_upper_bound": 0,
            "sum_other_doc_count": sum(len(groups[key]) for key in keys[self.size :]),
            "buckets": buckets,
        }

    def _criterion(
        self, name: str, groups: Mapping[Scalar, Sequence[int]], context: Context
    ) -> Callable[[Scalar], Any]:
        if name == "_count":
            return lambda key: len(groups[key])
        if name == "_key":
            return lambda key: key
        child = self.children[name]
        values = {
            key: child.collect(context, inside).get("value") or 0.0
            for key, inside in groups.items()
        }
        return lambda key: values[key]


@dataclass(frozen=True, slots=True)
class Source:
    """One source of a composite: the documents' values of a field, or null if they may lack it."""

    name: str
    field: str
    missing_bucket: bool
    descending: bool

    def values(self, store: DocumentStore, position: int) -> Sequence[Scalar | None]:
        cell = store.column(self.field)[position]
        if cell:
            return tuple(dict.fromkeys(cell))
        return (None,) if self.missing_bucket else ()

    def rank(self, value: Scalar | None) -> Any:
        """Sorts ascending with null first; descending with null last."""
        if value is None:
            return (0, 0, "")
        return (1, 0, str(value)) if isinstance(value, str) else (1, float(value), "")


@dataclass(frozen=True, slots=True)
class Composite(Aggregation):
    sources: tuple[Source, ...]
    size: int
    after: tuple[Scalar | None, ...] | None
    children: Mapping[str, Aggregation]

    def collect(self, context: Context, positions: Sequence[int]) -> dict[str, Json]:
        keys, groups = self._grouped(context, positions)
        first = 0
        if self.after is not None:
            first = bisect_right(keys, self._rank(self.after), key=self._rank)
        page = keys[first : first + self.size]
        context.spend(len(page))
        buckets = []
        for key in page:
            inside = groups[key]
            head = {"key": self._named(key), "doc_count": len(inside)}
            buckets.append({**head, **collect_all(self.children, context, inside)})
        result: dict[str, Json] = {"buckets": buckets}
        if page:  # the last page has one too: only an empty page ends the walk
            result["after_key"] = self._named(page[-1])
        return result

    def _named(self, key: tuple[Scalar | None, ...]) -> dict[str, Json]:
        shown: dict[str, Json] = {}
        for source, value in zip(self.sources, key, strict=True):
            shown[source.name] = value
        return shown

    def _rank(self, key: tuple[Scalar | None, ...]) -> Any:
        ranks = zip(self.sources, key, strict=True)
        return tuple(
            _Reversed(source.rank(value)) if source.descending else source.rank(value)
            for source, value in ranks
        )

    def _grouped(
        self, context: Context, positions: Sequence[int]
    ) -> tuple[list[tuple[Scalar | None, ...]], dict[tuple[Scalar | None, ...], list[int]]]:
        """Keys in order and their documents; remembered for the walk's next pages."""
        memo_key = ("composite", context.memo_key, self.sources)
        if context.memo_key is not None and memo_key in context.store.memo:
            keys, groups = context.store.memo[memo_key]
            return keys, groups
        groups = defaultdict(list)
        for position in positions:
            for key in product(*(s.values(context.store, position) for s in self.sources)):
                groups[key].append(position)
        keys = sorted(groups, key=self._rank)
        if context.memo_key is not None:
            context.store.remember(memo_key, (keys, groups))
        return keys, groups


@dataclass(frozen=True, slots=True)
class _Reversed:
    rank: Any

    def __lt__(self, other: "_Reversed") -> bool:
        return bool(other.rank < self.rank)


def _date_histogram(
    body: Mapping[str, Json], children: Mapping[str, Aggregation], context: Context
) -> Aggregation:
    known = ("fixed_interval", "min_doc_count", "extended_bounds", "time_zone", "format")
    field = required_field("date_histogram", body, known)
    if field not in DATE_FIELDS:
        reason = f"Field [{field}] is not supported for aggregation [date_histogram]"
        raise illegal(reason, phase=True)
    if body.get("time_zone", "UTC") not in ("UTC", "Z", "+00:00"):
        raise illegal("[time_zone]: this server speaks UTC only")
    if body.get("format", "strict_date_optional_time") != "strict_date_optional_time":
        raise illegal("[format]: this server speaks strict_date_optional_time only")
    match = re.fullmatch(r"(\d+)(ms|s|m|h|d)", str(body.get("fixed_interval", "")))
    if match is None or int(match.group(1)) == 0:
        raise illegal("Required one of fixed_interval: a positive number of ms, s, m, h or d")
    min_doc_count = body.get("min_doc_count", 0)
    if not isinstance(min_doc_count, int) or min_doc_count < 0:
        raise illegal("[minDocCount] must be greater than or equal to 0")
    bounds = None
    if (given := body.get("extended_bounds")) is not None:
        for key in given:
            if key not in ("min", "max"):
                raise unknown_field("bounds", key)
        low, high = (epoch_ms(given[end], context.now) for end in ("min", "max"))
        if low > high:
            raise parsing(f"[extended_bounds.min][{low}] cannot be greater than max [{high}]")
        bounds = (low, high)
    interval = int(match.group(1)) * _UNIT_MS[match.group(2)]
    return DateHistogram(field, interval, min_doc_count, bounds, children)


def _terms(
    body: Mapping[str, Json], children: Mapping[str, Aggregation], context: Context
) -> Aggregation:
    field = required_field("terms", body, ("size", "min_doc_count", "order", "shard_size"))
    size, minimum = body.get("size", 10), body.get("min_doc_count", 1)
    if not isinstance(size, int) or size <= 0:
        raise illegal(f"[size] must be greater than 0. Found [{size}] in [terms]")
    if not isinstance(minimum, int) or minimum < 1:
        raise illegal("[min_doc_count] of terms: this server speaks 1 and more")
    given = body.get("order", {"_count": "desc"})
    order: list[tuple[str, bool]] = []
    for item in given if isinstance(given, list) else [given]:
        for name, direction in item.items():
            target = name.removesuffix(".value")
            if target not in ("_count", "_key") and target not in children:
                raise illegal(f"Invalid aggregator order path [{name}]", phase=True)
            order.append((target, direction == "desc"))
    return Terms(field, size, minimum, (*order, ("_key", False)), children)


def _composite(
    body: Mapping[str, Json], children: Mapping[str, Aggregation], context: Context
) -> Aggregation:
    for key in body:
        if key not in ("sources", "size", "after"):
            raise unknown_field("composite", key)
    size = body.get("size", 10)
    if not isinstance(size, int) or size <= 0:
        raise illegal(f"[size] must be greater than 0. Found [{size}] in [composite]")
    if size > context.max_buckets:
        raise too_many_buckets(context.max_buckets)
    listed = body.get("sources")
    if not isinstance(listed, list) or not listed:
        raise illegal("Composite [sources] cannot be null or empty")
    sources = tuple(_source(item) for item in listed)
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise illegal("Composite source names must be unique")
    after = None
    if (cursor := body.get("after")) is not None:
        if not isinstance(cursor, Mapping) or set(cursor) != set(names):
            raise illegal(f"[after] has {sorted(cursor)} but sources are {names}", phase=True)
        after = tuple(cursor[name] for name in names)
    return Composite(sources, size, after, children)


def _source(item: Json) -> Source:
    if not isinstance(item, Mapping) or len(item) != 1:
        raise parsing("A composite source is an object with one name")
    name, definition = next(iter(item.items()))
    if not isinstance(definition, Mapping) or len(definition) != 1:
        raise parsing(f"The composite source [{name}] has one type")
    kind, options = next(iter(definition.items()))
    if kind != "terms":
        raise parsing(f"invalid source type: {kind}")
    field = required_field("terms", options, ("missing_bucket", "order"))
    if options.get("order", "asc") not in ("asc", "desc"):
        raise illegal(f"Unknown SortOrder [{options['order']}]")
    return Source(
        name,
        field,
        missing_bucket=options.get("missing_bucket") is True,
        descending=options.get("order") == "desc",
    )


_BUCKETS = {"date_histogram": _date_histogram, "terms": _terms, "composite": _composite}
