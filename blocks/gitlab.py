"""The GitLab pipelines that restart the consumers of a client secret."""

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
from clients.gitlab import GitLabClient
from clients.http import Pace, Wire


class GitLabCi(CiBlock):
    """A token that may start pipelines of the projects with the restart jobs."""

    _block_type_name: ClassVar[str] = "GitLab CI"
    _block_type_slug: ClassVar[str] = "gitlab-ci"
    _description: ClassVar[str] = (
        "GitLab with the projects whose pipelines restart an app, so that it reads its secret anew."
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://docs.gitlab.com/api/pipelines/")
    _code_example: ClassVar[str] = """
```python
from blocks.gitlab import GitLabCi

gitlab = await GitLabCi.aload("main")
async with gitlab.get_client() as client:
    build = await client.run("operations/restarts", {"CONSUMER": "post-scheduler-api"})
```
"""

    # A refused document must not come back with its secrets in the message.
    model_config = ConfigDict(hide_input_in_errors=True)

    address: str = Field(
        default="https://gitlab.com", description="Address of GitLab, without /api/v4."
    )
    token: SecretStr = Field(
        description="Project or group access token with the scope api and the role Developer."
    )
    ref: str = Field(
        default="main", description="Branch or tag that pipelines run on, unless a job names one."
    )
    allow_cleartext: AllowCleartext = False
    ca_file: CaFile = None
    client_cert_file: ClientCertFile = None
    client_key_file: ClientKeyFile = None

    def get_client(self, pace: Pace | None = None) -> GitLabClient:
        wire = Wire(
            "GitLab",
            self.address,
            headers={"PRIVATE-TOKEN": self.token},
            credential="token",
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            pace=pace,
            allow_cleartext=self.allow_cleartext,
        )
        return GitLabClient(wire, ref=self.ref)
