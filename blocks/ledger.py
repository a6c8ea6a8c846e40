"""The ledger's database and the key that turns account ids into opaque references."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr, field_validator

from ledger import Ledger
from ledger.clock import OffsetClock, wall_clock

MIN_KEY_LENGTH = 32


class RecoveryLedger(Block):
    """SQLite for one machine, PostgreSQL where several workers and the portal write."""

    _block_type_name: ClassVar[str] = "Recovery Ledger"
    _block_type_slug: ClassVar[str] = "recovery-ledger"
    _description: ClassVar[str] = (
        "The memory of an incident: who is affected, what was done, and the audit log."
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://docs.sqlalchemy.org/en/20/")
    _code_example: ClassVar[str] = """
```python
from blocks.ledger import RecoveryLedger

block = await RecoveryLedger.aload("main")
ledger = block.get_client()
ledger.check()
```
"""

    url: SecretStr = Field(
        description="Database URL: sqlite:////absolute/path.db or "
        "postgresql+psycopg://user:password@host/database."
    )
    key: SecretStr = Field(
        description="32 characters or more, the portal's ledger key too: it makes the keyed hashes "
        "of account ids in references and in the audit log. Never change it during an incident."
    )
    clock_offset_file: str | None = Field(
        default=None,
        description="Rehearsals only: a file with the seconds by which the world's clock is ahead. "
        "Leave it empty in production.",
    )

    @field_validator("key")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < MIN_KEY_LENGTH:
            raise ValueError(f"at least {MIN_KEY_LENGTH} characters")
        return value

    def get_client(self) -> Ledger:
        """A ledger that opens its database at first use; close it when done."""
        ahead = self.clock_offset_file
        return Ledger(
            self.url.get_secret_value(),
            key=self.key.get_secret_value().encode(),
            clock=OffsetClock(Path(ahead)) if ahead else wall_clock,
        )
