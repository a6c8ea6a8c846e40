"""The documents of the SIEM server: sorted by @timestamp, read by column, visible once ingested.

A column is a list parallel to the documents; each cell is the tuple of a document's values at that
dotted path (an array gives several, a missing field none), as Elasticsearch's doc values are.
"""

import copy
import heapq
import re
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from rehearsal.world.siem_errors import Json, SearchRefused

Scalar: TypeAlias = str | int | float | bool
Cell: TypeAlias = tuple[Scalar, ...]
Column: TypeAlias = list[Cell]

DATE_FIELDS = frozenset(
    {"@timestamp", "event.created", "event.ingested", "event.start", "event.end"}
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_DATE_MATH = re.compile(r"now((?:[+-]\d+[smhdw])*)\Z")
_DATE_STEP = re.compile(r"([+-]\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_REMEMBERED = 24
_FEW = 256  # so many late documents are inserted one by one; more rebuild the order


def in_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND


def iso_ms(epoch_ms: float) -> str:
    """strict_date_optional_time as Elasticsearch prints it: milliseconds and a Z."""
    moment = _EPOCH + timedelta(milliseconds=epoch_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def epoch_ms(value: Json, now: datetime, *, round_up: bool = False) -> int:
    """strict_date_optional_time||epoch_millis, or date math on `now` without rounding.

    `round_up` fills a date without a time to its last millisecond, as gt and lte do.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _bad_date(value)
    if isinstance(value, int | float):
        return int(value)
    if re.fullmatch(r"-?\d{5,}", value):
        return int(value)
    if (math := _DATE_MATH.match(value)) is not None:
        for amount, unit in _DATE_STEP.findall(math.group(1)):
            now += timedelta(**{_UNITS[unit]: int(amount)})
        return in_ms(now)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise _bad_date(value) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if round_up and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        moment += timedelta(days=1) - _MILLISECOND
    return in_ms(moment)


def _bad_date(value: Json) -> SearchRefused:
    reason = f"failed to parse date field [{value}] with format [strict_date_optional_time]"
    return SearchRefused(400, "parse_exception", reason, phase=True)


@dataclass(frozen=True, slots=True)
class Stored:
    """One document. `tree` is `source` with dotted keys opened, as the index sees it."""

    id: str
    index: str
    shard: int
    at_ms: int
    source: Mapping[str, Json]
    tree: Mapping[str, Json]


class DocumentStore:
    """Documents in order of (@timestamp, arrival). Not visible before event.ingested: `publish`
    moves what is due from the waiting ones into the searchable order."""

    def __init__(self, shards: int = 3, default_index: str = "logs-generic-default") -> None:
        self.shards = shards
        self.documents: list[Stored] = []
        self.times: list[int] = []
        self.memo: dict[object, Json] = {}  # results of this very set of documents; read freely
        self._columns: dict[str, Column] = {}
        self._waiting: list[tuple[int, int, Stored]] = []
        self._arrivals = 0
        self._default_index = default_index

    def add(self, sources: Iterable[Mapping[str, Json]]) -> list[Stored]:
        """Take documents in. Nothing is searchable before the next `publish`."""
        added = [self._stored(source) for source in sources]
        for arrival, document in enumerate(added, self._arrivals - len(added)):
            ingested = document.tree.get("event", {}).get("ingested")
            due = in_ms(datetime.fromisoformat(ingested)) if ingested else 0
            heapq.heappush(self._waiting, (due, arrival, document))
        return added

    def publish(self, now: datetime) -> None:
        """Make everything searchable whose event.ingested is not after `now`."""
        limit = in_ms(now)
        due: list[Stored] = []
        while self._waiting and self._waiting[0][0] <= limit:
            due.append(heapq.heappop(self._waiting)[2])
        if not due:
            return
        due.sort(key=lambda document: document.at_ms)
        self.memo = {}
        if not self.times or due[0].at_ms >= self.times[-1]:
            self._append(due)
        elif len(due) <= _FEW:
            self._insert(due)
        else:
            self.documents = sorted([*self.documents, *due], key=lambda d: d.at_ms)
            self.times = [document.at_ms for document in self.documents]
            self._columns = {}

    def frozen(self) -> "DocumentStore":
        """What is searchable now, for ever: later documents do not come in."""
        snapshot = copy.copy(self)
        snapshot.documents = list(self.documents)
        snapshot.times = list(self.times)
        snapshot.memo = {}
        snapshot._columns = {field: list(column) for field, column in self._columns.items()}
        snapshot._waiting = []
        return snapshot

    def remember(self, key: object, result: Json) -> None:
        """For the next page of the same walk. A few walks at a time, so that a poll whose every
        query is new does not fill the memory."""
        if len(self.memo) >= _REMEMBERED:
            self.memo.clear()
        self.memo[key] = result

    def column(self, field: str) -> Column:
        column = self._columns.get(field)
        if column is None:
            column = [_cell(document, field) for document in self.documents]
            self._columns[field] = column
        return column

    def is_mapped(self, field: str) -> bool:
        """Whether any document ever had a value there; Elasticsearch would know the field."""
        return field in DATE_FIELDS or any(self.column(field))

    def _append(self, due: Sequence[Stored]) -> None:
        self.documents.extend(due)
        self.times.extend(document.at_ms for document in due)
        for field, column in self._columns.items():
            column.extend(_cell(document, field) for document in due)

    def _insert(self, due: Sequence[Stored]) -> None:
        for document in due:
            position = bisect_right(self.times, document.at_ms)
            self.documents.insert(position, document)
            self.times.insert(position, document.at_ms)
            for field, column in self._columns.items():
                column.insert(position, _cell(document, field))

    def _stored(self, source: Mapping[str, Json]) -> Stored:
        self._arrivals += 1
        tree = opened(source)
        stream = tree.get("data_stream") or {}
        index = self._default_index
        if stream:
            index = f"logs-{stream['dataset']}-{stream.get('namespace', 'default')}"
        given = tree.get("event", {}).get("id")
        name = str(given) if given else f"d{self._arrivals:09d}"
        at_ms = in_ms(datetime.fromisoformat(tree["@timestamp"]))
        shard = zlib.crc32(name.encode()) % self.shards
        return Stored(name, index, shard, at_ms, source, tree)


def opened(source: Mapping[str, Json]) -> Mapping[str, Json]:
    """The document with dotted keys turned into objects; the same object if it has none.

    Objects are plain dicts here: they come from JSON, and the abstract check is ten times slower.
    """
    if not _has_dotted_key(source):
        return source
    tree: dict[str, Json] = {}
    for key, value in source.items():
        node = tree
        *path, last = key.split(".")
        for part in path:
            node = node.setdefault(part, {})
        value = opened(value) if isinstance(value, dict) else value
        if isinstance(value, dict) and isinstance(node.get(last), dict):
            node[last].update(value)
        else:
            node[last] = dict(value) if isinstance(value, dict) else value
    return tree


def _has_dotted_key(source: Mapping[str, Json]) -> bool:
    for key, value in source.items():
        if "." in key or (type(value) is dict and _has_dotted_key(value)):
            return True
    return False


def _cell(document: Stored, field: str) -> Cell:
    if field == "@timestamp":
        return (document.at_ms,)
    if field == "_index":
        return (document.index,)
    if field == "_id":
        return (document.id,)
    found = node_at(document.tree, field)
    if found is None or isinstance(found, dict):
        return ()
    if field in DATE_FIELDS:
        return (in_ms(datetime.fromisoformat(found)),)
    if isinstance(found, list):
        return tuple(value for value in found if value is not None and not _is_object(value))
    return (found,)


def _is_object(value: Json) -> bool:
    return isinstance(value, dict | list)


def node_at(tree: Json, field: str) -> Json:
    """What stands at a dotted path: a value, an object, an array's values as one list, or None."""
    node = tree
    parts = field.split(".")
    for depth, part in enumerate(parts):
        if isinstance(node, list):
            return _from_array(node, ".".join(parts[depth:]))
        node = node.get(part) if isinstance(node, dict) else None
        if node is None:
            return None
    return node


def _from_array(nodes: Sequence[Json], rest: str) -> list[Json]:
    values: list[Json] = []
    for node in nodes:
        found = node_at(node, rest)
        if isinstance(found, list):
            values.extend(found)
        elif found is not None:
            values.append(found)
    return values
