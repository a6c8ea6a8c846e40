"""What the portal shows of an incident, and which message a delivery event was about."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "public_texts",
        sa.Column("incident_id", sa.Text, sa.ForeignKey("incidents.incident_id"), primary_key=True),
        sa.Column("locale", sa.Text, primary_key=True),
        sa.Column("texts", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    for name in ("subject", "step"):
        op.add_column("deliveries", sa.Column(name, sa.Text, nullable=False, server_default=""))
    op.add_column(
        "deliveries", sa.Column("generation", sa.Integer, nullable=False, server_default="0")
    )
    op.create_index("deliveries_by_subject", "deliveries", ["subject"])


def downgrade() -> None:
    raise NotImplementedError("what was published stays known")
