"""The canonical list of affected accounts: a table, two file formats, and the way back.

The files are for people (and for the day on which the SIEM is down): readable by their owner alone,
written in one piece, harmless when opened in a spreadsheet. `recovery.canonical_read` reads them.
"""

import csv
import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import IO

import pandas as pd

from recovery.accounts import Account
from recovery.canonical_read import TRIGGERS, join_list, read_canonical
from recovery.files import replace_private

__all__ = ["COLUMNS", "read_canonical", "to_frame", "write_csv", "write_json"]

COLUMNS = (
    "user_id",
    "email",
    "phone",
    "platform_handle",
    "last_active",
    "linked_apps",
    "priority",
    "reasons",
    "excluded",
    "wave",
    "first_seen",
    "last_seen",
    "resets",
    "stage",
    "stage_reason",
    "ref",
    "locale",
)


def to_frame(accounts: Iterable[Account]) -> pd.DataFrame:
    """One row an account. Lists are tuples, times are UTC, what is not on record is None or NaT."""
    rows = [
        (
            a.account_id,
            a.email,
            a.phone,
            a.handle,
            a.last_active,
            a.linked_apps,
            a.priority.value,
            tuple(reason.value for reason in a.reasons),
            a.excluded,
            a.wave,
            a.first_seen,
            a.last_seen,
            a.resets,
            a.stage.value,
            a.stage_reason,
            a.ref,
            a.locale,
        )
        for a in accounts
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype="object")
    for column in ("last_active", "first_seen", "last_seen"):
        frame[column] = pd.to_datetime(frame[column], utc=True).astype("datetime64[us, UTC]")
    for column in ("wave", "resets"):
        frame[column] = frame[column].astype("int64")
    return frame


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """UTF-8 with every cell quoted; lists are joined by ";".

    A cell that a spreadsheet would take for a formula (phone numbers begin with "+") gets an
    apostrophe in front; `read_canonical` takes it away again.
    """
    cells = frame.astype("object")
    for column in cells.columns:
        cells[column] = [_cell(value) for value in cells[column]]

    def write(file: IO[str]) -> None:
        cells.to_csv(file, index=False, quoting=csv.QUOTE_ALL, lineterminator="\n")

    replace_private(path, write)


def write_json(frame: pd.DataFrame, path: Path) -> None:
    """A JSON array with one account a line."""

    def write(file: IO[str]) -> None:
        file.write("[")
        for place, values in enumerate(frame.itertuples(index=False, name=None)):
            row = {
                column: _plain(value) for column, value in zip(frame.columns, values, strict=True)
            }
            file.write((",\n" if place else "\n") + json.dumps(row, ensure_ascii=False))
        file.write("\n]\n")

    replace_private(path, write)


def _plain(value: object) -> str | int | list[str] | None:
    if isinstance(value, tuple):
        return [str(part) for part in value]
    if value is None or value is pd.NaT or value is pd.NA or value != value:
        return None
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return value
    return int(str(value))


def _cell(value: object) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    if isinstance(plain, list):
        return _harmless(join_list(plain))
    return _harmless(str(plain))


def _harmless(text: str) -> str:
    risky = text.lstrip(" ").startswith(TRIGGERS) or text.startswith("'")
    return "'" + text if risky else text
