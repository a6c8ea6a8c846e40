"""The Vault that keeps client secrets, approvers' keys and signing keys, and how we log in."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar, Self

from pydantic import ConfigDict, Field, HttpUrl, SecretStr, model_validator

from blocks.base import CaFile, ClientCertFile, ClientKeyFile, SecretsBlock, client_cert
from clients.vault import VaultClient
from clients.vault_login import SERVICE_ACCOUNT_FILE, TokenFile


class VaultSecrets(SecretsBlock):
    """One way in: an AppRole, a token that somebody else renews, or a token file of the platform
    that the worker runs on (a projected JWT, or a Kubernetes service account)."""

    _block_type_name: ClassVar[str] = "Vault Secrets"
    _block_type_slug: ClassVar[str] = "vault-secrets"
    _description: ClassVar[str] = (
        "HashiCorp Vault or OpenBao: client secrets with their rotation labels (KV v2), approvers' "
        "one-time codes (TOTP engine), signatures (transit)."
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://openbao.org/docs/")
    _code_example: ClassVar[str] = """
```python
from blocks.vault import VaultSecrets

vault = await VaultSecrets.aload("main")
async with vault.get_client() as client:
    await client.check()
```
"""

    # A refused document must not come back with its secrets in the message.
    model_config = ConfigDict(hide_input_in_errors=True)

    address: str = Field(
        description="Address of Vault or of its load balancer, such as https://vault.example:8200."
    )
    role_id: str | None = Field(
        default=None, description="Role id of our AppRole, `recovery-flows`."
    )
    secret_id: SecretStr | None = Field(
        default=None, description="Secret id of our AppRole; give it a short lifetime."
    )
    token: SecretStr | None = Field(
        default=None, description="A token in place of the AppRole, renewed by somebody else."
    )
    jwt_role: str | None = Field(
        default=None,
        title="JWT role",
        description="Role of the JWT auth method to log in with, in place of the AppRole.",
    )
    jwt_file: str | None = Field(
        default=None,
        title="JWT file",
        description="File with the projected token, on the machine of the worker.",
    )
    jwt_mount: str = Field(
        default="jwt", title="JWT mount", description="Mount of the JWT auth method."
    )
    kubernetes_role: str | None = Field(
        default=None,
        description="Role of the Kubernetes auth method to log in with, in place of the AppRole.",
    )
    kubernetes_file: str = Field(
        default=SERVICE_ACCOUNT_FILE,
        description="File with the token of the worker's service account.",
    )
    kubernetes_mount: str = Field(
        default="kubernetes", description="Mount of the Kubernetes auth method."
    )
    mount: str = Field(
        default="secret", description="Mount of the KV version 2 engine that holds the secrets."
    )
    totp_mount: str = Field(
        default="totp", description="Mount of the TOTP engine with one key per approver."
    )
    transit_mount: str = Field(
        default="transit", description="Mount of the transit engine with our signing keys."
    )
    namespace: str | None = Field(
        default=None, description="Namespace to work in, where Vault has them."
    )
    timeout_seconds: float = Field(
        default=30.0, gt=0, le=120, description="Longest wait for one answer, in seconds."
    )
    allow_cleartext: bool = Field(
        default=False,
        description="Accept plain http to another machine, because an encrypted mesh is below.",
    )
    ca_file: CaFile = None
    client_cert_file: ClientCertFile = None
    client_key_file: ClientKeyFile = None

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        ways = (
            self.token,
            self.role_id and self.secret_id,
            self.jwt_role and self.jwt_file,
            self.kubernetes_role,
        )
        if sum(way is not None and way != "" for way in ways) != 1:
            raise ValueError(
                "give either role_id and secret_id, or token, or jwt_role and jwt_file, "
                "or kubernetes_role"
            )
        return self

    def _token_file(self) -> TokenFile | None:
        if self.jwt_role and self.jwt_file:
            return TokenFile("jwt", self.jwt_role, self.jwt_file, self.jwt_mount)
        if self.kubernetes_role:
            return TokenFile(
                "kubernetes", self.kubernetes_role, self.kubernetes_file, self.kubernetes_mount
            )
        return None

    def get_client(self) -> VaultClient:
        return VaultClient(
            self.address,
            role_id=self.role_id if self.token is None else None,
            secret_id=self.secret_id if self.token is None else None,
            token=self.token,
            token_file=self._token_file(),
            mount=self.mount,
            totp_mount=self.totp_mount,
            transit_mount=self.transit_mount,
            namespace=self.namespace,
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            timeout=timedelta(seconds=self.timeout_seconds),
            allow_cleartext=self.allow_cleartext,
        )
