"""Who does which piece of work now, so that two runs never do one together."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "claims",
        sa.Column("incident_id", sa.Text, primary_key=True, nullable=False),
        sa.Column("work", sa.Text, primary_key=True, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Index("claims_by_holder", "incident_id", "holder"),
    )


def downgrade() -> None:
    op.drop_table("claims")
