"""Where signed checkpoints of the audit log are kept: a second place, apart from the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, HttpUrl

from blocks.base import CheckpointBlock
from clients.checkpoint_folder import CheckpointFolder as Folder


class CheckpointFolder(CheckpointBlock):
    """A folder; what is written there is never changed or removed."""

    _block_type_name: ClassVar[str] = "Checkpoint Folder"
    _block_type_slug: ClassVar[str] = "checkpoint-folder"
    _description: ClassVar[str] = (
        "Signed checkpoints of the audit log as files, best on storage that the ledger's "
        "administrators can't write to."
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://c2sp.org/tlog-checkpoint")
    _code_example: ClassVar[str] = """
```python
from blocks.checkpoints import CheckpointFolder

store = (await CheckpointFolder.aload("main")).get_client()
print(len((await store.kept()).notes), "checkpoints")
```
"""

    folder: str = Field(
        description="Absolute path on the machine of the worker, such as a mount of a WORM volume."
    )

    def get_client(self) -> Folder:
        return Folder(Path(self.folder))
