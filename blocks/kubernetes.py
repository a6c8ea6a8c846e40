"""The Kubernetes cluster whose workloads are the consumers of a client secret."""

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
from clients.http import Pace, Wire
from clients.kubernetes import KubernetesClient, token_in_file

_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class KubernetesCi(CiBlock):
    """A service account that may read and patch the consumers' workloads: the worker's own one, or
    one whose token stands here."""

    _block_type_name: ClassVar[str] = "Kubernetes rollout"
    _block_type_slug: ClassVar[str] = "kubernetes-ci"
    _description: ClassVar[str] = (
        "Kubernetes, which restarts a Deployment, StatefulSet or DaemonSet by a rollout, so that "
        "it reads its secret anew."
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/deployment-v1/"
    )
    _code_example: ClassVar[str] = """
```python
from blocks.kubernetes import KubernetesCi

cluster = await KubernetesCi.aload("main")
async with cluster.get_client() as client:
    build = await client.run("deployment/post-scheduler-api", {})
```
"""

    # A refused document must not come back with its secrets in the message.
    model_config = ConfigDict(hide_input_in_errors=True)

    address: str = Field(
        default="https://kubernetes.default.svc",
        description="Address of the API server; the default is the one inside the cluster.",
    )
    namespace: str = Field(
        default="default",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="Namespace of the workloads, unless a job names one.",
    )
    token: SecretStr | None = Field(
        default=None,
        description="Token of a service account; empty where the worker runs in the cluster.",
    )
    mounted_token_file: str = Field(
        default=f"{_MOUNT}/token",
        description="Where the worker's own token is mounted; read anew for each call.",
    )
    console_url: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description=(
            "Page of a workload for people, with {namespace}, {kind} and {name}; empty for the "
            "API's own address."
        ),
    )
    allow_cleartext: AllowCleartext = False
    ca_file: CaFile = f"{_MOUNT}/ca.crt"
    client_cert_file: ClientCertFile = None
    client_key_file: ClientKeyFile = None

    def get_client(self, pace: Pace | None = None) -> KubernetesClient:
        wire = Wire(
            "Kubernetes",
            self.address,
            credential="service account's token",
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            pace=pace,
            allow_cleartext=self.allow_cleartext,
        )
        token = self.token
        source = token_in_file(self.mounted_token_file) if token is None else lambda: token
        return KubernetesClient(
            wire, source, namespace=self.namespace, console_url=self.console_url
        )
