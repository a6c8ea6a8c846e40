"""The enrollment portal as the flows need it: where links lead, and which keys sign and mark."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import urlsplit

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr, field_validator

from recovery.enroll import Issuer


class EnrollmentPortal(Block):
    """The page that people enroll on. It is the only part that faces the internet."""

    _block_type_name: ClassVar[str] = "Enrollment Portal"
    _block_type_slug: ClassVar[str] = "enrollment-portal"
    _description: ClassVar[str] = (
        "Where people bind a new authenticator and check whether a message is ours."
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://www.rfc-editor.org/rfc/rfc8725")
    _code_example: ClassVar[str] = """
```python
from blocks.portal import EnrollmentPortal

portal = await EnrollmentPortal.aload("main")
print(portal.address, portal.parties)
```
"""

    address: str = Field(
        description="Public address of the portal, such as https://accounts.example.com; "
        "every link in every message begins with it."
    )
    issuer: str = Field(description="Who signs enrollment tokens, the `iss` claim.")
    signing_key_path: str = Field(
        default="recovery/enrollment-signing-key",
        description="Path in the secrets store of the keys that sign links: `kid` and "
        "`private_pem` (Ed25519), and what `python -m flows.signing_key` keeps beside them.",
    )
    notice_key_path: str = Field(
        default="recovery/notice-signing-key",
        description="Path in the secrets store with `kid` and `private_pem` (Ed25519) of the key "
        "that signs banners and mails; never the one of the links. Empty: they go unsigned.",
    )
    code_key: SecretStr = Field(
        description="Key from which the 6-digit codes of messages are derived; the portal has the "
        "same one."
    )

    @field_validator("address")
    @classmethod
    def _origin(cls, value: str) -> str:
        """Links begin with it and tokens are made out to it, letter by letter."""
        parts = urlsplit(value.strip())
        local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise ValueError("an https origin, such as https://accounts.example.com")
        if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("an origin has no path, query, fragment or user")
        if not parts.hostname:
            raise ValueError("an origin has a host")
        default = {"https": ":443", "http": ":80"}[parts.scheme]
        return f"{parts.scheme}://{parts.netloc.lower().removesuffix(default)}"

    @property
    def parties(self) -> Issuer:
        """Who signs for whom: the audience is the portal's address."""
        return Issuer(self.issuer, self.address)
