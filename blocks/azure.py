"""Azure Key Vault as the place of client secrets."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import ConfigDict, Field, HttpUrl, SecretStr, model_validator

from blocks.base import (
    AllowCleartext,
    CaFile,
    ClientCertFile,
    ClientKeyFile,
    ClientSecretsBlock,
    client_cert,
)
from clients.azure_keyvault import AzureKeyVaultClient
from clients.azure_tokens import Application, AzureTokens, ManagedIdentity
from clients.http import Wire

_METADATA = "http://169.254.169.254"


class AzureKeyVault(ClientSecretsBlock):
    """One vault, and one identity: an app registration with a secret or a token file, or the
    managed identity of the worker's machine."""

    _block_type_name: ClassVar[str] = "Azure Key Vault"
    _block_type_slug: ClassVar[str] = "azure-key-vault"
    _description: ClassVar[str] = (
        "Azure Key Vault: client secrets, with the labels of their rotation as tags of versions."
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://learn.microsoft.com/azure/key-vault/secrets/about-secrets"
    )
    _code_example: ClassVar[str] = """
```python
from blocks.azure import AzureKeyVault

store = await AzureKeyVault.aload("main")
async with store.get_client() as client:
    await client.check()
```
"""

    # A refused document must not come back with its secrets in the message.
    model_config = ConfigDict(hide_input_in_errors=True)

    address: str = Field(
        description="Address of the vault, such as https://recovery.vault.azure.net."
    )
    tenant_id: str | None = Field(
        default=None, title="Tenant ID", description="Directory of the app registration."
    )
    client_id: str | None = Field(
        default=None,
        title="Client ID",
        description="App registration, or which of the machine's managed identities.",
    )
    client_secret: SecretStr | None = Field(
        default=None, description="Secret of the app registration."
    )
    token_file: str | None = Field(
        default=None,
        description=(
            "File with the worker's federated token, in place of a secret (workload identity)."
        ),
    )
    managed_identity: bool = Field(
        default=False, description="Use the managed identity of the worker's machine."
    )
    login_address: str = Field(
        default="https://login.microsoftonline.com",
        description="Address of Entra ID; another one in a sovereign cloud.",
    )
    metadata_address: str = Field(
        default=_METADATA,
        description="Address of the instance metadata service, for a managed identity.",
    )
    allow_cleartext: AllowCleartext = False
    ca_file: CaFile = None
    client_cert_file: ClientCertFile = None
    client_key_file: ClientKeyFile = None

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        proofs = (self.client_secret is not None) + (self.token_file is not None)
        if proofs + self.managed_identity != 1:
            raise ValueError("give either client_secret, or token_file, or managed_identity")
        if proofs and not (self.tenant_id and self.client_id):
            raise ValueError("give tenant_id and client_id of the app registration")
        return self

    def get_client(self) -> AzureKeyVaultClient:
        tokens = self._tokens()
        wire = Wire(
            "Azure Key Vault",
            self.address,
            bearer=tokens,
            credential="access token",
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            allow_cleartext=self.allow_cleartext,
        )
        return AzureKeyVaultClient(wire, tokens)

    def _tokens(self) -> AzureTokens:
        if self.managed_identity:
            # Plain http by its nature: the address is the machine's own.
            link = Wire("the metadata service", self.metadata_address, allow_cleartext=True)
            return AzureTokens(link, ManagedIdentity(self.client_id))
        assert self.tenant_id is not None
        assert self.client_id is not None
        login = Wire(
            "Entra ID",
            self.login_address,
            credential="client secret" if self.client_secret else "federated token",
            ca_file=self.ca_file,
            allow_cleartext=self.allow_cleartext,
        )
        application = Application(
            self.tenant_id, self.client_id, self.client_secret, self.token_file
        )
        return AzureTokens(login, application)
