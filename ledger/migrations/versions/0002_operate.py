"""Who requested which run, who was asked when, which run may work, and the stop order."""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def _text(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default=default)


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=True, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


def _time(name: str) -> sa.Column[datetime]:
    return sa.Column(name, _TIME, nullable=False)


def _incident() -> sa.Column[str]:
    return sa.Column(
        "incident_id",
        sa.Text,
        sa.ForeignKey("incidents.incident_id"),
        primary_key=True,
        nullable=False,
    )


def upgrade() -> None:
    op.add_column("approvals", _text("run_id", ""))
    op.add_column("approvals", _text("requester", ""))
    op.create_table(
        "gate_requests",
        _incident(),
        _key("gate"),
        sa.Column("number", sa.Integer, primary_key=True, nullable=False),
        _text("digest"),
        _text("run_id"),
        _text("requester"),
        _time("asked_at"),
        _number("asked_again"),
        _text("closed", ""),
    )
    op.create_index("gate_requests_by_run", "gate_requests", ["run_id"])
    op.create_table(
        "runs",
        _incident(),
        _key("run_id"),
        _text("flow"),
        _text("requested_by"),
        _number("ask_again"),
        _time("began_at"),
    )
    op.create_table(
        "leases",
        _key("incident_id"),
        _key("lane"),
        _text("run_id"),
        _text("flow"),
        _time("taken_at"),
        _time("until"),
    )
    op.create_table(
        "stop_orders", _key("incident_id"), _text("reason"), _text("ordered_by"), _time("at")
    )


def downgrade() -> None:
    raise NotImplementedError("these tables hold evidence; they are not dropped")
