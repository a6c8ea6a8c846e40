"""The Twilio account that sends text messages to people."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, HttpUrl, SecretStr, model_validator

from blocks.base import (
    AllowCleartext,
    CaFile,
    ClientCertFile,
    ClientKeyFile,
    SmsBlock,
    client_cert,
)
from clients.http import Pace, Wire
from clients.twilio import TwilioClient


class TwilioSms(SmsBlock):
    """An account with an API key (better) or its auth token, and a sender."""

    _block_type_name: ClassVar[str] = "Recovery Twilio"
    _block_type_slug: ClassVar[str] = "recovery-twilio"
    _description: ClassVar[str] = "Twilio Programmable Messaging, API 2010-04-01."
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://www.twilio.com/docs/messaging/api/message-resource"
    )
    _code_example: ClassVar[str] = """
```python
from blocks.sms import TwilioSms

sms = await TwilioSms.aload("main")
async with sms.get_client() as client:
    verdict, receipt = await client.send(copy)
```
"""

    address: str = Field(default="https://api.twilio.com", description="Address of the API.")
    account_sid: str = Field(
        pattern=r"^AC[0-9A-Za-z]+$", title="Account SID", description="SID of the account (AC...)."
    )
    api_key_sid: str | None = Field(
        default=None,
        title="API key SID",
        description="SID of an API key (SK...); empty to use the account's auth token.",
    )
    secret: SecretStr = Field(
        description="Secret of the API key, or the account's auth token where there is no key."
    )
    messaging_service_sid: str | None = Field(
        default=None,
        title="Messaging service SID",
        description="Messaging service (MG...) whose pool of senders is used.",
    )
    from_number: str | None = Field(
        default=None,
        description="Sender in E.164 form in place of a messaging service, such as +15550100.",
    )
    status_callback: str | None = Field(
        default=None,
        description="Public https address that gets delivery reports; empty for none.",
    )
    allow_cleartext: AllowCleartext = False
    ca_file: CaFile = None
    client_cert_file: ClientCertFile = None
    client_key_file: ClientKeyFile = None

    @model_validator(mode="after")
    def _one_sender(self) -> Self:
        if (self.messaging_service_sid is None) == (self.from_number is None):
            raise ValueError("give either messaging_service_sid or from_number")
        return self

    def get_client(self, pace: Pace | None = None) -> TwilioClient:
        wire = Wire(
            "Twilio",
            self.address,
            credential="API key" if self.api_key_sid else "auth token",
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            pace=pace,
            allow_cleartext=self.allow_cleartext,
        )
        return TwilioClient(
            self.account_sid,
            (self.api_key_sid or self.account_sid, self.secret),
            wire,
            messaging_service_sid=self.messaging_service_sid,
            from_number=self.from_number,
            status_callback=self.status_callback,
        )
