"""Signs requests to AWS (Signature Version 4) with botocore's own code and credential chain.

Keys given explicitly are used alone; without them botocore looks where every AWS tool looks
(environment, profile, web identity, container, instance). A role is assumed on top of either.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    Credentials,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session
from pydantic import SecretStr

from recovery.errors import Misconfigured

_SESSION_NAME = "mass-reset-recovery"


class AwsSigner:
    """Nothing is looked up before the first signature; that and a refresh happen in a thread."""

    def __init__(
        self,
        region: str,
        service: str,
        *,
        access_key_id: str | None = None,
        secret_access_key: SecretStr | None = None,
        session_token: SecretStr | None = None,
        profile: str | None = None,
        role_arn: str | None = None,
        external_id: str | None = None,
        sts_endpoint: str | None = None,
    ) -> None:
        self._region = region
        self._service = service
        self._explicit: Credentials | None = None
        if access_key_id is not None and secret_access_key is not None:
            token = session_token.get_secret_value() if session_token else None
            secret = secret_access_key.get_secret_value()
            self._explicit = Credentials(access_key_id, secret, token, method="explicit")
        self._profile = profile
        self._role_arn = role_arn
        self._external_id = external_id
        self._sts_endpoint = sts_endpoint
        self._found: Any = None
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"AwsSigner({self._service!r}, {self._region!r})"

    async def signed(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> dict[str, str]:
        """`headers` and those of the signature, which holds for five minutes and this body."""
        async with self._lock:
            frozen = await asyncio.to_thread(self._frozen)
        request = AWSRequest(method=method, url=url, data=body, headers=dict(headers))
        SigV4Auth(frozen, self._service, self._region).add_auth(request)
        return {str(name): str(value) for name, value in request.headers.items()}

    def _frozen(self) -> Any:
        try:
            if self._found is None:
                self._found = self._look_up()
            return self._found.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise _unusable(type(error).__name__) from None

    def _look_up(self) -> Any:
        session = Session(profile=self._profile)
        source = self._explicit or session.get_credentials()
        if source is None:
            raise _unusable("none anywhere")
        if self._role_arn is None:
            return source
        extra = {"RoleSessionName": _SESSION_NAME}
        if self._external_id is not None:
            extra["ExternalId"] = self._external_id
        fetcher = AssumeRoleCredentialFetcher(
            client_creator=partial(
                session.create_client, region_name=self._region, endpoint_url=self._sts_endpoint
            ),
            source_credentials=source,
            role_arn=self._role_arn,
            extra_args=extra,
        )
        return DeferredRefreshableCredentials(
            refresh_using=fetcher.fetch_credentials, method="assume-role"
        )


def _unusable(got: str) -> Misconfigured:
    return Misconfigured(
        "Sign a request to AWS",
        expected="credentials, and a role that they may assume where one is named",
        got=got,
        advice="Correct keys, profile or role in the aws-secrets block, or what the worker's "
        "machine gives to AWS tools.",
    )
