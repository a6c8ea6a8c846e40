"""The servers of the contract tests, one of each kind for the session."""

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from typing import Any

import hvac
import pytest
from hvac.exceptions import VaultError

from tests.contracts.benches import (
    STORES,
    AwsBench,
    AzureBench,
    Bench,
    aws_bench,
    azure_bench,
    moto,
    vault_bench,
)


@pytest.fixture(scope="session")
def moto_address() -> Iterator[str]:
    with moto() as address:
        yield address


@pytest.fixture
async def aws(moto_address: str) -> AsyncIterator[AwsBench]:
    async with aws_bench(moto_address) as bench:
        yield bench


@pytest.fixture
async def azure() -> AsyncIterator[AzureBench]:
    async with azure_bench() as bench:
        yield bench


@pytest.fixture(params=STORES)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    match request.param:
        case "aws":
            async with aws_bench(request.getfixturevalue("moto_address")) as made:
                yield made
        case "azure":
            async with azure_bench() as found:
                yield found
        case kind:
            address, token = _vault(kind, request)
            prefix = f"recovery-promise-{secrets.token_hex(4)}"
            admin = hvac.Client(url=address, token=token, timeout=10)
            with closing(admin.adapter):
                async with vault_bench(address, token, admin, prefix) as vault:
                    yield vault
                _tidy(admin, prefix)


def _vault(kind: str, request: pytest.FixtureRequest) -> tuple[str, str]:
    if kind == "given":
        return os.environ["VAULT_ADDR"], os.environ["VAULT_TOKEN"]
    bao = request.getfixturevalue("bao")
    return bao.address, bao.server.root_token


def _tidy(admin: Any, prefix: str) -> None:
    kv = admin.secrets.kv.v2
    with suppress(VaultError):
        for name in kv.list_secrets(prefix)["data"]["keys"]:
            kv.delete_metadata_and_all_versions(f"{prefix}/{name}")
