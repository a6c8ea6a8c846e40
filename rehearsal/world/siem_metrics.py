"""Metrics of the SIEM server: what an aggregation says about a set of documents in one value.

Exact where Elasticsearch approximates (cardinality); otherwise its answers, field by field.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rehearsal.world.siem_documents import DATE_FIELDS, DocumentStore, Scalar, iso_ms
from rehearsal.world.siem_errors import (
    MAX_BUCKETS,
    Json,
    illegal,
    parsing,
    too_many_buckets,
    unknown_field,
)
from rehearsal.world.siem_hits import (
    SortKey,
    SourceFilter,
    hit,
    ordered,
    parse_sort,
    parse_source,
)


@dataclass(slots=True)
class Context:
    """One request's search. `memo_key` names the query's result in the store's memo; None where the
    same request may mean other documents the next time."""

    store: DocumentStore
    now: datetime
    memo_key: str | None = None
    max_buckets: int = MAX_BUCKETS
    buckets: int = field(default=0, init=False)

    def spend(self, buckets: int) -> None:
        self.buckets += buckets
        if self.buckets > self.max_buckets:
            raise too_many_buckets(self.max_buckets)


class Aggregation(ABC):
    @abstractmethod
    def collect(self, context: Context, positions: Sequence[int]) -> dict[str, Json]:
        """The aggregation's part of the answer for these documents."""


def required_field(kind: str, body: Mapping[str, Json], also: Sequence[str]) -> str:
    """The `field` of an aggregation which may carry the keys in `also` and no others."""
    for key in body:
        if key != "field" and key not in also:
            raise unknown_field(kind, key)
    if not isinstance(body.get("field"), str):
        raise illegal(
            f"Required one of fields [field, script], but none were specified in [{kind}]"
        )
    name: str = body["field"]
    return name


@dataclass(frozen=True, slots=True)
class Extreme(Aggregation):
    """min and max, of dates and numbers only. No value at all gives null."""

    field: str
    largest: bool

    def collect(self, context: Context, positions: Sequence[int]) -> dict[str, Json]:
        values: list[Any] = [v for p in positions for v in context.store.column(self.field)[p]]
        if not values:
            return {"value": None}
        if isinstance(values[0], str):
            kind = "max" if self.largest else "min"
            reason = f"Field [{self.field}] of type [keyword] is not supported for [{kind}]"
            raise illegal(reason, phase=True)
        value = float(max(values) if self.largest else min(values))
        if self.field in DATE_FIELDS:
            return {"value": value, "value_as_string": iso_ms(value)}
        return {"value": value}


@dataclass(frozen=True, slots=True)
class ValueCount(Aggregation):
    field: str

    def collect(self, context: Context, positions: Sequence[int]) -> dict[str, Json]:
        column = context.store.column(self.field)
        return {"value": sum(len(column[position]) for position in positions)}


@dataclass(frozen=True, slots=True)
class Cardinality(Aggregation):
    """Exact here; Elasticsearch's is approximate above precision_threshold."""

    field: str

    def collect(self, context: Context, positions: Sequence[int]) -> dict[str, Json]:
        column = context.store.column(self.field)
        values: set[Scalar] = set()
        for position in positions:
            values.update(column[position])
        return {"value": len(values)}


@dataclass(frozen=True, slots=True)
class TopMetrics(Aggregation):
    fields: tuple[str, ...]
    key: SortKey
    size: int

    def collect(self, context: Context, positions: Sequence[int]) -> dict[str, Json]:
        store, key = context.store, self.key
        valued = [p for p in positions if key.value(store, p) is not None]
        tops = []
        for position in ordered(store, valued, (key,))[: self.size]:
            metrics: dict[str, Json] = {}
            for name in self.fields:
                cell = store.column(name)[position]
                value: Json = cell[0] if cell else None
                metrics[name] = iso_ms(value) if name in DATE_FIELDS and cell else value
            sort = key.value(store, position)
            shown = iso_ms(sort) if key.field in DATE_FIELDS else sort
            tops.append({"sort": [shown], "metrics": metrics})
        return {"top": tops}


@dataclass(frozen=True, slots=True)
class TopHits(Aggregation):
    keys: tuple[SortKey, ...]
    size: int
    start: int
    source: SourceFilter

    def collect(self, context: Context, positions: Sequence[int]) -> dict[str, Json]:
        store = context.store
        chosen = ordered(store, positions, self.keys)[self.start : self.start + self.size]
        hits = [hit(store, position, self.source, self.keys, 1.0) for position in chosen]
        return {
            "hits": {
                "total": {"value": len(positions), "relation": "eq"},
                "max_score": None if self.keys or not hits else 1.0,
                "hits": hits,
            }
        }


def _minimum(body: Mapping[str, Json], context: Context) -> Aggregation:
    return Extreme(required_field("min", body, ("format",)), largest=False)


def _maximum(body: Mapping[str, Json], context: Context) -> Aggregation:
    return Extreme(required_field("max", body, ("format",)), largest=True)


def _value_count(body: Mapping[str, Json], context: Context) -> Aggregation:
    return ValueCount(required_field("value_count", body, ()))


def _cardinality(body: Mapping[str, Json], context: Context) -> Aggregation:
    threshold = body.get("precision_threshold", 3000)
    if not isinstance(threshold, int) or threshold < 0:
        raise illegal("[precisionThreshold] must be greater than or equal to 0")
    return Cardinality(required_field("cardinality", body, ("precision_threshold",)))


def _top_metrics(body: Mapping[str, Json], context: Context) -> Aggregation:
    for key in body:
        if key not in ("metrics", "sort", "size"):
            raise unknown_field("top_metrics", key)
    metrics: Json = body.get("metrics")
    listed: list[Json] = metrics if isinstance(metrics, list) else [metrics]
    if not listed or not all(isinstance(m, Mapping) for m in listed):
        raise illegal("Required [metrics]")
    keys = parse_sort(body.get("sort", []), context.store, in_pit=False)
    if len(keys) != 1:
        raise illegal(f"[top_metrics] must contain exactly one sort, found {len(keys)}")
    size = body.get("size", 1)
    if not isinstance(size, int) or not 1 <= size <= 10:
        raise illegal("[top_metrics.size] must not be more than [10]", phase=True)
    fields = tuple(required_field("metrics", metric, ()) for metric in listed)
    return TopMetrics(fields, keys[0], size)


def _top_hits(body: Mapping[str, Json], context: Context) -> Aggregation:
    for key in body:
        if key not in ("size", "from", "sort", "_source"):
            raise parsing(f"Unknown key for a VALUE in [{key}].")
    size, start = body.get("size", 3), body.get("from", 0)
    if not isinstance(size, int) or not isinstance(start, int) or size + start > 100:
        reason = "Top hits result window is too large, from + size must be less than [100]"
        raise illegal(reason, phase=True)
    keys = parse_sort(body.get("sort", []), context.store, in_pit=False)
    return TopHits(keys, size, start, parse_source(body.get("_source", True)))


METRICS = {
    "min": _minimum,
    "max": _maximum,
    "value_count": _value_count,
    "cardinality": _cardinality,
    "top_metrics": _top_metrics,
    "top_hits": _top_hits,
}
