"""What a browser's way to a passkey needs: a challenge, the public half, the way that was taken."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLE = "portal_sessions"


def upgrade() -> None:
    op.add_column(_TABLE, sa.Column("challenge", sa.Text, nullable=False, server_default=""))
    op.add_column(_TABLE, sa.Column("challenge_expires_at", sa.DateTime(timezone=True)))
    op.add_column(_TABLE, sa.Column("sealed_passkey", sa.LargeBinary))
    op.add_column(_TABLE, sa.Column("method", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    for column in ("method", "sealed_passkey", "challenge_expires_at", "challenge"):
        op.drop_column(_TABLE, column)
