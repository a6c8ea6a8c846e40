"""The platform whose accounts are recovered, with its admin token."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, HttpUrl, SecretStr, field_validator, model_validator

from blocks.base import (
    AllowCleartext,
    CaFile,
    ClientCertFile,
    ClientKeyFile,
    PlatformBlock,
    Rights,
    client_cert,
)
from clients.http import Pace, Wire
from clients.http_bearer import Bearer
from clients.leases import LeaseTerms
from clients.platform import PlatformClient, PlatformPaths


class PlatformAdmin(PlatformBlock):
    """A platform with the playbook's API, whose paths can be told, and an admin credential at it:
    a token, or better a path in Vault that leases one for each phase."""

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
    token: SecretStr | None = Field(
        default=None,
        description=(
            "Admin token (Bearer) of our own service account, which a run never touches: exclude "
            "it in the runbook. With lease_path, a token that may only read."
        ),
    )
    lease_path: str | None = Field(
        default=None,
        description=(
            "Path in Vault that leases an admin credential for one phase, such as "
            "platform/creds/recovery-admin; in place of an admin token that lies here."
        ),
    )
    reader_lease_path: str | None = Field(
        default=None,
        description=(
            "Path in Vault that leases a credential which may only read, for what happens before "
            "an approval; in place of a reader's token."
        ),
    )
    lease_field: str = Field(
        default="password",
        description="Name of the credential in the answer of these paths, such as password.",
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

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if self.lease_path is None:
            if self.token is None or self.reader_lease_path is not None:
                raise ValueError("give either token, or lease_path with one for reading")
        elif (self.token is None) == (self.reader_lease_path is None):
            raise ValueError("beside lease_path give either reader_lease_path or a reader's token")
        return self

    def lease_terms(self, rights: Rights) -> LeaseTerms | None:
        path = self.lease_path if rights is Rights.ACT else self.reader_lease_path
        return LeaseTerms(path, self.lease_field, rights) if path is not None else None

    def get_client(self, pace: Pace | None = None, bearer: Bearer | None = None) -> PlatformClient:
        headers = {}
        if bearer is None and self.token is not None:
            headers["Authorization"] = SecretStr(f"Bearer {self.token.get_secret_value()}")
        wire = Wire(
            "the platform",
            self.address,
            headers=headers,
            bearer=bearer,
            credential="admin token",
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            pace=pace,
            allow_cleartext=self.allow_cleartext,
        )
        return PlatformClient(wire, PlatformPaths.of(self.paths))
