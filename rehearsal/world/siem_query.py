"""Which documents a query of the SIEM server finds: the subset of Elasticsearch's query DSL that
the rehearsal speaks. What is outside of the subset is refused as Elasticsearch refuses nonsense.

A query narrows an ascending sequence of document positions. Ranges on @timestamp cut it by
bisection and go first, so that the columns of the other filters are read inside the window only.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rehearsal.world.siem_documents import (
    DATE_FIELDS,
    DocumentStore,
    Scalar,
    epoch_ms,
    node_at,
)
from rehearsal.world.siem_errors import Json, illegal, parsing, unknown_field


class Query(ABC):
    @abstractmethod
    def narrow(self, store: DocumentStore, positions: Sequence[int]) -> Sequence[int]:
        """Those of `positions` (ascending) whose documents match, ascending."""


@dataclass(frozen=True, slots=True)
class MatchAll(Query):
    def narrow(self, store: DocumentStore, positions: Sequence[int]) -> Sequence[int]:
        return positions


@dataclass(frozen=True, slots=True)
class MatchNone(Query):
    def narrow(self, store: DocumentStore, positions: Sequence[int]) -> Sequence[int]:
        return []


@dataclass(frozen=True, slots=True)
class AnyOf(Query):
    """term and terms. A number and its text are the same value, as in keyword fields."""

    field: str
    values: frozenset[Scalar]

    def narrow(self, store: DocumentStore, positions: Sequence[int]) -> Sequence[int]:
        column = store.column(self.field)
        if len(self.values) == 1:
            (value,) = self.values
            return [position for position in positions if value in column[position]]
        apart = self.values.isdisjoint
        return [position for position in positions if not apart(column[position])]


@dataclass(frozen=True, slots=True)
class Exists(Query):
    field: str

    def narrow(self, store: DocumentStore, positions: Sequence[int]) -> Sequence[int]:
        column = store.column(self.field)
        documents = store.documents
        return [p for p in positions if column[p] or _has_leaf(documents[p].tree, self.field)]


@dataclass(frozen=True, slots=True)
class Between(Query):
    """A range; a bound that is None is open. On date fields the bounds are epoch milliseconds."""

    field: str
    low: Any = None
    low_open: bool = False
    high: Any = None
    high_open: bool = False

    def narrow(self, store: DocumentStore, positions: Sequence[int]) -> Sequence[int]:
        if self.field == "@timestamp":
            return self._cut(store.times, positions)
        column = store.column(self.field)
        return [p for p in positions if any(self._holds(value) for value in column[p])]

    def _cut(self, times: Sequence[int], positions: Sequence[int]) -> Sequence[int]:
        first, end = 0, len(times)
        if self.low is not None:
            first = (bisect_right if self.low_open else bisect_left)(times, self.low)
        if self.high is not None:
            end = (bisect_left if self.high_open else bisect_right)(times, self.high)
        return positions[bisect_left(positions, first) : bisect_left(positions, max(first, end))]

    def _holds(self, value: Any) -> bool:
        for bound, is_open, below in (
            (self.low, self.low_open, False),
            (self.high, self.high_open, True),
        ):
            if bound is None:
                continue
            left, right = (value, bound) if isinstance(value, type(bound)) else _alike(value, bound)
            if left == right:
                if is_open:
                    return False
            elif (left < right) is not below:
                return False
        return True


@dataclass(frozen=True, slots=True)
class Bool(Query):
    required: tuple[Query, ...] = ()
    forbidden: tuple[Query, ...] = ()
    optional: tuple[Query, ...] = ()
    minimum: int = 0

    def narrow(self, store: DocumentStore, positions: Sequence[int]) -> Sequence[int]:
        for query in sorted(self.required, key=lambda query: not isinstance(query, Between)):
            positions = query.narrow(store, positions)
        if self.minimum:
            hits: Counter[int] = Counter()
            for query in self.optional:
                hits.update(query.narrow(store, positions))
            positions = [position for position in positions if hits[position] >= self.minimum]
        for query in self.forbidden:
            unwanted = set(query.narrow(store, positions))
            positions = [position for position in positions if position not in unwanted]
        return positions


def parse_query(body: Json, now: datetime) -> Query:
    """A query of the request's body; `now` is what date math means by it. Raises SearchRefused."""
    if not isinstance(body, Mapping):
        raise parsing("[_na] query malformed, must start with start_object")
    if not body:
        raise illegal("query malformed, empty clause found")
    name = next(iter(body))
    parser = _PARSERS.get(name)
    if parser is None:
        raise parsing(
            f"unknown query [{name}]",
            caused_by={
                "type": "named_object_not_found_exception",
                "reason": f"[1:1] unknown field [{name}]",
            },
        )
    if len(body) > 1:
        raise parsing(f"[{name}] malformed query, expected [END_OBJECT] but found [FIELD_NAME]")
    if not isinstance(body[name], Mapping):
        raise parsing(f"[{name}] query malformed, no start_object after query name")
    query: Query = parser(body[name], now)
    return query


def _one_field(name: str, body: Mapping[str, Json]) -> tuple[str, Json]:
    fields = [key for key in body if key not in ("boost", "_name")]
    if len(fields) != 1:
        found = " and ".join(f"[{field}]" for field in fields)
        raise parsing(f"[{name}] query doesn't support multiple fields, found {found}")
    return fields[0], body[fields[0]]


def _term(body: Mapping[str, Json], now: datetime) -> Query:
    field, value = _one_field("term", body)
    if isinstance(value, Mapping):
        for key in value:
            if key not in ("value", "boost", "_name"):
                raise parsing(f"[term] query does not support [{key}]")
        value = value.get("value")
    if value is None:
        raise illegal("value cannot be null")
    if isinstance(value, list):
        raise parsing("[term] query does not support array of values")
    return AnyOf(field, frozenset(_spellings(field, value, now)))


def _terms(body: Mapping[str, Json], now: datetime) -> Query:
    field, values = _one_field("terms", body)
    if not isinstance(values, list):
        raise parsing("[terms] query requires an array of values")
    if len(values) > 65_536:
        raise illegal("The number of terms in the Terms Query exceeds [65536]", phase=True)
    return AnyOf(field, frozenset(form for v in values for form in _spellings(field, v, now)))


def _spellings(field: str, value: Json, now: datetime) -> Iterator[Scalar]:
    if field in DATE_FIELDS:
        yield epoch_ms(value, now)
    elif isinstance(value, bool):
        yield from (value, "true" if value else "false")
    elif isinstance(value, str):
        yield value
        if value.lstrip("-").isdigit():
            yield int(value)
    elif isinstance(value, int | float):
        yield from (value, str(value))
    else:
        raise parsing(f"[terms] unexpected value for [{field}]")


def _range(body: Mapping[str, Json], now: datetime) -> Query:
    field, bounds = _one_field("range", body)
    if not isinstance(bounds, Mapping):
        raise parsing("[range] query malformed, no start_object after query name")
    for key in bounds:
        if key not in ("gte", "gt", "lte", "lt", "format", "boost", "_name"):
            raise parsing(f"[range] query does not support [{key}]")
    if bounds.get("format") not in (None, "epoch_millis", "strict_date_optional_time"):
        raise illegal(f"Invalid format: [{bounds['format']}]: not spoken by this server")
    low, low_open = _bound(field, bounds, "gte", "gt", now)
    high, high_open = _bound(field, bounds, "lte", "lt", now)
    return Between(field, low, low_open, high, high_open)


def _bound(
    field: str, bounds: Mapping[str, Json], closed: str, opened: str, now: datetime
) -> tuple[Json, bool]:
    """The bound and whether it is open. Of two for one side the later wins, as it is parsed."""
    given = [key for key in bounds if key in (closed, opened) and bounds[key] is not None]
    if not given:
        return None, False
    key = given[-1]
    if field in DATE_FIELDS:
        return epoch_ms(bounds[key], now, round_up=key in ("gt", "lte")), key == opened
    return bounds[key], key == opened


def _exists(body: Mapping[str, Json], now: datetime) -> Query:
    for key in body:
        if key not in ("field", "boost", "_name"):
            raise parsing(f"[exists] query does not support [{key}]")
    if not isinstance(body.get("field"), str):
        raise parsing("[exists] must be provided with a [field]")
    return Exists(body["field"])


def _match_all(body: Mapping[str, Json], now: datetime) -> Query:
    for key in body:
        if key not in ("boost", "_name"):
            raise unknown_field("match_all", key)
    return MatchAll()


def _match_none(body: Mapping[str, Json], now: datetime) -> Query:
    _match_all(body, now)
    return MatchNone()


def _bool(body: Mapping[str, Json], now: datetime) -> Query:
    clauses: dict[str, tuple[Query, ...]] = {}
    for key, value in body.items():
        if key in ("filter", "must", "must_not", "should"):
            given = value if isinstance(value, list) else [value]
            clauses[key] = tuple(parse_query(query, now) for query in given)
        elif key not in ("minimum_should_match", "boost", "_name"):
            raise unknown_field("bool", key)
    required = clauses.get("filter", ()) + clauses.get("must", ())
    optional = clauses.get("should", ())
    minimum = body.get("minimum_should_match", 0 if required else 1)
    if not str(minimum).isdigit():
        raise illegal(f"minimum_should_match [{minimum}] is not spoken by this server")
    minimum = int(minimum) if optional else 0
    return Bool(required, clauses.get("must_not", ()), optional, minimum)


_PARSERS = {
    "term": _term,
    "terms": _terms,
    "range": _range,
    "exists": _exists,
    "match_all": _match_all,
    "match_none": _match_none,
    "bool": _bool,
}


def _has_leaf(tree: Json, field: str) -> bool:
    return _any_leaf(node_at(tree, field))


def _any_leaf(node: Json) -> bool:
    if isinstance(node, Mapping):
        return any(_any_leaf(value) for value in node.values())
    if isinstance(node, list):
        return any(_any_leaf(value) for value in node)
    return node is not None


def _alike(value: Any, bound: Any) -> tuple[Any, Any]:
    """Both as numbers if they can be, else both as text."""
    try:
        return float(value), float(bound)
    except (TypeError, ValueError):
        return str(value), str(bound)
