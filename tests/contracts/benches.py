"""One bench per store: a server to work at, its contents as a person would put them there, and
what a consumer reads. The shared suite of the promise runs on each."""

import asyncio
import json
import os
import secrets
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import aiohttp
from botocore.session import Session
from moto.server import ThreadedMotoServer
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from blocks.aws import AwsSecrets
from blocks.azure import AzureKeyVault
from clients.aws_secrets import AwsSecretsClient
from clients.azure_keyvault import AzureKeyVaultClient
from clients.secret_store import SecretStore
from clients.vault import VaultClient
from rehearsal.world.azure_app import AzureVault, Identity
from rehearsal.world.faults import Faults
from rehearsal.world.serving import Loopback
from tests.contracts.relay import Relay

OLD = "cs_old-value-that-nobody-may-see:+/%"
REGION = "eu-central-1"


class Bench(ABC):
    """`write` is found in the request line of every call that changes a label or a value."""

    name: str
    faults: Faults
    write: str
    staging: str
    """The same, for the one call that makes PENDING."""
    patient = False
    """Whether clients really wait, where several of them are at work."""

    def path(self) -> str:
        return f"apps/app-{secrets.token_hex(5)}"

    @abstractmethod
    def client(self) -> SecretStore: ...

    @abstractmethod
    async def seed(self, path: str) -> None:
        """CURRENT is `s1` with the value OLD, as a person puts a client's first secret there."""

    @abstractmethod
    async def consumed(self, path: str) -> str:
        """The value that a consumer gets who knows nothing of rotations."""

    @abstractmethod
    async def overwrite(self, path: str, secret_id: str, value: str) -> None:
        """Somebody writes by hand, in the middle of everything."""


async def hurry(_: float) -> None:
    return None


# Vault.


class VaultBench(Bench):
    name, write, staging = "vault", "POST /v1/.*/data/", "POST /v1/.*/data/"

    def __init__(self, relay: Relay, address: str, token: str, admin: Any, prefix: str) -> None:
        self.faults = relay.faults
        self._address, self._token, self._admin, self._prefix = address, token, admin, prefix

    def path(self) -> str:
        return f"{self._prefix}/app-{secrets.token_hex(5)}"

    def client(self) -> VaultClient:
        return VaultClient(self._address, token=SecretStr(self._token), sleep=hurry)

    async def seed(self, path: str) -> None:
        await self.overwrite(path, "s1", OLD)

    async def consumed(self, path: str) -> str:
        read = self._admin.secrets.kv.v2.read_secret_version
        answer = await asyncio.to_thread(read, path, raise_on_deleted_version=True)
        return str(answer["data"]["data"]["client_secret"])

    async def overwrite(self, path: str, secret_id: str, value: str) -> None:
        write = self._admin.secrets.kv.v2.create_or_update_secret
        entry = {"client_secret": value, "secret_id": secret_id}
        await asyncio.to_thread(write, path, entry)


@asynccontextmanager
async def vault_bench(address: str, token: str, admin: Any, prefix: str) -> AsyncIterator[Bench]:
    relay = Relay(address)
    async with Loopback(relay.app) as server:
        yield VaultBench(relay, server.url, token, admin, prefix)


# AWS.


class _AwsRelay(Relay):
    """moto with what it lacks of AWS.

    PutSecretValue: "if the secret data is different, then the operation fails because you can't
    modify an existing version". moto overwrites a version that is AWSPENDING. Its backend looks and
    writes without a lock, so that requests go to it one by one. And where a secret is not there,
    its ListSecretVersionIds answers 500.
    """

    def __init__(self, address: str) -> None:
        super().__init__(address, one_by_one=True)
        self.actions: list[str] = []
        self.throttled: Counter[str] = Counter()
        self.page = 0

    def where(self, request: Request) -> str:
        return "/"

    async def hand_on(
        self, session: aiohttp.ClientSession, request: Request, body: bytes
    ) -> Response:
        action = request.headers["x-amz-target"].rpartition(".")[2]
        self.actions.append(action)
        if self.throttled[action] > 0:
            self.throttled[action] -= 1
            return _aws_error("ThrottlingException")
        if action == "PutSecretValue":
            asked = json.loads(body)
            look = {"SecretId": asked["SecretId"], "VersionId": asked["ClientRequestToken"]}
            target = {"x-amz-target": "secretsmanager.GetSecretValue"}
            held = await self.ask(session, request, json.dumps(look).encode(), target)
            if held.status_code == 200:
                if json.loads(bytes(held.body))["SecretString"] != asked["SecretString"]:
                    return _aws_error("ResourceExistsException")
                held.headers["content-type"] = "application/x-amz-json-1.1"
                return held
        answer = await self.ask(session, request, body, {})
        # moto calls everything a web page.
        answer.headers["content-type"] = "application/x-amz-json-1.1"
        if action == "ListSecretVersionIds" and answer.status_code == 500:
            return _aws_error("ResourceNotFoundException")
        if action == "ListSecretVersionIds" and self.page:
            return _paged(answer, json.loads(body).get("NextToken", "0"), self.page)
        return answer


def _aws_error(kind: str) -> Response:
    error = {"__type": kind, "message": "as the relay knows AWS"}
    return Response(json.dumps(error), 400, media_type="application/x-amz-json-1.1")


def _paged(answer: Response, begin: str, size: int) -> Response:
    document = json.loads(bytes(answer.body))
    end = int(begin) + size
    more = {"NextToken": str(end)} if end < len(document["Versions"]) else {}
    page = document | {"Versions": document["Versions"][int(begin) : end]} | more
    return Response(json.dumps(page), 200, media_type="application/x-amz-json-1.1")


def _by_action(app: ASGIApp) -> ASGIApp:
    """Faults are aimed by path, and AWS has one path: here it is the action's name instead."""

    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            target = dict(scope["headers"]).get(b"x-amz-target", b"").decode()
            scope = {**scope, "path": f"/{target.rpartition('.')[2]}"}
        await app(scope, receive, send)

    return named


class AwsBench(Bench):
    name, write, staging = "aws", "POST /(Put|Update)", "POST /PutSecretValue"

    def __init__(self, relay: "_AwsRelay", address: str, moto: str) -> None:
        self.faults, self.actions, self._relay = relay.faults, relay.actions, relay
        self._address = address
        self.admin = aws_admin(moto)

    def throttle(self, action: str, times: int) -> None:
        self._relay.throttled[action] = times

    def page(self, size: int) -> None:
        self._relay.page = size

    def client(self) -> AwsSecretsClient:
        block = AwsSecrets(
            region=REGION, endpoint=self._address, access_key_id="k", secret_access_key="s"
        )
        client = block.get_client()
        client._sleep = hurry
        return client

    async def seed(self, path: str) -> None:
        text = json.dumps({"client_secret": OLD, "secret_id": "s1", "owner": "team"})
        await asyncio.to_thread(self.admin.create_secret, Name=path, SecretString=text)

    async def consumed(self, path: str) -> str:
        read = self.admin.get_secret_value
        # The default, which moto forgets after a label was moved.
        answer = await asyncio.to_thread(read, SecretId=path, VersionStage="AWSCURRENT")
        return str(json.loads(answer["SecretString"])["client_secret"])

    async def overwrite(self, path: str, secret_id: str, value: str) -> None:
        text = json.dumps({"client_secret": value, "secret_id": secret_id})
        await asyncio.to_thread(self.admin.put_secret_value, SecretId=path, SecretString=text)


def aws_admin(address: str, key: str = "k", secret: str = "s") -> Any:
    """AWS's own SDK, as a person's tool."""
    return Session().create_client(
        "secretsmanager",
        region_name=REGION,
        endpoint_url=address,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )


@contextmanager
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@asynccontextmanager
async def aws_bench(address: str) -> AsyncIterator[AwsBench]:
    relay = _AwsRelay(address)
    async with Loopback(_by_action(relay.app)) as server:
        yield AwsBench(relay, server.url, address)


# Azure.


class AzureBench(Bench):
    name, write, staging = "azure", "PUT /secrets/", "PUT /secrets/.*--pending"

    def __init__(self, vault: AzureVault, address: str) -> None:
        self.vault, self.faults = vault, vault.faults
        self._address = address

    def client(self, **changed: Any) -> AzureKeyVaultClient:
        given: dict[str, Any] = {
            "address": self._address,
            "login_address": self._address,
            "tenant_id": "contoso",
            "client_id": "recovery",
            "client_secret": "app-secret",
        }
        client = AzureKeyVault(**given | changed).get_client()
        client._sleep = asyncio.sleep if self.patient else self._pass_time
        return client

    async def _pass_time(self, seconds: float) -> None:
        """The vault's clock moves on instead of ours."""
        self.vault.ahead += timedelta(seconds=seconds)

    async def seed(self, path: str) -> None:
        await self.overwrite(path, "s1", OLD)

    async def consumed(self, path: str) -> str:
        latest = self.vault.latest(path.replace("/", "--"))
        assert latest.enabled, "a consumer would get a 403"
        return latest.value

    async def overwrite(self, path: str, secret_id: str, value: str) -> None:
        tags = {"secret_id": secret_id, "owner": "team"}
        # Key Vault tells times in seconds: of two versions of one second nobody knows the order.
        await asyncio.sleep(1.05 if secret_id != "s1" else 0.0)
        self.vault._set(path.replace("/", "--"), {"value": value, "tags": tags})


IDENTITIES = (
    Identity("recovery", secret="app-secret", assertion="projected-token"),
    Identity("reader", secret="reader-secret", rights=frozenset({"get", "list"})),
    Identity("machine", managed=True),
)


@asynccontextmanager
async def azure_bench() -> AsyncIterator[AzureBench]:
    vault = AzureVault(IDENTITIES, page=7)
    async with Loopback(vault.app, dated=False) as server:
        vault.address = server.url
        yield AzureBench(vault, server.url)


GIVEN = bool(os.environ.get("VAULT_ADDR") and os.environ.get("VAULT_TOKEN"))
"""A Vault of somebody's is there to run the contract against."""
STORES = ("openbao", *(("given",) if GIVEN else ()), "aws", "azure")
