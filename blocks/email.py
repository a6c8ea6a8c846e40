"""The SendGrid account that sends email to people."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, HttpUrl, SecretStr

from blocks.base import (
    AllowCleartext,
    CaFile,
    ClientCertFile,
    ClientKeyFile,
    EmailBlock,
    client_cert,
)
from clients.http import Pace, Wire
from clients.sendgrid import SendGridClient


class SendGridEmail(EmailBlock):
    """An API key and the one sender that people know."""

    _block_type_name: ClassVar[str] = "Recovery SendGrid"
    _block_type_slug: ClassVar[str] = "recovery-sendgrid"
    _description: ClassVar[str] = (
        "Twilio SendGrid, v3 API. Click and open tracking are switched off in every message."
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://www.twilio.com/docs/sendgrid/api-reference/mail-send"
    )
    _code_example: ClassVar[str] = """
```python
from blocks.email import SendGridEmail

email = await SendGridEmail.aload("main")
async with email.get_client() as client:
    receipt = await client.send(text, copies, category="enrollment")
```
"""

    address: str = Field(
        default="https://api.sendgrid.com",
        description="Address of the API; https://api.eu.sendgrid.com for data in the EU.",
    )
    api_key: SecretStr = Field(
        title="API key",
        description="API key with the scopes mail.send and messages.read, and no more.",
    )
    sender_email: str = Field(
        pattern=r"^[^@\s<>]+@[^@\s<>]+$",
        description="Verified sender whose domain passes SPF, DKIM and DMARC.",
    )
    sender_name: str = Field(
        min_length=1, description="Name that people see as the sender; how they know us."
    )
    bypass_unsubscribes: bool = Field(
        default=False,
        description=(
            "Write to people who unsubscribed, because a security notice is no newsletter; "
            "bounces and spam reports are respected all the same."
        ),
    )
    allow_cleartext: AllowCleartext = False
    ca_file: CaFile = None
    client_cert_file: ClientCertFile = None
    client_key_file: ClientKeyFile = None

    def get_client(self, pace: Pace | None = None) -> SendGridClient:
        wire = Wire(
            "SendGrid",
            self.address,
            headers={"Authorization": SecretStr(f"Bearer {self.api_key.get_secret_value()}")},
            credential="API key",
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            pace=pace,
            allow_cleartext=self.allow_cleartext,
        )
        return SendGridClient(
            wire,
            sender_email=self.sender_email,
            sender_name=self.sender_name,
            bypass_unsubscribes=self.bypass_unsubscribes,
        )
