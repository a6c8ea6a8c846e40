"""The Jenkins that restarts the consumers of a client secret."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field, HttpUrl, SecretStr

from blocks.base import CaFile, CiBlock, ClientCertFile, ClientKeyFile, client_cert
from clients.http import Pace, Wire
from clients.jenkins import JenkinsClient


class JenkinsCi(CiBlock):
    """A user of Jenkins that may start the restart jobs and nothing else."""

    _block_type_name: ClassVar[str] = "Jenkins CI"
    _block_type_slug: ClassVar[str] = "jenkins-ci"
    _description: ClassVar[str] = (
        "Jenkins with the parameterized jobs that restart an app, so that it reads its secret anew."
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://www.jenkins.io/doc/book/using/remote-access-api/"
    )
    _code_example: ClassVar[str] = """
```python
from blocks.jenkins import JenkinsCi

jenkins = await JenkinsCi.aload("main")
async with jenkins.get_client() as client:
    build = await client.run("restart-consumer", {"CONSUMER": "post-scheduler-api"})
```
"""

    # A refused document must not come back with its secrets in the message.
    model_config = ConfigDict(hide_input_in_errors=True)

    address: str = Field(
        description="Address of Jenkins with its context path, such as https://ci.example/jenkins."
    )
    user: str = Field(description="User who owns the API token.")
    api_token: SecretStr = Field(
        description="API token of the user, not the password: a password would need a crumb."
    )
    allow_cleartext: bool = Field(
        default=False,
        description="Accept plain http to another machine, because an encrypted mesh is below.",
    )
    ca_file: CaFile = None
    client_cert_file: ClientCertFile = None
    client_key_file: ClientKeyFile = None

    def get_client(self, pace: Pace | None = None) -> JenkinsClient:
        wire = Wire(
            "Jenkins",
            self.address,
            auth=(self.user, self.api_token),
            credential="API token",
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            pace=pace,
            allow_cleartext=self.allow_cleartext,
        )
        return JenkinsClient(wire)
