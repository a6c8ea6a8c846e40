"""The search for leaks itself: what is planted is found, however it is written; the rest is not."""

import base64
import gzip
import json
import lzma
import pickle
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote_plus

import pytest

from tests.flows.leaks import (
    Canaries,
    Leak,
    Scanner,
    files_below,
    scan_all,
    shown,
    strings_in,
    tables_of,
)

EMAIL = "zoë.o'neil+1@example.com"
PHONE = "+12025550127"
SECRET = "cs_5f:+/%Az"
NOISE = json.dumps({"id": "0f8e2b1c-54a9-4c0b-9f6e-2f1f3a7d9b10", "n": list(range(3000))}).encode()


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    canaries = Canaries()
    canaries.add("an address", EMAIL)
    canaries.add("a phone", PHONE)
    canaries.add("a secret", SECRET, None, "tiny")
    canaries.add_short("a code", "845120")
    return Scanner(canaries)


def in_json(data: bytes) -> bytes:
    return json.dumps({"message": data.decode()}).encode()


def in_json_in_json(data: bytes) -> bytes:
    return in_json(in_json(data))


def in_an_address(data: bytes) -> bytes:
    return f"GET /x?y={quote_plus(data.decode())} HTTP/1.1".encode()


def in_a_pickle(data: bytes) -> bytes:
    """As Prefect stores a result."""
    stored = base64.encodebytes(pickle.dumps({"result": data.decode()})).replace(b"\n", b"")
    return b'{"metadata": {}, "result": "' + stored + b'"}'


def in_url_safe_base64(data: bytes) -> bytes:
    return b"x=" + base64.urlsafe_b64encode(b"\xfb\xff" + data).rstrip(b"=") + b";"


def in_gzip_in_base64(data: bytes) -> bytes:
    return b'"' + base64.b64encode(gzip.compress(data)) + b'"'


@pytest.mark.parametrize(
    "written",
    [
        bytes,
        in_json,
        in_json_in_json,
        in_an_address,
        in_a_pickle,
        in_url_safe_base64,
        in_gzip_in_base64,
        gzip.compress,
        zlib.compress,
        lzma.compress,
    ],
)
@pytest.mark.parametrize(
    ("value", "label"), [(EMAIL, "an address"), (PHONE, "a phone"), (SECRET, "a secret")]
)
def test_a_planted_value_is_found(
    scanner: Scanner, written: Callable[[bytes], bytes], value: str, label: str
) -> None:
    for shift in range(9):
        data = NOISE[:shift] + b" " + written(value.encode()) + b" " + NOISE
        assert scanner.scan("here", data) == {Leak("here", label)}


def test_tokens_and_keys_are_known_by_their_shape(scanner: Scanner) -> None:
    token = b"eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhY2MteCJ9.c2lnbmF0dXJlLW9mLWl0"
    assert scanner.scan("log", b"link " + token) == {Leak("log", "a signed token")}
    assert scanner.scan("log", gzip.compress(token)) == {Leak("log", "a signed token")}
    pem = b"-----BEGIN PRIVATE KEY-----\nMC4C"
    assert scanner.scan("log", pem) == {Leak("log", "a private key")}
    # An encoded JSON object alone is no token.
    assert not scanner.scan("log", base64.b64encode(b'{"a": "b"}' * 5))


def test_a_short_code_counts_only_by_itself(scanner: Scanner) -> None:
    assert scanner.scan("db", b'{"code": "845120"}') == {Leak("db", "a code")}
    assert scanner.scan("db", rb'"{\"code\": \"845120\"}"') == {Leak("db", "a code")}
    assert not scanner.scan("db", b"2026-03-02T08:30:00.845120+00:00 1845120 845120ab")


def test_what_was_not_planted_is_not_found(scanner: Scanner) -> None:
    other = EMAIL.replace("zoë", "zoe").encode() + b" +12025550128 cs_5f:+/%A"
    for data in (NOISE, other, gzip.compress(other), base64.b64encode(other)):
        assert not scanner.scan("here", data)


def test_a_database_is_read_cell_by_cell(scanner: Scanner, tmp_path: Path) -> None:
    """A cell longer than a page is in pieces in the file."""
    path = tmp_path / "runs.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE log (id INTEGER, message TEXT, more BLOB)")
        connection.execute(
            "INSERT INTO log VALUES (1, ?, ?)", ("x" * 4070 + EMAIL + "x" * 9000, None)
        )
        connection.execute("CREATE TABLE clean (message TEXT)")
        connection.execute("INSERT INTO log VALUES (2, '', ?)", (gzip.compress(PHONE.encode()),))
        connection.commit()
    assert scan_all(scanner, tables_of(path)) == {
        Leak("log", "an address"),
        Leak("log", "a phone"),
    }


def test_files_are_read_in_all_folders(scanner: Scanner, tmp_path: Path) -> None:
    deep = tmp_path / "storage" / "a"
    deep.mkdir(parents=True)
    (deep / "result").write_bytes(in_a_pickle(SECRET.encode()))
    (tmp_path / "worker.log").write_bytes(NOISE)
    leaks = scan_all(scanner, files_below(tmp_path))
    assert shown(leaks) == "storage/a/result: a secret"


def test_a_message_names_no_value(scanner: Scanner) -> None:
    leaks = scanner.scan("place", f"{EMAIL} {PHONE} {SECRET}".encode())
    assert shown(leaks) == "place: a phone, a secret, an address"


def test_texts_of_a_document_with_their_place() -> None:
    document = {"a": "x", "b": {"c": ["y", 1, {"d": "z"}]}}
    assert list(strings_in(document, "block")) == [
        ("block.a", "x"),
        ("block.b.c", "y"),
        ("block.b.c.d", "z"),
    ]
