"""The OAuth client against the rehearsal platform's own RFC 6749, 7009 and 7662 endpoints."""

import base64
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import unquote_plus

import pytest
from pydantic import SecretStr

from clients.http import Wire
from clients.oauth import OAuthClient
from recovery.accounts import Verdict
from recovery.errors import Incomplete, Misconfigured, Refused, Unknown, Unverified
from rehearsal.world.clock import WorldClock
from rehearsal.world.credentials import Credential, CredentialKind
from rehearsal.world.faults import CloseAfter, InvalidJson, Status
from rehearsal.world.platform_app import platform_app
from rehearsal.world.platform_state import PlatformState
from rehearsal.world.population import Population, populate
from rehearsal.world.registry import ClientSeed
from rehearsal.world.serving import Loopback


@dataclass
class World:
    population: Population
    state: PlatformState
    oauth: OAuthClient
    pauses: list[float]

    def stored(self, kind: CredentialKind) -> tuple[ClientSeed, Credential]:
        """A credential that belongs to one of the confidential clients."""
        for credential in self.population.credentials:
            client = self.population.clients.get(credential.client_id or "")
            if credential.kind is kind and client is not None:
                return client, credential
        raise LookupError(kind)

    def other_than(self, client: ClientSeed) -> ClientSeed:
        return next(c for c in self.population.clients.values() if c.id != client.id)


def secret_of(client: ClientSeed) -> SecretStr:
    return SecretStr(client.secret)


@pytest.fixture(scope="module")
def population() -> Population:
    return populate(5, accounts=60, members=10, clients=6)


@pytest.fixture
async def world(population: Population) -> AsyncIterator[World]:
    state = PlatformState(population, WorldClock(), latency=timedelta(0))
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async with Loopback(platform_app(state)) as server:
        wire = Wire("the OAuth server", server.url, jitter=random.Random(2), sleep=sleep)
        async with OAuthClient(wire) as oauth:
            yield World(population, state, oauth, pauses)


async def test_a_client_gets_a_token_that_the_api_takes(world: World) -> None:
    client = next(iter(world.population.clients.values()))
    token = await world.oauth.client_token(client.id, secret_of(client))
    assert await world.oauth.me(token) == 200
    assert await world.oauth.me(SecretStr("at_nobody")) == 401


async def test_secrets_with_awkward_signs_are_encoded(world: World) -> None:
    """RFC 6749 2.3.1; without the encoding the platform refuses about every such secret."""
    awkward = [c for c in world.population.clients.values() if set(c.secret) & set("+/%: &=")]
    assert awkward
    for client in awkward:
        await world.oauth.client_token(client.id, secret_of(client))


def test_raw_credentials_where_a_server_wants_them() -> None:
    wire = Wire("x", "https://x.example")
    raw = OAuthClient(wire, form_encode_credentials=False)._basic("a", "p+/%:ä")
    assert base64.b64decode(raw.split()[1]).decode() == "a:p+/%:ä"
    encoded = OAuthClient(wire)._basic("a b", "p+/%:ä")
    user, _, secret = base64.b64decode(encoded.split()[1]).decode().partition(":")
    assert (unquote_plus(user), unquote_plus(secret)) == ("a b", "p+/%:ä")


async def test_a_wrong_secret_is_a_finding_about_that_secret(world: World) -> None:
    client, credential = world.stored(CredentialKind.REFRESH_TOKEN)
    wrong = SecretStr("n0t-the-secret")
    with pytest.raises(Unverified) as caught:
        await world.oauth.client_token(client.id, wrong)
    assert caught.value.subject == client.id
    assert "n0t-the-secret" not in str(caught.value)
    with pytest.raises(Unverified):
        await world.oauth.revoke(client.id, wrong, SecretStr(credential.value))
    with pytest.raises(Unverified):
        await world.oauth.active(client.id, wrong, SecretStr(credential.value))
    assert world.state.live(credential)


async def test_a_stored_refresh_token_dies_and_stays_dead(world: World) -> None:
    client, credential = world.stored(CredentialKind.REFRESH_TOKEN)
    secret, token = secret_of(client), SecretStr(credential.value)
    assert await world.oauth.active(client.id, secret, token)
    assert await world.oauth.revoke(client.id, secret, token) is Verdict.DONE
    assert not await world.oauth.active(client.id, secret, token)
    assert not world.state.live(credential)
    # 200 for a dead and for an unknown token alike: RFC 7009 section 2.2.
    assert await world.oauth.revoke(client.id, secret, token) is Verdict.DONE
    unknown = SecretStr("rt_unknown")
    assert await world.oauth.revoke(client.id, secret, unknown) is Verdict.DONE


async def test_an_access_token_dies_under_either_hint(world: World) -> None:
    client, credential = world.stored(CredentialKind.ACCESS_TOKEN)
    token = SecretStr(credential.value)
    assert await world.oauth.me(token) == 200
    await world.oauth.revoke(client.id, secret_of(client), token, "refresh_token")
    assert await world.oauth.me(token) == 401


async def test_another_clients_token_is_refused_and_lives_on(world: World) -> None:
    client, credential = world.stored(CredentialKind.REFRESH_TOKEN)
    other = world.other_than(client)
    token = SecretStr(credential.value)
    with pytest.raises(Refused) as caught:
        await world.oauth.revoke(other.id, secret_of(other), token)
    assert caught.value.code == "invalid_request"
    assert world.state.live(credential)
    assert not await world.oauth.active(other.id, secret_of(other), token)
    introspector = world.population.introspector
    assert await world.oauth.active(introspector.id, secret_of(introspector), token)


async def test_503_says_that_the_token_may_live_and_is_asked_again(world: World) -> None:
    """RFC 7009 section 2.2.1."""
    client, credential = world.stored(CredentialKind.REFRESH_TOKEN)
    world.state.faults.inject(Status(503, retry_after="4"), "oauth/revoke")
    await world.oauth.revoke(client.id, secret_of(client), SecretStr(credential.value))
    assert not world.state.live(credential)
    assert len(world.pauses) == 1
    assert world.pauses[0] >= 4


async def test_a_lost_answer_is_asked_again_and_in_the_end_unknown(world: World) -> None:
    client, credential = world.stored(CredentialKind.REFRESH_TOKEN)
    token = SecretStr(credential.value)
    world.state.faults.inject(CloseAfter(), "oauth/revoke", times=None)
    with pytest.raises(Unknown):
        await world.oauth.revoke(client.id, secret_of(client), token)
    world.state.faults.clear()
    assert not await world.oauth.active(client.id, secret_of(client), token)


async def test_answers_that_cannot_be_read(world: World) -> None:
    client = next(iter(world.population.clients.values()))
    world.state.faults.inject(InvalidJson(), "oauth/token")
    with pytest.raises(Incomplete):
        await world.oauth.client_token(client.id, secret_of(client))


async def test_a_gateway_that_wants_a_login_is_our_mistake(world: World) -> None:
    client = next(iter(world.population.clients.values()))
    world.state.faults.inject(Status(401), "oauth/token")
    with pytest.raises(Misconfigured):
        await world.oauth.client_token(client.id, secret_of(client))
