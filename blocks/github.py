"""The GitHub Actions workflows that restart the consumers of a client secret."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import ConfigDict, Field, HttpUrl, SecretStr, model_validator

from blocks.base import (
    AllowCleartext,
    CaFile,
    CiBlock,
    ClientCertFile,
    ClientKeyFile,
    client_cert,
)
from clients.github_actions import GitHubActionsClient
from clients.github_app import AccessToken, AppInstallation, GitHubLogin
from clients.http import Pace, Wire


class GitHubActionsCi(CiBlock):
    """One repository whose workflows may be started: by a token, or by a GitHub App."""

    _block_type_name: ClassVar[str] = "GitHub Actions CI"
    _block_type_slug: ClassVar[str] = "github-actions-ci"
    _description: ClassVar[str] = (
        "GitHub Actions with the workflow_dispatch workflows that restart an app, so that it reads "
        "its secret anew."
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://docs.github.com/en/rest/actions/workflows"
    )
    _code_example: ClassVar[str] = """
```python
from blocks.github import GitHubActionsCi

github = await GitHubActionsCi.aload("main")
async with github.get_client() as client:
    build = await client.run("restart-consumer.yml", {"CONSUMER": "post-scheduler-api"})
```
"""

    # A refused document must not come back with its secrets in the message.
    model_config = ConfigDict(hide_input_in_errors=True)

    address: str = Field(
        default="https://api.github.com",
        description="Address of the REST API; https://HOST/api/v3 for GitHub Enterprise Server.",
    )
    repository: str = Field(
        pattern=r"^[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}$",
        description="The repository with the workflows, as owner/name.",
    )
    ref: str = Field(
        default="main",
        description="Branch or tag whose workflow file is run, unless a job names one.",
    )
    names_runs: bool = Field(
        default=True,
        description=(
            "The server names the run that a dispatch started; off for GitHub Enterprise Server of "
            "before 2026, which refuses to be asked."
        ),
    )
    token: SecretStr | None = Field(
        default=None,
        description="Fine-grained personal access token: Actions read and write on the repository.",
    )
    app_id: str | None = Field(
        default=None, description="App id or client id of a GitHub App, in place of the token."
    )
    installation_id: str | None = Field(
        default=None, description="Number of the app's installation on the repository's owner."
    )
    app_private_key: SecretStr | None = Field(
        default=None, description="Private key of the app: the whole PEM file."
    )
    allow_cleartext: AllowCleartext = False
    ca_file: CaFile = None
    client_cert_file: ClientCertFile = None
    client_key_file: ClientKeyFile = None

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        app = (self.app_id, self.installation_id, self.app_private_key)
        if bool(self.token) == bool(all(app)) or (any(app) and not all(app)):
            raise ValueError("either a token, or app id, installation id and private key")
        return self

    def get_client(self, pace: Pace | None = None) -> GitHubActionsClient:
        wire = Wire(
            "GitHub",
            self.address,
            credential="token",
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            pace=pace,
            allow_cleartext=self.allow_cleartext,
        )
        return GitHubActionsClient(
            wire, self._login(), self.repository, ref=self.ref, names_runs=self.names_runs
        )

    def _login(self) -> GitHubLogin:
        if self.token is not None:
            return AccessToken(self.token)
        assert self.app_id
        assert self.installation_id
        assert self.app_private_key
        return AppInstallation(
            self.app_id, self.installation_id, self.app_private_key, self.repository
        )
