"""How found documents are ordered, paged and shown: sort, search_after and _source filtering of the
SIEM server, for a search's hits and for the hits inside an aggregation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from rehearsal.world.siem_documents import (
    DATE_FIELDS,
    Cell,
    DocumentStore,
    epoch_ms,
    iso_ms,
)
from rehearsal.world.siem_errors import Json, SearchRefused, illegal, parsing, unknown_field

_DATE_FORMATS = ("strict_date_optional_time", "strict_date_optional_time_nanos", "epoch_millis")


@dataclass(frozen=True, slots=True)
class SortKey:
    """One sort criterion. `_shard_doc` is the document's position in its frozen snapshot."""

    field: str
    descending: bool = False
    missing_first: bool = False
    as_text: bool = False

    def value(self, store: DocumentStore, position: int) -> Any:
        if self.field in ("_shard_doc", "_doc"):
            return position
        cell: Cell = store.column(self.field)[position]
        if not cell:
            return None
        if len(cell) == 1:
            return cell[0]
        return max(cell, key=_rank) if self.descending else min(cell, key=_rank)

    def shown(self, value: Any) -> Any:
        return iso_ms(value) if self.as_text and value is not None else value

    def compare(self, left: Any, right: Any) -> int:
        """Negative if `left` comes first in this order."""
        if left is None or right is None:
            if left is right:
                return 0
            return -1 if (left is None) is self.missing_first else 1
        one, other = _rank(left), _rank(right)
        if one == other:
            return 0
        return -1 if (one < other) is not self.descending else 1


def _rank(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, int | float) else (1, str(value))


def parse_sort(body: Json, store: DocumentStore, *, in_pit: bool) -> tuple[SortKey, ...]:
    keys: list[SortKey] = []
    for item in body if isinstance(body, list) else [body]:
        if isinstance(item, str):
            keys.append(_sort_key(item, {}, store))
        elif isinstance(item, Mapping):
            keys.extend(_sort_key(field, options, store) for field, options in item.items())
        else:
            raise illegal("malformed sort format, within the sort array, an object or a string")
    if any(key.field == "_shard_doc" for key in keys):
        if not in_pit:
            raise illegal("[_shard_doc] sort field cannot be used without [point in time]")
    elif in_pit and keys:
        keys.append(SortKey("_shard_doc"))  # the tiebreaker that every search in a PIT gets
    return tuple(keys)


def _sort_key(field: str, options: Json, store: DocumentStore) -> SortKey:
    if isinstance(options, str):
        options = {"order": options}
    if not isinstance(options, Mapping):
        raise parsing(f"[field_sort] malformed options for [{field}]")
    for key in options:
        if key not in ("order", "missing", "unmapped_type", "format"):
            raise unknown_field("field_sort", key)
    order = options.get("order", "desc" if field == "_score" else "asc")
    if order not in ("asc", "desc"):
        raise illegal(f"Unknown SortOrder [{order}]")
    if options.get("missing", "_last") not in ("_first", "_last"):
        raise illegal("[missing] of a sort: only _first and _last are spoken by this server")
    if options.get("format") not in (None, *_DATE_FORMATS):
        raise illegal(f"Invalid format: [{options['format']}]: not spoken by this server")
    if field == "_score":
        raise illegal("sorting on [_score] is not spoken by this server")
    special = field in ("_shard_doc", "_doc")
    if not special and "unmapped_type" not in options and not store.is_mapped(field):
        reason = f"No mapping found for [{field}] in order to sort on"
        raise SearchRefused(400, "query_shard_exception", reason, phase=True)
    return SortKey(
        field,
        descending=order == "desc",
        missing_first=options.get("missing") == "_first",
        as_text=options.get("format", "epoch_millis") != "epoch_millis" and field in DATE_FIELDS,
    )


def ordered(
    store: DocumentStore, positions: Sequence[int], keys: Sequence[SortKey]
) -> Sequence[int]:
    """The positions in the order of the keys; equal ones stay in order of @timestamp."""
    in_time_order = keys and keys[0].field == "@timestamp" and not keys[0].descending
    if not keys or (in_time_order and all(key.field == "_shard_doc" for key in keys[1:])):
        return positions
    result = list(positions)
    for key in reversed(keys):
        present = [p for p in result if key.value(store, p) is not None]
        absent = [p for p in result if key.value(store, p) is None]
        # `key=key` binds this turn's criterion; reverse keeps equal ones in their order.
        present.sort(key=lambda p, key=key: _rank(key.value(store, p)), reverse=key.descending)  # type: ignore[misc]
        result = absent + present if key.missing_first else present + absent
    return result


def after(
    store: DocumentStore,
    positions: Sequence[int],
    keys: Sequence[SortKey],
    cursor: Json,
    now: datetime,
) -> int:
    """Index in the ordered `positions` of the first that comes after the cursor."""
    if not isinstance(cursor, list):
        raise parsing("Expected [START_ARRAY] in [search_after]")
    if not keys:
        raise illegal("Sort must contain at least one field.", phase=True)
    if len(cursor) != len(keys):
        reason = f"search_after has {len(cursor)} value(s) but sort has {len(keys)}."
        raise illegal(reason, phase=True)
    values = [
        epoch_ms(value, now) if key.field in DATE_FIELDS and value is not None else value
        for key, value in zip(keys, cursor, strict=True)
    ]
    low, high = 0, len(positions)
    while low < high:
        middle = (low + high) // 2
        if _compare(store, positions[middle], keys, values) > 0:
            high = middle
        else:
            low = middle + 1
    return low


def _compare(
    store: DocumentStore, position: int, keys: Sequence[SortKey], values: Sequence[Any]
) -> int:
    for key, value in zip(keys, values, strict=True):
        verdict = key.compare(key.value(store, position), value)
        if verdict:
            return verdict
    return 0


@dataclass(frozen=True, slots=True)
class SourceFilter:
    """`_source`: everything, nothing, or the paths that fit the patterns."""

    wanted: bool = True
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()

    def apply(self, source: Mapping[str, Json]) -> Json:
        if not self.includes and not self.excludes:
            return source
        return self._pruned(source, "")

    def _pruned(self, node: Json, path: str) -> Json:
        if isinstance(node, Mapping):
            kept = {
                key: self._pruned(v, f"{path}.{key}" if path else key) for key, v in node.items()
            }
            return {key: value for key, value in kept.items() if value is not None} or (
                None if path else {}
            )
        if isinstance(node, list):
            items = [item for item in (self._pruned(v, path) for v in node) if item is not None]
            return items or None
        included = not self.includes or _fits(path, self.includes)
        return node if included and not _fits(path, self.excludes) else None


def _fits(path: str, patterns: Sequence[str]) -> bool:
    parts = path.split(".")
    stems = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    return any(fnmatchcase(stem, pattern) for pattern in patterns for stem in stems)


def parse_source(body: Json) -> SourceFilter:
    if isinstance(body, bool):
        return SourceFilter(wanted=body)
    if isinstance(body, str):
        return SourceFilter(includes=(body,))
    if isinstance(body, list):
        return SourceFilter(includes=tuple(map(str, body)))
    if not isinstance(body, Mapping):
        raise parsing("Expected one of [VALUE_BOOLEAN, START_OBJECT] in [_source]")
    for key in body:
        if key not in ("includes", "include", "excludes", "exclude"):
            raise parsing(f"Unknown key for a START_ARRAY in [{key}].")
    includes = body.get("includes", body.get("include", []))
    excludes = body.get("excludes", body.get("exclude", []))
    return SourceFilter(
        includes=tuple(includes if isinstance(includes, list) else [includes]),
        excludes=tuple(excludes if isinstance(excludes, list) else [excludes]),
    )


def hit(
    store: DocumentStore,
    position: int,
    shown: SourceFilter,
    keys: Sequence[SortKey],
    score: float | None,
) -> dict[str, Json]:
    document = store.documents[position]
    result: dict[str, Json] = {
        "_index": document.index,
        "_id": document.id,
        "_score": None if keys else score,
    }
    if shown.wanted:
        result["_source"] = shown.apply(document.source)
    if keys:
        result["sort"] = [key.shown(key.value(store, position)) for key in keys]
    return result
