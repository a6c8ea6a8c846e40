"""The ledger's first tables."""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def _text(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default=default)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


def _time(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, _TIME, nullable=nullable)


def _incident(*, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(
        "incident_id",
        sa.Text,
        sa.ForeignKey("incidents.incident_id"),
        primary_key=primary_key,
        nullable=False,
    )


def _ref() -> sa.Column[str]:
    return sa.Column("ref", sa.Text, sa.ForeignKey("accounts.ref"), nullable=False)


def _partial_index(
    name: str, table: str, columns: list[str], where: str, *, unique: bool = False
) -> None:
    op.create_index(
        name,
        table,
        columns,
        unique=unique,
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(where),
    )


def upgrade() -> None:
    _scope()
    _work()
    _enrollment()
    _log()


def _scope() -> None:
    op.create_table(
        "incidents",
        sa.Column("incident_id", sa.Text, primary_key=True),
        _time("opened_at"),
        _time("window_start"),
        _time("window_end"),
        _text("runbook_digest"),
        _text("runbook_commit"),
        _text("requested_by"),
        _time("closed_at", nullable=True),
    )
    op.create_table(
        "marks",
        _incident(primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        _time("at"),
    )
    op.create_table(
        "sightings",
        _incident(primary_key=True),
        sa.Column("account_id", sa.Text, primary_key=True),
        _time("first_seen"),
        _time("last_seen"),
        _number("resets"),
        _text("source"),
        _text("place"),
    )
    op.create_index("sightings_by_place", "sightings", ["incident_id", "place", "account_id"])
    op.create_table(
        "unattributed",
        _incident(primary_key=True),
        sa.Column("source", sa.Text, primary_key=True),
        _number("events"),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", _ROW_ID, primary_key=True),
        _incident(),
        _text("source"),
        _number("row"),
        _text("field"),
        _text("account_id", ""),
        _text("reason"),
        sa.UniqueConstraint(
            "incident_id", "source", "row", "field", "account_id", "reason", name="quarantine_once"
        ),
    )
    op.create_table(
        "accounts",
        sa.Column("ref", sa.Text, primary_key=True),
        _incident(),
        _text("account_id"),
        _text("handle"),
        _text("handle_folded"),
        sa.Column("email", sa.Text),
        sa.Column("email_folded", sa.Text),
        sa.Column("phone", sa.Text),
        _text("locale"),
        _time("last_active", nullable=True),
        _text("linked_apps"),
        _text("priority"),
        _text("reasons"),
        _number("wave"),
        _number("batch"),
        _text("stage"),
        _text("stage_reason", ""),
        sa.Column("excluded", sa.Text),
        _time("first_seen", nullable=True),
        _time("last_seen", nullable=True),
        _number("resets"),
        sa.UniqueConstraint("incident_id", "account_id", name="accounts_once"),
    )
    op.create_index("accounts_in_order", "accounts", ["incident_id", "wave", "batch", "ref"])
    op.create_index("accounts_by_stage", "accounts", ["incident_id", "wave", "stage", "batch"])
    op.create_index("accounts_by_handle", "accounts", ["handle_folded"])
    op.create_index("accounts_by_email", "accounts", ["email_folded"])


def _work() -> None:
    op.create_table(
        "stage_changes",
        sa.Column("id", _ROW_ID, primary_key=True),
        _incident(),
        _ref(),
        _text("stage"),
        _time("at"),
    )
    op.create_index(
        "stage_changes_in_order", "stage_changes", ["incident_id", "ref", "stage", "at"]
    )
    op.create_table(
        "acts",
        sa.Column("id", _ROW_ID, primary_key=True),
        _incident(),
        _text("subject"),
        _text("step"),
        _number("generation"),
        _number("wave"),
        sa.Column("verdict", sa.Text),
        _text("detail", ""),
        _text("receipt", ""),
        _text("counts", "{}"),
        _time("intended_at"),
        _time("settled_at", nullable=True),
        _time("reopened_at", nullable=True),
        sa.UniqueConstraint("incident_id", "subject", "step", "generation", name="acts_once"),
    )
    op.create_index("acts_in_order", "acts", ["incident_id", "intended_at", "id"])
    op.create_index("acts_tally", "acts", ["incident_id", "step", "wave", "verdict"])
    _partial_index("acts_by_receipt", "acts", ["receipt"], "receipt <> ''")
    _partial_index(
        "acts_open",
        "acts",
        ["incident_id", "intended_at", "id"],
        "(verdict IS NULL OR verdict = 'UNKNOWN')",
    )
    op.create_table(
        "clients",
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
    op.create_table(
        "approvals",
        _incident(primary_key=True),
        sa.Column("gate", sa.Text, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        _text("digest"),
        _text("approver"),
        _text("decision"),
        _text("reason"),
        _text("refusal"),
        _time("at"),
        _time("valid_until", nullable=True),
    )


def _enrollment() -> None:
    op.create_table(
        "enrollments",
        sa.Column("jti", sa.Text, primary_key=True),
        _incident(),
        _ref(),
        _number("generation"),
        _time("created_at"),
        _time("issued_at", nullable=True),
        _time("expires_at", nullable=True),
        _time("redeemed_at", nullable=True),
        _text("redeemed_by", ""),
        _time("superseded_at", nullable=True),
        sa.UniqueConstraint("ref", "generation", name="enrollments_once"),
    )
    op.create_table(
        "portal_sessions",
        sa.Column("session_hash", sa.Text, primary_key=True),
        _incident(),
        _text("ref"),
        sa.Column("jti", sa.Text, sa.ForeignKey("enrollments.jti"), nullable=False),
        _time("created_at"),
        _time("expires_at"),
        _text("code_hash", ""),
        _time("code_sent_at", nullable=True),
        _time("code_expires_at", nullable=True),
        _number("code_sends"),
        _number("code_attempts"),
        _time("code_verified_at", nullable=True),
        sa.Column("sealed_candidate", sa.LargeBinary),
        _time("completed_at", nullable=True),
    )
    op.create_index("portal_sessions_by_jti", "portal_sessions", ["jti"])
    op.create_table(
        "link_requests",
        sa.Column("id", _ROW_ID, primary_key=True),
        _incident(),
        _ref(),
        _time("requested_at"),
        _time("served_at", nullable=True),
    )
    _partial_index(
        "link_requests_pending", "link_requests", ["ref"], "served_at IS NULL", unique=True
    )
    op.create_index("link_requests_by_incident", "link_requests", ["incident_id"])
    op.create_table(
        "deliveries",
        sa.Column("dedupe", sa.Text, primary_key=True),
        _text("receipt"),
        _text("event"),
        _time("at"),
    )
    op.create_index("deliveries_by_receipt", "deliveries", ["receipt"])
    op.create_table(
        "throttle",
        sa.Column("key_hash", sa.Text, primary_key=True),
        _text("hits"),
        _time("forget_at"),
    )
    op.create_index("throttle_to_forget", "throttle", ["forget_at"])


def _log() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", _ROW_ID, primary_key=True, autoincrement=False),
        _text("incident_id"),
        _text("at"),
        _text("actor"),
        _text("event"),
        _text("subject"),
        _text("verdict"),
        _text("facts"),
        _text("prev"),
        _text("hash"),
    )
    op.create_index("audit_by_incident", "audit", ["incident_id", "seq"])
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        _text("hash"),
        _text("key_check", ""),
    )
    # The hash an empty chain ends in: recovery.audit.GENESIS, written out as of this revision.
    op.bulk_insert(head, [{"id": 1, "seq": 0, "hash": "0" * 64, "key_check": ""}])


def downgrade() -> None:
    raise NotImplementedError("the first tables hold the evidence; they are not dropped")
