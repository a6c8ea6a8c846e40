"""What the portal is told at its start: its address, its keys, its numbers."""

from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from jwt.exceptions import InvalidKeyError
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from portal.key_set import usable
from portal.signatures import read_sendgrid_key
from recovery.enroll import Issuer, public_keys
from recovery.policy import Duration, EnrollPolicy


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Limit(_Section):
    """At most `limit` in any span of `per`, over all of the portal's processes."""

    limit: int = Field(ge=1)
    per: Duration


def _limit(limit: int, per: timedelta) -> Any:
    return Field(default_factory=lambda: Limit(limit=limit, per=per))


_HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)


class Limits(_Section):
    """Throttles. A whole company sits behind one address, so the ones per client are wide.

    Sessions are free to whoever reads the mailbox, so codes and tries are also capped for the
    account: 60 tries a day at 10^6 codes, below the 100 that NIST SP 800-63B-4 3.2.2 allows.
    """

    sessions_per_link: Limit = _limit(20, _HOUR)
    codes_per_account: Limit = _limit(12, _DAY)
    tries_per_account: Limit = _limit(60, _DAY)
    confirmations_per_session: Limit = _limit(30, timedelta(minutes=10))
    fresh_link_per_account: Limit = _limit(3, _HOUR)
    fresh_link_per_identifier: Limit = _limit(3, _HOUR)
    fresh_link_per_client: Limit = _limit(600, _HOUR)
    fresh_link_overall: Limit = _limit(1200, _MINUTE)
    check_per_identifier: Limit = _limit(10, _HOUR)
    check_per_client: Limit = _limit(120, _HOUR)
    check_overall: Limit = _limit(1200, _MINUTE)


class Webhooks(_Section):
    """What providers sign with. One without a key is not listened to."""

    sendgrid_key: str = Field("", description="Public key of the signed event webhook, base64.")
    twilio_auth_token: SecretStr = Field(
        SecretStr(""), description="The account's primary token: signs by HMAC-SHA1."
    )
    twilio_shared_keys: dict[str, SecretStr] = Field(
        default_factory=dict, description="Key id -> secret: sign by HMAC-SHA256."
    )
    freshness: Duration = timedelta(minutes=10)
    """How old, or how far ahead, the timestamp of a signed event may be."""

    @field_validator("sendgrid_key")
    @classmethod
    def _p256(cls, value: str) -> str:
        if value:
            read_sendgrid_key(value)
        return value


class PortalSettings(_Section):
    """`enroll` holds the runbook's numbers: how long codes live, how many are sent and tried."""

    public_url: str = Field(description="The canonical origin, such as https://enroll.example.com.")
    organization: str = Field(min_length=1, description="How people know us.")
    site: str = Field(min_length=3, description="The platform's address that people type.")
    issuer: Issuer = Field(description="Whose tokens are accepted, and for whom they are made.")
    jwks: dict[str, Any] | None = Field(
        None, description="The public halves of the enrollment signing keys; or `jwks_file`."
    )
    jwks_file: Path | None = Field(
        None, description="The same in a file, which is read again whenever it changes."
    )
    notice_jwks: dict[str, Any] = Field(
        default_factory=lambda: {"keys": []},
        description="The public halves of the keys that sign banners and mails.",
    )
    webhooks: Webhooks = Field(default_factory=Webhooks)
    seal_key: SecretStr = Field(description="Fernet key that seals authenticator secrets.")
    code_key: SecretStr = Field(description="HMAC key for codes, 32 characters or more.")
    enroll: EnrollPolicy = EnrollPolicy()
    limits: Limits = Field(default_factory=Limits)
    session_ttl: Duration = timedelta(minutes=30)
    secure_cookies: bool = Field(True, description="`__Host-` cookies; off only without TLS.")
    proxies: Annotated[int, Field(ge=0, le=5)] = 0
    """How many trusted proxies stand before the portal and append to X-Forwarded-For."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks of our own proxies: better than their number, since only they are believed."""
    forwarded_by: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    """The one header that those proxies write; the other one is the client's to invent."""
    support: str = Field("", description="How people reach somebody who can proof their identity.")
    answer_floor: Duration = timedelta(milliseconds=350)
    """No answer that could tell known from unknown comes earlier than this."""
    passkeys: bool = Field(True, description="Off where the platform cannot keep passkeys.")
    passkey_domain: str = Field(
        "",
        description="WebAuthn's RP id, where the platform's passkeys are made for a domain above "
        "the portal's own host.",
    )

    @field_validator("public_url")
    @classmethod
    def _origin(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ValueError("an origin with its scheme, such as https://enroll.example.com")
        if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("an origin has no path, query, fragment or user")
        default = {"https": ":443", "http": ":80"}[parts.scheme]
        return f"{parts.scheme}://{parts.netloc.lower().removesuffix(default)}"

    @field_validator("seal_key")
    @classmethod
    def _fernet(cls, value: SecretStr) -> SecretStr:
        try:
            Fernet(value.get_secret_value())
        except ValueError:
            raise ValueError("a Fernet key: 32 bytes in URL-safe base64") from None
        return value

    @field_validator("code_key")
    @classmethod
    def _long(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < 32:
            raise ValueError("32 characters or more")
        return value

    @field_validator("jwks")
    @classmethod
    def _usable(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            usable(value)
        return value

    @field_validator("issuer")
    @classmethod
    def _normal_audience(cls, value: Issuer) -> Issuer:
        return Issuer(value.issuer, value.audience.rstrip("/"))

    @model_validator(mode="after")
    def _keys_once(self) -> "PortalSettings":
        if (self.jwks is None) == (self.jwks_file is None):
            raise ValueError("one of jwks and jwks_file")
        return self

    @property
    def keys(self) -> dict[str, Any] | Path:
        found = self.jwks_file if self.jwks is None else self.jwks
        assert found is not None
        return found

    @field_validator("notice_jwks")
    @classmethod
    def _public(cls, value: dict[str, Any]) -> dict[str, Any]:
        rows = value.get("keys", [])
        if any("d" in row for row in rows):
            raise ValueError("public keys alone: a private one stands here")
        try:
            good = public_keys(value)
        except (InvalidKeyError, KeyError):
            good = {}
        if len(good) != len(rows):
            raise ValueError("Ed25519 keys, each with a kid of its own")
        return value

    @model_validator(mode="after")
    def _one_key_one_purpose(self) -> "PortalSettings":
        # Those of a file are looked at when they are read; see KeySet.
        links = (self.jwks or {}).get("keys", [])
        notices = self.notice_jwks.get("keys", [])
        for name in ("kid", "x"):
            if {row.get(name) for row in links} & {row.get(name) for row in notices}:
                raise ValueError("jwks and notice_jwks share a key or a kid")
        return self

    @model_validator(mode="after")
    def _one_way_to_the_client(self) -> "PortalSettings":
        if self.proxies and self.trusted_proxies:
            raise ValueError("one of proxies and trusted_proxies")
        return self

    @model_validator(mode="after")
    def _plain_only_on_loopback(self) -> "PortalSettings":
        if not self.https and not self.loopback:
            raise ValueError("public_url must be https, except on this machine itself")
        return self

    @model_validator(mode="after")
    def _domain_of_ours(self) -> "PortalSettings":
        domain = self.passkey_domain
        if domain and self.host != domain and not self.host.endswith(f".{domain}"):
            raise ValueError("passkey_domain must be the portal's host or a domain above it")
        if domain and "." not in domain and domain != "localhost":
            raise ValueError("passkey_domain must be a domain that somebody can own")
        return self

    @property
    def rp_id(self) -> str | None:
        """For which domain passkeys are made; None where none can be: browsers make no passkey
        for an address without a name."""
        if not self.passkeys:
            return None
        try:
            ip_address(self.host)
        except ValueError:
            return self.passkey_domain or self.host
        return None

    @property
    def https(self) -> bool:
        return self.public_url.startswith("https://")

    @property
    def host(self) -> str:
        return urlsplit(self.public_url).hostname or ""

    @property
    def loopback(self) -> bool:
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")

    @property
    def cookie(self) -> str:
        """`__Host-` binds a cookie to this very host, to the path / and to a secure origin."""
        return "__Host-enroll" if self.secure_cookies else "enroll"
