"""Alembic's entry point. `ledger.revisions` runs it on a connection whose transaction is open."""

from alembic import context

from ledger import schema
from ledger.revisions import VERSION_TABLE

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("the ledger is migrated by Ledger.migrate(), not by the alembic command")

context.configure(
    connection=connection,
    target_metadata=schema.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
