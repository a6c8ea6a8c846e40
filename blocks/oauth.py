"""The OAuth server of the platform, as its app clients see it."""

from __future__ import annotations

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl

from blocks.base import AllowCleartext, CaFile, ClientCertFile, ClientKeyFile, client_cert
from clients.http import Pace, Wire
from clients.oauth import OAuthClient


class OAuthApp(Block):
    """Where app clients get, revoke and look up tokens. It holds no secret: those of the clients
    are read from Vault when they are needed."""

    _block_type_name: ClassVar[str] = "OAuth Client"
    _block_type_slug: ClassVar[str] = "oauth-client"
    _description: ClassVar[str] = (
        "OAuth 2.0 endpoints of the platform: tokens (RFC 6749), revocation (RFC 7009), "
        "introspection (RFC 7662)."
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://www.rfc-editor.org/rfc/rfc7009")
    _code_example: ClassVar[str] = """
```python
from blocks.oauth import OAuthApp

oauth = await OAuthApp.aload("main")
async with oauth.get_client() as client:
    await client.revoke("app-1", secret, token, "refresh_token")
```
"""

    address: str = Field(
        description="Base address of the OAuth server, such as https://login.platform.example."
    )
    token_path: str = Field(
        default="/oauth/token", pattern="^/", description="Path of the token endpoint."
    )
    revocation_path: str = Field(
        default="/oauth/revoke", pattern="^/", description="Path of the revocation endpoint."
    )
    introspection_path: str = Field(
        default="/oauth/introspect", pattern="^/", description="Path of the introspection endpoint."
    )
    me_path: str = Field(
        default="/api/me",
        pattern="^/",
        description="Path that answers 200 to a living bearer token and 401 to a dead one.",
    )
    form_encode_credentials: bool = Field(
        default=True,
        description=(
            "Form-encode client id and secret before Basic authentication, as RFC 6749 asks; "
            "switch it off for a server that takes them raw."
        ),
    )
    allow_cleartext: AllowCleartext = False
    ca_file: CaFile = None
    client_cert_file: ClientCertFile = None
    client_key_file: ClientKeyFile = None

    def get_client(self, pace: Pace | None = None) -> OAuthClient:
        wire = Wire(
            "the OAuth server",
            self.address,
            credential="client secret",
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            pace=pace,
            allow_cleartext=self.allow_cleartext,
        )
        return OAuthClient(
            wire,
            token_path=self.token_path,
            revocation_path=self.revocation_path,
            introspection_path=self.introspection_path,
            me_path=self.me_path,
            form_encode_credentials=self.form_encode_credentials,
        )
