"""The Elasticsearch that holds the logs of password resets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar, Self

from pydantic import Field, HttpUrl, SecretStr, model_validator

from blocks.base import (
    AllowCleartext,
    CaFile,
    ClientCertFile,
    ClientKeyFile,
    SiemBlock,
    client_cert,
)
from clients.http import Pace, Wire
from clients.siem import ElasticsearchClient
from clients.siem_presets import chosen


class ElasticsearchSiem(SiemBlock):
    """Read access by an API key, or by a user and password."""

    _block_type_name: ClassVar[str] = "Elasticsearch SIEM"
    _block_type_slug: ClassVar[str] = "elasticsearch-siem"
    _description: ClassVar[str] = (
        "Elasticsearch 8 or 9 with the logs of password resets: Okta, Entra ID, Auth0, Google "
        "Workspace, Keycloak or plain ECS."
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://www.elastic.co/docs/deploy-manage/api-keys/elasticsearch-api-keys"
    )
    _code_example: ClassVar[str] = """
```python
from blocks.siem import ElasticsearchSiem

siem = await ElasticsearchSiem.aload("main")
async with siem.get_client(presets=["okta", "ecs"]) as client:
    async for page in client.sightings(start, end):
        ...
```
"""

    address: str = Field(
        description="Address of Elasticsearch, such as https://siem.example:9200; not of Kibana."
    )
    index: str = Field(
        default="logs-*", description="Index pattern to search, such as logs-okta*,logs-account*."
    )
    api_key: SecretStr | None = Field(
        default=None,
        title="API key",
        description="Encoded API key that may read the index and nothing else.",
    )
    user: str | None = Field(default=None, description="User in place of the API key.")
    password: SecretStr | None = Field(default=None, description="Password of the user.")
    ecs_actions: list[str] = Field(
        default_factory=list,
        title="ECS actions",
        description=(
            "Further values of event.action that mean a password reset in your plain ECS "
            "documents; user-password-reset and password-reset are known."
        ),
    )
    ingest_lag_seconds: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description=(
            "How long documents take to become searchable, in seconds; the last such stretch is "
            "left out when a burst is looked for."
        ),
    )
    allow_cleartext: AllowCleartext = False
    ca_file: CaFile = None
    client_cert_file: ClientCertFile = None
    client_key_file: ClientKeyFile = None

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.api_key is None) == (self.user is None or self.password is None):
            raise ValueError("give either api_key, or user and password")
        return self

    def get_client(
        self, pace: Pace | None = None, *, presets: Sequence[str] = ("okta", "ecs")
    ) -> ElasticsearchClient:
        headers = {}
        if self.api_key is not None:
            headers["Authorization"] = SecretStr(f"ApiKey {self.api_key.get_secret_value()}")
        basic = None
        if self.user is not None and self.password is not None:
            basic = (self.user, self.password)
        wire = Wire(
            "the SIEM",
            self.address,
            headers=headers,
            auth=basic,
            credential="API key" if basic is None else "password",
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            pace=pace,
            allow_cleartext=self.allow_cleartext,
        )
        return ElasticsearchClient(
            wire,
            index=self.index,
            presets=chosen(presets, ecs_actions=self.ecs_actions),
            until_lag=timedelta(seconds=self.ingest_lag_seconds),
        )
