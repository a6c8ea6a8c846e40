"""AWS Secrets Manager as the place of client secrets."""

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
from clients.aws_secrets import AwsSecretsClient
from clients.aws_signing import AwsSigner
from clients.http import Wire


class AwsSecrets(ClientSecretsBlock):
    """One region of one account, by keys or by what the worker's machine gives to AWS tools."""

    _block_type_name: ClassVar[str] = "AWS Secrets"
    _block_type_slug: ClassVar[str] = "aws-secrets"
    _description: ClassVar[str] = (
        "AWS Secrets Manager: client secrets with their rotation labels AWSCURRENT, AWSPENDING and "
        "AWSPREVIOUS."
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://docs.aws.amazon.com/secretsmanager/latest/userguide/intro.html"
    )
    _code_example: ClassVar[str] = """
```python
from blocks.aws import AwsSecrets

store = await AwsSecrets.aload("main")
async with store.get_client() as client:
    await client.check()
```
"""

    # A refused document must not come back with its secrets in the message.
    model_config = ConfigDict(hide_input_in_errors=True)

    region: str = Field(
        pattern=r"^[a-z]{2}(-[a-z]+)+-\d$", description="Region, such as eu-central-1."
    )
    endpoint: str | None = Field(
        default=None,
        description="Address in place of the region's public one, such as a VPC endpoint's.",
    )
    access_key_id: str | None = Field(
        default=None,
        title="Access key ID",
        description="Access key; empty to use the worker's own role, profile or environment.",
    )
    secret_access_key: SecretStr | None = Field(
        default=None, description="Secret of the access key."
    )
    session_token: SecretStr | None = Field(
        default=None, description="Session token, where the access key is a temporary one."
    )
    profile: str | None = Field(
        default=None, description="Profile of the worker's AWS configuration, in place of keys."
    )
    role_arn: str | None = Field(
        default=None,
        title="Role ARN",
        description="Role to assume before each run, with these keys or the worker's own.",
    )
    external_id: str | None = Field(
        default=None, title="External ID", description="External id that the role asks for."
    )
    sts_endpoint: str | None = Field(
        default=None,
        title="STS endpoint",
        description="Address of STS in place of the public one, where a role is assumed.",
    )
    allow_cleartext: AllowCleartext = False
    ca_file: CaFile = None
    client_cert_file: ClientCertFile = None
    client_key_file: ClientKeyFile = None

    @model_validator(mode="after")
    def _whole_keys(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("give both access_key_id and secret_access_key, or neither")
        if self.access_key_id is not None and self.profile is not None:
            raise ValueError("give either keys or a profile")
        return self

    def get_client(self) -> AwsSecretsClient:
        signer = AwsSigner(
            self.region,
            "secretsmanager",
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            session_token=self.session_token,
            profile=self.profile,
            role_arn=self.role_arn,
            external_id=self.external_id,
            sts_endpoint=self.sts_endpoint,
        )
        wire = Wire(
            "AWS Secrets Manager",
            self.endpoint or _public_address(self.region),
            credential="access key",
            ca_file=self.ca_file,
            client_cert=client_cert(self.client_cert_file, self.client_key_file),
            allow_cleartext=self.allow_cleartext,
        )
        return AwsSecretsClient(wire, signer)


def _public_address(region: str) -> str:
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://secretsmanager.{region}.{suffix}"
