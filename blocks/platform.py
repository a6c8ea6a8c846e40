"""The platform whose accounts are recovered, with its admin token."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, HttpUrl, SecretStr, field_validator

from blocks.base import (
    AllowCleartext,
    CaFile,
    ClientCertFile,
    ClientKeyFile,
    PlatformBlock,
    client_cert,
)
from clients.http import Pace, Wire
from clients.platform import PlatformClient, PlatformPaths


class PlatformAdmin(PlatformBlock):
    """An admin token at a platform with the playbook's API, whose paths can be told."""

    _block_type_name: ClassVar[str] = "Platform Admin"
    _block_type_slug: ClassVar[str] = "platform-admin"
    _description: ClassVar[str] = (
        "Admin API of the platform: revokes sessions and tokens, forces password resets, rotates "
        "client secrets, posts banners."
    )
    _documentation_url: ClassVar[HttpUrl | None] = None
    _code_example: ClassVar[str] = """
```python
from blocks.platform import PlatformAdmin

platform = await PlatformAdmin.aload("main")
async with platform.get_client() as client:
    print(await client.live("u-4711"))
```
"""

    address: str = Field(
        description="Base address of the platform's API, such as https://api.platform.example."
    )
    token: SecretStr = Field(
        description=(
            "Admin token (Bearer) of our own service account; that account is never touched by a "
            "run, so exclude it in the runbook."
        )
    )
    paths: dict[str, str] = Field(
        default_factory=dict,
        description=(
            "Paths that differ from the playbook's, by name, such as "
            '{"sessions": "/v2/users/{account}/sessions"}.'
        ),
    )
    allow_cleartext: AllowCleartext = False
    ca_file: CaFile = None
    client_cert_file: ClientCertFile = None
    client_key_file: ClientKeyFile = None

    @field_validator("paths")
    @classmethod
    def _known_paths(cls, paths: dict[str, str]) -> dict[str, str]:
        PlatformPaths.of(paths)
        return paths

    def get_client(self, pace: Pace | None = None) -> PlatformClient:
        wire = Wire(
            "the platform",
            self.address,
            headers={"Authorization": SecretStr(f"Bearer {self.token.get_secret_value()}")},
            credential="admin token",
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            pace=pace,
            allow_cleartext=self.allow_cleartext,
        )
        return PlatformClient(wire, PlatformPaths.of(self.paths))
