"""Reads a list of affected accounts from a file, when the SIEM can't be asked.

Accepts what `recovery.canonical` writes and what a person makes by hand: CSV (RFC 4180, UTF-8) or a
JSON array, at least `user_id`. A row that can't be used is quarantined with its number; a file that
can't be read is refused with the sentence what to do. Contacts are checked later, with everybody's.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from recovery.accounts import PriorityReason, Quarantined, RosterEntry, Sighting
from recovery.errors import Misconfigured

TRIGGERS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet takes for the beginning of a formula, in the languages that it speaks."""

LONGEST_FIELD = 4_096
LARGEST_FILE = 2**30
_MANY = 10**12  # followers of an account whose list only says "high follower count"
_CONTACTS = ("email", "phone")


@dataclass(frozen=True, slots=True)
class _Row:
    entry: RosterEntry
    first_seen: datetime
    last_seen: datetime
    resets: int
    excluded: str
    number: int = field(compare=False)


class _Unusable(Exception):
    """This row can't stand for an account."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column, self.reason = column, reason


def read_canonical(
    path: Path, *, seen_at: datetime | None = None
) -> tuple[list[RosterEntry], list[Sighting], list[Quarantined]]:
    """What the file says of the accounts (contacts raw), when they were seen, and what is unusable.

    Rows of one account are merged; where they disagree the first one counts, the others are
    quarantined, and a contact they disagree about is left out. Rows marked as excluded are never
    taken into scope. `seen_at` stands in for missing times (default: when the file was written).
    Rows are numbered as a spreadsheet does, the header being 1; in JSON the first element is 1.
    Raises Misconfigured.
    """
    source = f"file {path.name}"
    text, written_at = _read(path)
    quarantined: list[Quarantined] = []
    kept: dict[str, _Row] = {}
    barred: set[str] = set()
    for number, cells in _records(text, path, quarantined, source):
        complaints: list[Quarantined] = []
        try:
            row = _parse(cells, number, seen_at or written_at, source, complaints)
        except _Unusable as error:
            quarantined.append(Quarantined(source, number, error.column, error.reason))
            continue
        quarantined.extend(complaints)
        account_id = row.entry.account_id
        if row.excluded:
            barred.add(account_id)
            reason = "excluded in the file: not taken into scope"
            quarantined.append(Quarantined(source, number, "excluded", reason, account_id))
        earlier = kept.get(account_id)
        kept[account_id] = row if earlier is None else _merge(earlier, row, source, quarantined)
    rows = [row for account_id, row in kept.items() if account_id not in barred]
    sightings = [
        Sighting(r.entry.account_id, r.first_seen, r.last_seen, r.resets, source) for r in rows
    ]
    return [row.entry for row in rows], sightings, quarantined


def _refused(path: Path, expected: str, got: str, advice: str = "") -> Misconfigured:
    return Misconfigured(
        "Read the list of accounts", subject=path.name, expected=expected, got=got, advice=advice
    )


def _read(path: Path) -> tuple[str, datetime]:
    try:
        status = path.stat()
        if status.st_size > LARGEST_FILE:
            raise _refused(path, "at most 1 GiB", f"{status.st_size / LARGEST_FILE:.1f} GiB")
        raw = path.read_bytes()
    except OSError as error:
        raise _refused(path, "a readable file", type(error).__name__) from None
    advice = "Save it again as CSV UTF-8 (or JSON)."
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _refused(path, "UTF-8", "UTF-16 from row 1 on", advice)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        raise _refused(path, "UTF-8", f"other bytes in row {row}", advice) from None
    return text, datetime.fromtimestamp(status.st_mtime, UTC)


def _records(
    text: str, path: Path, quarantined: list[Quarantined], source: str
) -> Iterator[tuple[int, Mapping[str, object]]]:
    if path.suffix.casefold() == ".json" or text.lstrip()[:1] in ("[", "{"):
        return _json_records(text, path, quarantined, source)
    return _csv_records(text, path, quarantined, source)


def _csv_records(
    text: str, path: Path, quarantined: list[Quarantined], source: str
) -> Iterator[tuple[int, Mapping[str, object]]]:
    first_line = text[: text.find("\n") + 1 or None]
    delimiter = next((d for d in (",", ";", "\t") if d in first_line), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    header: list[str] = []
    try:
        for number, cells in enumerate(reader, start=1):
            if not header:
                header = _header(cells, path)
            elif not any(cells):
                continue
            elif len(cells) != len(header):
                reason = f"{len(cells)} cells under {len(header)} columns"
                quarantined.append(Quarantined(source, number, "(row)", reason))
            else:
                yield number, dict(zip(header, map(_unguarded, cells), strict=True))
    except csv.Error:
        raise _refused(
            path,
            "CSV after RFC 4180",
            f"a quotation mark without its partner, or an endless cell, in row {number + 1}",
            "Mend that row; from there on no row boundary can be trusted.",
        ) from None
    if not header:
        _header([], path)


def _header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip().casefold().replace(" ", "_").replace("-", "_") for cell in cells]
    if "user_id" not in names:
        raise _refused(path, "a column user_id in row 1", "no such column")
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise _refused(path, "every column once", f"column {names.index(twice) + 1} again")
    return names


def _unguarded(cell: str) -> str:
    """Takes away the apostrophe that keeps a spreadsheet from reading a formula."""
    rest = cell[1:]
    guarded = cell.startswith("'") and (rest.lstrip(" ").startswith(TRIGGERS) or rest[:1] == "'")
    return rest if guarded else cell


def _json_records(
    text: str, path: Path, quarantined: list[Quarantined], source: str
) -> Iterator[tuple[int, Mapping[str, object]]]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise _refused(path, "valid JSON", f"an error in line {error.lineno}") from None
    except (ValueError, RecursionError) as error:
        raise _refused(path, "valid JSON", type(error).__name__) from None
    if not isinstance(document, list):
        raise _refused(path, "a JSON array of accounts", type(document).__name__)
    if document and not any(isinstance(item, dict) and "user_id" in item for item in document):
        raise _refused(path, "a field user_id", "no such field in any element")
    for number, item in enumerate(document, start=1):
        if isinstance(item, dict):
            yield number, item
        else:
            quarantined.append(Quarantined(source, number, "(row)", "not an object"))


def _parse(
    cells: Mapping[str, object],
    number: int,
    seen_at: datetime,
    source: str,
    complaints: list[Quarantined],
) -> _Row:
    if isinstance(cells.get("user_id"), bool):
        raise _Unusable("user_id", "not a text")
    account_id = _text(cells, "user_id").strip()
    if not account_id:
        raise _Unusable("user_id", "empty")
    if len(account_id) > 200 or not account_id.isprintable():
        raise _Unusable("user_id", "too long, or not printable")

    def complain(column: str, reason: str) -> None:
        complaints.append(Quarantined(source, number, column, reason, account_id))

    def text(column: str) -> str:
        try:
            return _text(cells, column)
        except _Unusable as error:
            complain(column, error.reason)
            return ""

    def time(column: str) -> datetime | None:
        value = text(column)
        try:
            at = datetime.fromisoformat(value) if value else None
            return at and (at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC))
        except (ValueError, OverflowError):
            complain(column, "not an ISO 8601 time")
            return None

    def count(column: str, default: int) -> int:
        value = text(column)
        if value.isascii() and value.isdigit() and len(value) < 16:
            return int(value)
        if value:
            complain(column, "not a whole number")
        return default

    def flag(column: str) -> bool:
        value = text(column).casefold()
        if value not in ("", "0", "1", "true", "false", "yes", "no"):
            complain(column, "neither true nor false")
        return value in ("1", "true", "yes")

    def several(column: str) -> tuple[str, ...]:
        value = cells.get(column)
        if not isinstance(value, list):
            return tuple(split_list(text(column)))
        if all(isinstance(part, str) and not _bad(part) for part in value):
            return tuple(value)
        complain(column, "not a list of texts")
        return ()

    reasons = set(several("reasons"))
    if unknown := reasons - set(PriorityReason):
        complain("reasons", f"{len(unknown)} that the runbook does not know")
    if text("priority").casefold() == "high" and not reasons:
        complain("priority", "high, but the column reasons does not say why")
    first = time("first_seen") or seen_at
    last = time("last_seen") or first
    if last < first:
        complain("last_seen", "before first_seen")
        last = first
    return _Row(
        RosterEntry(
            account_id=account_id,
            handle=text("platform_handle"),
            email=text("email") or None,
            phone=text("phone") or None,
            role="admin" if PriorityReason.ADMIN in reasons else text("role") or "member",
            brand_account=PriorityReason.BRAND in reasons or flag("brand_account"),
            followers=_MANY if PriorityReason.FOLLOWERS in reasons else count("followers", 0),
            billing_linked=PriorityReason.BILLING in reasons or flag("billing_linked"),
            last_active=time("last_active"),
            linked_apps=several("linked_apps"),
            locale=text("locale") or "en",
            status=text("status") or "active",
        ),
        first,
        last,
        max(1, count("resets", 1)),
        text("excluded"),
        number,
    )


def _text(cells: Mapping[str, object], column: str) -> str:
    value = cells.get(column)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if abs(value) >= 10**18:
            raise _Unusable(column, "a number too large")
        return str(value)
    if not isinstance(value, str):
        raise _Unusable(column, "not a text")
    if trouble := _bad(value):
        raise _Unusable(column, trouble)
    return value


def _bad(value: str) -> str:
    if len(value) > LONGEST_FIELD:
        return f"longer than {LONGEST_FIELD} characters"
    if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
        return "NUL or half a character"
    return ""


def _merge(first: _Row, again: _Row, source: str, quarantined: list[Quarantined]) -> _Row:
    """Times are joined; what else differs is quarantined, and no disputed contact is used: whoever
    planted a second row must not receive the link."""
    merged = replace(
        first,
        first_seen=min(first.first_seen, again.first_seen),
        last_seen=max(first.last_seen, again.last_seen),
        resets=max(first.resets, again.resets),
    )
    for column in fields(RosterEntry):
        if getattr(first.entry, column.name) == getattr(again.entry, column.name):
            continue
        quarantined.append(
            Quarantined(
                source,
                again.number,
                "platform_handle" if column.name == "handle" else column.name,
                f"differs from row {first.number}",
                first.entry.account_id,
            )
        )
    entry = first.entry
    if entry.email != again.entry.email:
        entry = replace(entry, email=None)
    if entry.phone != again.entry.phone:
        entry = replace(entry, phone=None)
    cautious = replace(
        entry,
        brand_account=entry.brand_account or again.entry.brand_account,
        billing_linked=entry.billing_linked or again.entry.billing_linked,
        followers=max(entry.followers, again.entry.followers),
    )
    return replace(merged, entry=cautious)


def join_list(parts: list[str]) -> str:
    """Parts joined by ";", with a backslash before what is meant literally."""
    text = ";".join(part.replace("\\", "\\\\").replace(";", "\\;") for part in parts)
    # One empty part would look like none at all.
    return text if text or not parts else "\\"


def split_list(text: str) -> list[str]:
    """The inverse of `join_list`."""
    if not text:
        return []
    parts = [""]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            parts[-1] += next(characters, "")
        elif character == ";":
            parts.append("")
        else:
            parts[-1] += character
    return parts
