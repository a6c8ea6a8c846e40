"""What the last net takes out of a log, and what it leaves alone."""

import io
import logging
from collections.abc import Iterator

import pytest

from recovery.redaction import WITHHELD, RedactingFactory, guard_logs, redacted


@pytest.mark.parametrize(
    "secret",
    [
        "jane.doe+x@mail.example.org",
        "+4915112345678",
        "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0abc.c2lnbmF0dXJl",
        "hvs.CAESIJ0123456789abcdefghij",
        "Bearer 0123456789abcdef",
        "SG.abcdefghijkl.mnopqrstuvwxyz",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----",
    ],
)
def test_what_no_log_may_hold_is_withheld(secret: str) -> None:
    said = redacted(f"could not reach {secret} in time")
    assert secret not in said
    assert said == f"could not reach {WITHHELD} in time"


def test_a_password_in_an_address_is_withheld_and_the_host_is_not() -> None:
    said = redacted("connecting to postgresql://ledger:s3cret@db.internal:5432/ledger")
    assert "s3cret" not in said
    assert "db.internal" in said


@pytest.mark.parametrize(
    "said",
    [
        "batch 0-3: 98 done, 2 refused in 4.2 s",
        "acc-45qo6hkh444k4nn3 is left to a person",
        "rate +12 %, 2026-03-14T09:26:53.589793+00:00, +2 more",
        "app-first-party@2 restarted, build 77",
        "5f0c1c9e8a7b4d6e5f0c1c9e8a7b4d6e5f0c1c9e8a7b4d6e5f0c1c9e8a7b4d6e",
        "http://127.0.0.1:4200/runs/flow-run/6b9c1c1e-0000-4000-8000-1234567890ab",
    ],
)
def test_ordinary_lines_stay_as_they_are(said: str) -> None:
    assert redacted(said) == said


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    before = logging.getLogRecordFactory()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("tests.redaction")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield logger, stream
    finally:
        logger.removeHandler(handler)
        logging.setLogRecordFactory(before)


def test_messages_arguments_and_exceptions_pass_through_the_net(
    log: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, stream = log
    guard_logs()
    guard_logs()
    make = logging.getLogRecordFactory()
    assert isinstance(make, RedactingFactory)
    logger.warning("mail to %s failed", "jane@example.org")
    try:
        raise ValueError("no route to jane@example.org")
    except ValueError:
        logger.exception("a library said something")
    said = stream.getvalue()
    assert "jane" not in said
    assert said.count(WITHHELD) >= 2
    assert "ValueError" in said
