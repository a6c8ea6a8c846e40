"""The ledger's tables as SQLAlchemy Core metadata; migrations/versions builds exactly these.

Times are aware UTC datetimes at the door, `timestamptz` in PostgreSQL and UTC text in SQLite.
"""

import functools
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

metadata = sa.MetaData()

# SQLite numbers a row by itself only where its key is spelled INTEGER.
_RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class UtcTime(TypeDecorator[datetime]):
    """Aware UTC in and out. SQLite keeps text of fixed width, which sorts as the times do.

    Written by hand for SQLite because SQLAlchemy's own DateTime costs a third of a bulk insert.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(
            sa.Text() if dialect.name == "sqlite" else self.impl_instance
        )

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | datetime | None:
        if value is None:
            return None
        if dialect.name == "sqlite":
            return as_text(value)
        if value.tzinfo is None:
            raise ValueError("the ledger takes aware datetimes only")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if dialect.name == "sqlite":
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        moment: datetime = value
        return moment.astimezone(UTC)


@functools.lru_cache(maxsize=4096)
def as_text(value: datetime) -> str:
    """How SQLite keeps a time. ValueError for one without a zone."""
    if value.tzinfo is None:
        raise ValueError("the ledger takes aware datetimes only")
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def _text(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default=default)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


def _time(name: str) -> sa.Column[datetime]:
    return sa.Column(name, UtcTime, nullable=False)


def _maybe_time(name: str) -> sa.Column[datetime]:
    return sa.Column(name, UtcTime)


def _incident(*, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(
        "incident_id",
        sa.Text,
        sa.ForeignKey("incidents.incident_id"),
        primary_key=primary_key,
        nullable=False,
    )


incidents = sa.Table(
    "incidents",
    metadata,
    sa.Column("incident_id", sa.Text, primary_key=True),
    _time("opened_at"),
    _time("window_start"),
    _time("window_end"),
    _text("runbook_digest"),
    _text("runbook_commit"),
    _text("requested_by"),
    _maybe_time("closed_at"),
)

marks = sa.Table(
    "marks",
    metadata,
    _incident(primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    _time("at"),
)

sightings = sa.Table(
    "sightings",
    metadata,
    _incident(primary_key=True),
    sa.Column("account_id", sa.Text, primary_key=True),
    _time("first_seen"),
    _time("last_seen"),
    _number("resets"),
    _text("source"),
    _text("place"),  # open, admitted, unrostered
    sa.Index("sightings_by_place", "incident_id", "place", "account_id"),
)

unattributed = sa.Table(
    "unattributed",
    metadata,
    _incident(primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    _number("events"),
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("id", _RowId, primary_key=True),
    _incident(),
    _text("source"),
    _number("row"),
    _text("field"),
    # Empty instead of NULL: two NULLs would not be one row to a unique constraint.
    _text("account_id", ""),
    _text("reason"),
    sa.UniqueConstraint(
        "incident_id", "source", "row", "field", "account_id", "reason", name="quarantine_once"
    ),
)

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("ref", sa.Text, primary_key=True),
    _incident(),
    _text("account_id"),
    _text("handle"),
    _text("handle_folded"),
    sa.Column("email", sa.Text),
    sa.Column("email_folded", sa.Text),
    sa.Column("phone", sa.Text),
    _text("locale"),
    _maybe_time("last_active"),
    _text("linked_apps"),
    _text("priority"),
    _text("reasons"),
    _number("wave"),
    _number("batch"),
    _text("stage"),
    _text("stage_reason", ""),
    sa.Column("excluded", sa.Text),
    _maybe_time("first_seen"),
    _maybe_time("last_seen"),
    _number("resets"),
    sa.UniqueConstraint("incident_id", "account_id", name="accounts_once"),
    sa.Index("accounts_in_order", "incident_id", "wave", "batch", "ref"),
    sa.Index("accounts_by_stage", "incident_id", "wave", "stage", "batch"),
    sa.Index("accounts_by_handle", "handle_folded"),
    sa.Index("accounts_by_email", "email_folded"),
)

stage_changes = sa.Table(
    "stage_changes",
    metadata,
    sa.Column("id", _RowId, primary_key=True),
    _incident(),
    sa.Column("ref", sa.Text, sa.ForeignKey("accounts.ref"), nullable=False),
    _text("stage"),
    _time("at"),
    sa.Index("stage_changes_in_order", "incident_id", "ref", "stage", "at"),
)

OPEN_ACT = "(verdict IS NULL OR verdict = 'UNKNOWN')"
"""Acts whose outcome is not known. Text: a partial index serves only the very same words."""

acts = sa.Table(
    "acts",
    metadata,
    sa.Column("id", _RowId, primary_key=True),
    _incident(),
    _text("subject"),
    _text("step"),
    _number("generation"),
    _number("wave"),  # the account's wave; -1 for a client
    sa.Column("verdict", sa.Text),
    _text("detail", ""),
    _text("receipt", ""),
    _text("counts", "{}"),
    _time("intended_at"),
    _maybe_time("settled_at"),
    _maybe_time("reopened_at"),
    sa.UniqueConstraint("incident_id", "subject", "step", "generation", name="acts_once"),
    sa.Index("acts_in_order", "incident_id", "intended_at", "id"),
    sa.Index(
        "acts_open",
        "incident_id",
        "intended_at",
        "id",
        sqlite_where=sa.text(OPEN_ACT),
        postgresql_where=sa.text(OPEN_ACT),
    ),
    sa.Index("acts_tally", "incident_id", "step", "wave", "verdict"),
    sa.Index(
        "acts_by_receipt",
        "receipt",
        sqlite_where=sa.text("receipt <> ''"),
        postgresql_where=sa.text("receipt <> ''"),
    ),
)

clients = sa.Table(
    "clients",
    metadata,
    _incident(primary_key=True),
    sa.Column("client_id", sa.Text, primary_key=True),
    _text("name"),
    _text("owner"),
    _text("risk"),
    _text("consumers"),
    _number("linked_accounts"),
    _number("wave"),
    _text("untouched_reason", ""),
)

approvals = sa.Table(
    "approvals",
    metadata,
    _incident(primary_key=True),
    sa.Column("gate", sa.Text, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    _text("digest"),
    _text("approver"),
    _text("decision"),
    _text("reason"),
    _text("refusal"),
    _time("at"),
    _maybe_time("valid_until"),
    _text("run_id", ""),
    _text("requester", ""),
)

gate_requests = sa.Table(
    "gate_requests",
    metadata,
    _incident(primary_key=True),
    sa.Column("gate", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    _text("digest"),
    _text("run_id"),
    _text("requester"),
    _time("asked_at"),
    _number("asked_again"),
    _text("closed", ""),
    sa.Index("gate_requests_by_run", "run_id"),
)

runs = sa.Table(
    "runs",
    metadata,
    _incident(primary_key=True),
    sa.Column("run_id", sa.Text, primary_key=True),
    _text("flow"),
    _text("requested_by"),
    _number("ask_again"),
    _time("began_at"),
)

# The two below may be about an incident that is not opened yet, so they point to none.
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("incident_id", sa.Text, primary_key=True),
    sa.Column("lane", sa.Text, primary_key=True),
    _text("run_id"),
    _text("flow"),
    _time("taken_at"),
    _time("until"),
)

stop_orders = sa.Table(
    "stop_orders",
    metadata,
    sa.Column("incident_id", sa.Text, primary_key=True),
    _text("reason"),
    _text("ordered_by"),
    _time("at"),
)

enrollments = sa.Table(
    "enrollments",
    metadata,
    sa.Column("jti", sa.Text, primary_key=True),
    _incident(),
    sa.Column("ref", sa.Text, sa.ForeignKey("accounts.ref"), nullable=False),
    _number("generation"),
    _time("created_at"),
    _maybe_time("issued_at"),
    _maybe_time("expires_at"),
    _maybe_time("redeemed_at"),
    _text("redeemed_by", ""),
    _maybe_time("superseded_at"),
    sa.UniqueConstraint("ref", "generation", name="enrollments_once"),
)

portal_sessions = sa.Table(
    "portal_sessions",
    metadata,
    sa.Column("session_hash", sa.Text, primary_key=True),
    _incident(),
    _text("ref"),
    sa.Column("jti", sa.Text, sa.ForeignKey("enrollments.jti"), nullable=False),
    _time("created_at"),
    _time("expires_at"),
    _text("code_hash", ""),
    _maybe_time("code_sent_at"),
    _maybe_time("code_expires_at"),
    _number("code_sends"),
    _number("code_attempts"),
    _maybe_time("code_verified_at"),
    sa.Column("sealed_candidate", sa.LargeBinary),
    _maybe_time("completed_at"),
    _text("challenge", ""),
    _maybe_time("challenge_expires_at"),
    sa.Column("sealed_passkey", sa.LargeBinary),
    _text("method", ""),  # totp or passkey, from the redemption on
    sa.Index("portal_sessions_by_jti", "jti"),
)

link_requests = sa.Table(
    "link_requests",
    metadata,
    sa.Column("id", _RowId, primary_key=True),
    _incident(),
    sa.Column("ref", sa.Text, sa.ForeignKey("accounts.ref"), nullable=False),
    _time("requested_at"),
    _maybe_time("served_at"),
    sa.Index(
        "link_requests_pending",
        "ref",
        unique=True,
        sqlite_where=sa.text("served_at IS NULL"),
        postgresql_where=sa.text("served_at IS NULL"),
    ),
    sa.Index("link_requests_by_incident", "incident_id"),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("dedupe", sa.Text, primary_key=True),
    # No key to acts: a webhook may be faster than the settling of the message it is about.
    _text("receipt"),
    _text("event"),
    _time("at"),
    _text("subject", ""),
    _text("step", ""),
    _number("generation"),
    sa.Index("deliveries_by_receipt", "receipt"),
    sa.Index("deliveries_by_subject", "subject"),
)

public_texts = sa.Table(
    "public_texts",
    metadata,
    _incident(primary_key=True),
    sa.Column("locale", sa.Text, primary_key=True),
    _text("texts"),
    _text("digest"),
    _time("at"),
)

throttle = sa.Table(
    "throttle",
    metadata,
    sa.Column("key_hash", sa.Text, primary_key=True),
    _text("hits"),  # microseconds since the epoch, JSON
    _time("forget_at"),
    sa.Index("throttle_to_forget", "forget_at"),
)

claims = sa.Table(
    "claims",
    metadata,
    sa.Column("incident_id", sa.Text, primary_key=True),
    sa.Column("work", sa.Text, primary_key=True),
    _text("holder"),
    _time("until"),  # wall-clock time
    sa.Index("claims_by_holder", "incident_id", "holder"),
)

audit = sa.Table(
    "audit",
    metadata,
    # The writer counts, not the database: a number that a rollback swallowed would look like a cut.
    sa.Column("seq", _RowId, primary_key=True, autoincrement=False),
    _text("incident_id"),
    # Text: exactly what was hashed, whatever a database makes of its own times.
    _text("at"),
    _text("actor"),
    _text("event"),
    _text("subject"),
    _text("verdict"),
    _text("facts"),
    _text("prev"),
    _text("hash"),
    sa.Index("audit_by_incident", "incident_id", "seq"),
)

audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),  # always 1
    sa.Column("seq", sa.BigInteger, nullable=False),
    _text("hash"),
    _text("key_check", ""),
)
