"""The canonical list: it comes back as written, stays harmless, and bad files are named."""

import csv
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recovery.accounts import (
    Account,
    Priority,
    PriorityReason,
    Quarantined,
    RosterEntry,
    Sighting,
    Stage,
)
from recovery.canonical import COLUMNS, read_canonical, to_frame, write_csv, write_json
from recovery.canonical_read import TRIGGERS, join_list, split_list
from recovery.detect import priority_reasons
from recovery.errors import Misconfigured
from recovery.policy import PriorityPolicy

AT = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
_some = _text.filter(bool)
_times = st.datetimes(datetime(2001, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@st.composite
def accounts(draw: st.DrawFn) -> Account:
    first = draw(_times)
    reasons = tuple(r for r in PriorityReason if draw(st.booleans()))
    return Account(
        ref="acc-x",
        account_id=draw(st.from_regex(r"\A['=+@a-zA-Z0-9_;-][a-z0-9 ,\"é]{0,8}[a-z0-9]\Z")),
        handle=draw(_text),
        email=draw(st.none() | _some),
        phone=draw(st.none() | _some),
        locale=draw(_some),
        last_active=draw(st.none() | _times),
        linked_apps=tuple(draw(st.lists(_text, max_size=3))),
        priority=Priority.HIGH if reasons else Priority.NORMAL,
        reasons=reasons,
        wave=draw(st.integers(-1, 5)),
        batch=0,
        stage=draw(st.sampled_from(Stage)),
        excluded=draw(st.none() | st.none() | _some),
        first_seen=first,
        last_seen=first + draw(st.timedeltas(timedelta(0), timedelta(days=2))),
        resets=draw(st.integers(1, 10**9)),
    )


def account(account_id: str, **changes: object) -> Account:
    fields: dict[str, object] = {
        "ref": "acc-x",
        "account_id": account_id,
        "handle": "ana",
        "email": "ana@example.com",
        "phone": "+12025550123",
        "locale": "de",
        "last_active": AT,
        "linked_apps": ("app-1", "app-2"),
        "priority": Priority.NORMAL,
        "reasons": (),
        "wave": 1,
        "batch": 0,
        "stage": Stage.SCOPED,
        "first_seen": AT,
        "last_seen": AT,
        "resets": 2,
    }
    return Account(**{**fields, **changes})  # type: ignore[arg-type]


@settings(
    max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    listed=st.lists(accounts(), unique_by=lambda a: a.account_id, max_size=6), as_csv=st.booleans()
)
def test_what_is_written_comes_back(tmp_path: Path, listed: list[Account], as_csv: bool) -> None:
    path = tmp_path / ("list.csv" if as_csv else "list.json")
    (write_csv if as_csv else write_json)(to_frame(listed), path)
    entries, sightings, quarantined = read_canonical(path)
    scope = [a for a in listed if not a.excluded]
    assert [
        (e.account_id, e.handle, e.email, e.phone, e.last_active, e.linked_apps, e.locale)
        for e in entries
    ] == [
        (a.account_id, a.handle, a.email, a.phone, a.last_active, a.linked_apps, a.locale)
        for a in scope
    ]
    assert sightings == [
        Sighting(a.account_id, a.first_seen or AT, a.last_seen or AT, a.resets, f"file {path.name}")
        for a in scope
    ]
    assert [priority_reasons(e, PriorityPolicy()) for e in entries] == [a.reasons for a in scope]
    assert {q.account_id for q in quarantined} == {a.account_id for a in listed if a.excluded}


@settings(deadline=None)
@given(st.lists(_text, max_size=5))
def test_lists_in_one_cell(parts: list[str]) -> None:
    assert split_list(join_list(parts)) == parts


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(listed=st.lists(accounts(), max_size=4))
def test_no_cell_is_a_formula(tmp_path: Path, listed: list[Account]) -> None:
    path = tmp_path / "list.csv"
    write_csv(to_frame(listed), path)
    with path.open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.lstrip(" ").startswith(TRIGGERS)]


def test_the_frame_has_the_playbooks_columns_and_real_types() -> None:
    frame = to_frame([account("u-1"), account("u-2", email=None, last_active=None)])
    assert tuple(frame.columns) == COLUMNS
    assert str(frame["first_seen"].dtype) == "datetime64[us, UTC]"
    assert frame["resets"].sum() == 4
    assert frame["email"].isna().tolist() == [False, True]
    assert tuple(to_frame([]).columns) == COLUMNS


def test_files_are_for_their_owner_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    old_umask = os.umask(0)
    try:
        for number, write in enumerate((write_csv, write_json, write_csv)):
            write(to_frame([account(f"u-{number}")]), path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(old_umask)
    assert [p.name for p in tmp_path.iterdir()] == ["list.csv"]
    assert "u-2" in path.read_text(encoding="utf-8")


def test_a_write_that_fails_leaves_the_old_list(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    write_csv(to_frame([account("u-1")]), path)
    before = path.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write_csv(to_frame([account("u-2", handle="\ud800")]), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["list.csv"]


def test_the_exported_text(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    write_csv(to_frame([account("u-1", reasons=(PriorityReason.BRAND,))]), path)
    assert path.read_text(encoding="utf-8").splitlines()[1] == (
        '"u-1","ana@example.com","\'+12025550123","ana","2026-11-23T09:30:00+00:00","app-1;app-2",'
        '"normal","brand","","1","2026-11-23T09:30:00+00:00","2026-11-23T09:30:00+00:00","2",'
        '"SCOPED","","acc-x","de"'
    )
    write_json(to_frame([account("u-1")]), tmp_path / "list.json")
    (row,) = json.loads((tmp_path / "list.json").read_text(encoding="utf-8"))
    assert row["phone"] == "+12025550123"
    assert row["linked_apps"] == ["app-1", "app-2"]
    assert row["excluded"] is None


# --- made by hand ------------------------------------------------------------------------------


def read(
    tmp_path: Path, content: str | bytes, name: str = "hand.csv"
) -> tuple[list[RosterEntry], list[Sighting], list[Quarantined]]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return read_canonical(path, seen_at=AT)


def complaints(quarantined: list[Quarantined]) -> list[tuple[int, str, str]]:
    return [(q.row, q.field, q.reason) for q in quarantined]


def test_one_column_is_enough(tmp_path: Path) -> None:
    entries, sightings, quarantined = read(tmp_path, "user_id\nu-1\n\n u-2 \n")
    assert [e.account_id for e in entries] == ["u-1", "u-2"]
    assert [(s.first_seen, s.last_seen, s.resets) for s in sightings] == [(AT, AT, 1)] * 2
    assert quarantined == []
    assert read(tmp_path, '[{"user_id": "u-1"}, {"user_id": 7}]')[0][1].account_id == "7"


def test_times_default_to_when_the_file_was_written(tmp_path: Path) -> None:
    path = tmp_path / "hand.csv"
    path.write_text("user_id\nu-1\n")
    os.utime(path, (AT.timestamp(), AT.timestamp()))
    assert read_canonical(path)[1][0].first_seen == AT


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_byte_order_mark_delimiters_headers_and_extra_columns(
    tmp_path: Path, delimiter: str
) -> None:
    header = delimiter.join(["User ID", "EMAIL", "password", "brand_account", "Linked-Apps"])
    row = delimiter.join(["u-1", "ana@example.com", "hunter2", "yes", '"a;b"'])
    entries, _, quarantined = read(tmp_path, f"\ufeff{header}\r\n{row}\r\n")
    assert entries[0].email == "ana@example.com"
    assert entries[0].brand_account
    assert entries[0].linked_apps == ("a", "b")
    assert "hunter2" not in repr(entries)
    assert quarantined == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "user_id"),
        ("email,phone\na@example.com,1\n", "a column user_id"),
        ("user_id,email,email\nu-1,a,b\n", "column 2 again"),
        ("user_id\nu-1\nu-\u00fc\n".encode("latin-1"), "other bytes in row 3"),
        ("user_id\nu-1\n".encode("utf-16"), "UTF-16"),
        ('user_id,email\nu-1,"a\nu-2,b\n', "row 2"),
        ("user_id,email\nu-1," + "x" * 200_000 + "\n", "row 2"),
        ('[{"user_id": "u-1"},\n{]', "line 2"),
        ('{"user_id": "u-1"}', "a JSON array"),
        ('[{"email": "a@example.com"}]', "a field user_id"),
        ("[" * 100_000, "valid JSON"),
        ('[{"user_id": ' + "9" * 5_000 + "}]", "valid JSON"),
    ],
)
def test_a_file_that_can_not_be_used_is_refused(
    tmp_path: Path, content: str | bytes, says: str
) -> None:
    with pytest.raises(Misconfigured, match=r"hand\.csv") as refused:
        read(tmp_path, content)
    assert says in str(refused.value)
    assert "a@example.com" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="FileNotFoundError"):
        read_canonical(tmp_path / "none.csv")


def test_rows_that_can_not_be_used_are_named(tmp_path: Path) -> None:
    huge = "x" * 5_000
    entries, _, quarantined = read(
        tmp_path,
        "user_id,email,resets,first_seen,last_seen,priority,reasons\n"
        "u-1,a@example.com,two,yesterday,,,\n"
        ",b@example.com,,,,,\n"
        "u-3,c@example.com\n"
        f"u-4,{huge},,,,,\n"
        "u-5,\x00,,,,,\n"
        "u-\x006,,,,,,\n"
        "u-7,,3,2026-11-23T08:00:00Z,2026-11-23 07:00,high,\n"
        "u-8,,,,,high,brand;friend\n",
    )
    assert [e.account_id for e in entries] == ["u-1", "u-4", "u-5", "u-7", "u-8"]
    assert complaints(quarantined) == [
        (2, "first_seen", "not an ISO 8601 time"),
        (2, "resets", "not a whole number"),
        (3, "user_id", "empty"),
        (4, "(row)", "2 cells under 7 columns"),
        (5, "email", "longer than 4096 characters"),
        (6, "email", "NUL or half a character"),
        (7, "user_id", "NUL or half a character"),
        (8, "priority", "high, but the column reasons does not say why"),
        (8, "last_seen", "before first_seen"),
        (9, "reasons", "1 that the runbook does not know"),
    ]
    assert entries[4].brand_account


def test_json_values_of_other_kinds(tmp_path: Path) -> None:
    entries, _, quarantined = read(
        tmp_path,
        '[7, {"user_id": "u-1", "email": 1.5, "linked_apps": [1]}, {"user_id": true},'
        ' {"user_id": "u-2", "platform_handle": "\\ud800"}, {"user_id": 1000000000000000000}]',
        "hand.json",
    )
    assert [e.account_id for e in entries] == ["u-1", "u-2"]
    assert complaints(quarantined) == [
        (1, "(row)", "not an object"),
        (2, "email", "not a text"),
        (2, "linked_apps", "not a list of texts"),
        (3, "user_id", "not a text"),
        (4, "platform_handle", "NUL or half a character"),
        (5, "user_id", "a number too large"),
    ]


def test_rows_of_one_account(tmp_path: Path) -> None:
    entries, sightings, quarantined = read(
        tmp_path,
        "user_id,email,phone,first_seen,resets,brand_account\n"
        "u-1,ana@example.com,+12025550123,2026-11-23T09:00:00Z,1,\n"
        "u-1,ana@example.com,+12025550123,2026-11-23T09:05:00Z,4,\n"
        "u-2,bob@example.com,+12025550124,,,\n"
        "u-2,eve@example.com,+12025550124,,,yes\n"
        "u-2,eve@example.com,+12025550124,,,yes\n",
    )
    assert [e.email for e in entries] == ["ana@example.com", None]
    assert [e.phone for e in entries] == ["+12025550123", "+12025550124"]
    assert entries[1].brand_account  # the more careful of the two
    assert sightings[0].resets == 4
    assert sightings[0].last_seen - sightings[0].first_seen == timedelta(minutes=5)
    assert (5, "email", "differs from row 4") in complaints(quarantined)
    assert (5, "brand_account", "differs from row 4") in complaints(quarantined)
    assert {q.row for q in quarantined} == {5, 6}


def test_what_one_row_excludes_no_other_row_takes_in(tmp_path: Path) -> None:
    entries, sightings, quarantined = read(
        tmp_path, "user_id,excluded\nu-1,\nu-1,service\nu-1,\nu-2,\n"
    )
    assert [e.account_id for e in entries] == ["u-2"]
    assert [s.account_id for s in sightings] == ["u-2"]
    assert complaints(quarantined) == [
        (3, "excluded", "excluded in the file: not taken into scope")
    ]


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(content=st.binary(max_size=300), name=st.sampled_from(["hand.csv", "hand.json"]))
def test_no_file_does_worse_than_being_refused(tmp_path: Path, content: bytes, name: str) -> None:
    try:
        entries, sightings, _ = read(
            tmp_path, b"user_id,email\n" * (name == "hand.csv") + content, name
        )
    except Misconfigured:
        return
    assert [e.account_id for e in entries] == [s.account_id for s in sightings]
