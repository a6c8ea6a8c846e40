"""A webhook of ours before any other CI, that restarts the consumers of a client secret."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field, HttpUrl, SecretStr

from blocks.base import (
    AllowCleartext,
    CaFile,
    CiBlock,
    ClientCertFile,
    ClientKeyFile,
    client_cert,
)
from clients.http import Pace, Wire
from clients.webhook_ci import WebhookCiClient


class WebhookCi(CiBlock):
    """An address that takes signed POSTs and tells a status address for each."""

    _block_type_name: ClassVar[str] = "Webhook CI"
    _block_type_slug: ClassVar[str] = "webhook-ci"
    _description: ClassVar[str] = (
        "A signed webhook with a status address, before whatever restarts an app, so that it reads "
        "its secret anew."
    )
    _documentation_url: ClassVar[HttpUrl | None] = None
    _code_example: ClassVar[str] = """
```python
from blocks.webhook_ci import WebhookCi

webhook = await WebhookCi.aload("main")
async with webhook.get_client() as client:
    build = await client.run("restart", {"CONSUMER": "post-scheduler-api"})
```
"""

    # A refused document must not come back with its secrets in the message.
    model_config = ConfigDict(hide_input_in_errors=True)

    address: str = Field(
        description="Address of the webhook; status addresses on other hosts are refused."
    )
    path: str = Field(
        default="/jobs",
        pattern=r"^/[^?#\s]*$",
        description="Where jobs are started, after address.",
    )
    secret: SecretStr = Field(
        min_length=16,
        description="Key of the HMAC-SHA256 that signs each request; 16 characters or more.",
    )
    allow_cleartext: AllowCleartext = False
    ca_file: CaFile = None
    client_cert_file: ClientCertFile = None
    client_key_file: ClientKeyFile = None

    def get_client(self, pace: Pace | None = None) -> WebhookCiClient:
        wire = Wire(
            "the CI webhook",
            self.address,
            credential="signing secret",
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            pace=pace,
            allow_cleartext=self.allow_cleartext,
        )
        return WebhookCiClient(wire, self.secret, path=self.path)
