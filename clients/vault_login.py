"""Where Vault is and the ways in: AppRole, a token, or a token file that our platform keeps fresh.

Vault's API pages "AppRole", "JWT/OIDC" and "Kubernetes" auth methods; the last two have one wire.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hvac
import requests
from hvac import exceptions as refusals
from pydantic import SecretStr

from clients.vault_answers import safe
from clients.vault_transport import BoundedAdapter
from recovery.errors import Misconfigured

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SERVICE_ACCOUNT_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_CONNECT = timedelta(seconds=5)
_LONGEST_TOKEN = 64 * 1024


@dataclass(frozen=True, slots=True)
class AppRole:
    role_id: str
    secret_id: SecretStr = field(repr=False)

    what = "AppRole"

    def log_in(self, client: hvac.Client) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = client.auth.approle.login(
                self.role_id, self.secret_id.get_secret_value(), use_token=False
            )
        except (refusals.InvalidRequest, refusals.Unauthorized, refusals.Forbidden):
            raise _refused(
                self.what,
                "the role id and secret id to be accepted",
                "Issue a new secret id and put it into the vault-secrets block.",
            ) from None
        return answer


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A JWT that is written into a file and changed there by somebody else: a projected token (auth
    method `jwt`) or the service account's (`kubernetes`). Read anew at each login."""

    method: str
    role: str
    path: str
    mount: str

    @property
    def what(self) -> str:
        return f"the token file ({self.method})"

    def log_in(self, client: hvac.Client) -> dict[str, Any]:
        try:
            with Path(self.path).open(encoding="ascii") as file:
                jwt = file.read(_LONGEST_TOKEN).strip()
        except (OSError, UnicodeError):
            jwt = ""
        if not jwt:
            raise _refused(
                self.what,
                "a readable file with a token",
                "Mount the token into the worker and correct its path in the vault-secrets block.",
            )
        try:
            answer: dict[str, Any] = client.adapter.post(
                f"/v1/auth/{safe(self.mount)}/login", json={"role": self.role, "jwt": jwt}
            )
        except (refusals.InvalidRequest, refusals.Unauthorized, refusals.Forbidden):
            raise _refused(
                self.what,
                f"the role {self.role} to take the token",
                "Compare the token's audience, subject and lifetime with what the role in Vault "
                "is bound to.",
            ) from None
        return answer


Way = AppRole | TokenFile


@dataclass(frozen=True, slots=True)
class Door:
    """One Vault and one way into it: `way`, or a `token` that somebody else renews."""

    address: str
    way: Way | None = None
    token: SecretStr | None = field(default=None, repr=False)
    namespace: str | None = None
    ca_file: str | None = None
    client_cert: tuple[str, str | None] | None = None
    timeout: timedelta = timedelta(seconds=30)
    allow_cleartext: bool = False
    """Plain http to another machine, where an encrypted mesh is below."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        local = parts.hostname in LOOPBACK
        if parts.scheme != "https" and not (
            parts.scheme == "http" and (local or self.allow_cleartext)
        ):
            raise Misconfigured(
                "Set up the connection to Vault",
                expected="an https address",
                got="plain http to another machine" if parts.scheme == "http" else "something else",
                advice="Correct the address in the vault-secrets block.",
            )
        if (self.token is None) == (self.way is None):
            raise Misconfigured(
                "Log in to Vault",
                expected="either role_id and secret_id, or token, or one token file",
                got="several" if self.token is not None else "none of them whole",
                advice="Correct the vault-secrets block.",
            )

    def new_client(self) -> hvac.Client:
        session = requests.Session()
        # Addresses and credentials come from the block alone, not from a proxy variable or .netrc.
        session.trust_env = False
        for scheme in ("http://", "https://"):
            session.mount(scheme, BoundedAdapter(self.timeout.total_seconds()))
        session.cert = self._cert()
        session.verify = self.ca_file or True
        return hvac.Client(
            url=self.address,
            token="",
            # None would make hvac look into VAULT_CLIENT_CERT; the session has ours.
            cert=False,
            verify=session.verify,
            timeout=(_CONNECT.total_seconds(), self.timeout.total_seconds()),
            # requests would carry X-Vault-Token along to another host.
            allow_redirects=False,
            session=session,
            namespace=self.namespace,
        )

    def _cert(self) -> str | tuple[str, str] | None:
        if self.client_cert is None:
            return None
        cert, key = self.client_cert
        return (cert, key) if key else cert


def _refused(what: str, expected: str, advice: str) -> Misconfigured:
    return Misconfigured(
        f"Log in to Vault by {what}", expected=expected, got="a refusal", advice=advice
    )
