"""Changing the key that signs links: a real OpenBao, a real portal, links of before and after."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from clients.http import Wire
from clients.vault import VaultClient
from flows.signing_key import publish_to
from recovery.enroll import SigningKey, mint, new_signing_key, read_signing_key
from recovery.errors import Conflict, Misconfigured, Refused
from recovery.keyring import KEPT, read_keyring
from rehearsal.world.population import populate
from tasks.signing_key import KeyChange
from tests.portal.conftest import clean
from tests.portal.world import PortalWorld

PATH = "recovery/enrollment-signing-key"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
POPULATION = populate(7, accounts=40, members=5)
PEOPLE = clean(POPULATION)


class Keys:
    """A portal that reads its keys from a file, and the Vault that has the private ones."""

    def __init__(self, bao: Any, world: PortalWorld, vault: VaultClient, wire: Wire) -> None:
        self.bao, self.world, self.vault, self.wire = bao, world, vault, wire
        self.said: list[str] = []

    @property
    def file(self) -> Path:
        return Path(self.world.overrides["jwks_file"])

    def change(self, **differing: Any) -> KeyChange:
        async def sleep(seconds: float) -> None:
            self.world.clock.advance(timedelta(seconds=seconds))

        given: dict[str, Any] = {
            "vault": self.vault,
            "path": PATH,
            "portal": self.wire,
            "publish": lambda document: publish_to(self.file, document),
            "clock": self.world.clock.now,
            "say": self.said.append,
            "patience": timedelta(seconds=6),
            "sleep": sleep,
        }
        return KeyChange(**(given | differing))

    def signing(self) -> SigningKey:
        """As the task that composes messages reads it."""
        stored = self.bao.contents.read(PATH)
        return read_signing_key(stored["kid"], stored["private_pem"])

    def link(self, account_id: str) -> str:
        token = mint(self.world.issue(account_id), self.signing(), self.world.parties)
        return f"{self.world.url}/enroll#t={token}"

    async def opens(self, link: str) -> bool:
        return (await self.world.begin(self.world.browser(), link)).path == "/enroll/code"

    async def served(self) -> list[str]:
        async with self.world.http.get(f"{self.world.url}/.well-known/jwks.json") as answer:
            assert answer.status == 200
            assert answer.headers["Cache-Control"] == "public, max-age=300"
            document = json.loads(await answer.read())
        for row in document["keys"]:
            assert set(row) == {"kty", "crv", "x", "kid", "use", "alg"}, "nothing private"
        # The key of banners and mails stands beside those of links.
        return [row["kid"] for row in document["keys"] if row["kid"] != "n1"]


@pytest.fixture
async def keys(bao: Any, tmp_path: Path) -> AsyncIterator[Keys]:
    _, pem = new_signing_key("first")
    bao.contents.put(PATH, {"kid": "first", "private_pem": pem})
    file = tmp_path / "jwks.json"
    login = bao.contents.issue("recovery-signing-key")
    async with AsyncExitStack() as stack:
        world = PortalWorld(POPULATION, tmp_path, {"jwks": None, "jwks_file": str(file)})
        publish_to(file, read_keyring({"kid": "first", "private_pem": pem}).document(LONG_AGO))
        await stack.enter_async_context(world)
        world.contain(PEOPLE[:4])
        vault = await stack.enter_async_context(
            VaultClient(bao.address, role_id=login.role_id, secret_id=SecretStr(login.secret_id))
        )
        wire = await stack.enter_async_context(Wire("the portal", world.url, attempts=1))
        yield Keys(bao, world, vault, wire)


async def test_links_of_before_and_after_work(keys: Keys) -> None:
    assert await keys.served() == ["first"]
    before = keys.link(PEOPLE[0])
    ring = await keys.change().run()
    new = ring.current.kid
    assert new != "first"
    assert keys.signing().kid == new
    assert await keys.served() == [new, "first"], "picked up without a restart"

    # The wait for caches took five minutes of this link's fifteen.
    assert await keys.opens(before), "a link that was sent before works to its end"
    assert await keys.opens(keys.link(PEOPLE[1]))
    stored = keys.bao.contents.read(PATH)
    assert set(stored) == {"kid", "private_pem", "retired"}, "no old private key is kept"

    old = read_signing_key("first", new_signing_key("first")[1])
    assert not await keys.opens(
        f"{keys.world.url}/enroll#t={mint(keys.world.issue(PEOPLE[2]), old, keys.world.parties)}"
    )
    keys.world.clock.advance(KEPT)
    assert await keys.served() == [new], "it ends by itself"
    again = await keys.change().run()
    assert [one.jwk["kid"] for one in again.retired] == [new]
    assert await keys.served() == [again.current.kid, new]


async def test_nothing_signs_with_a_key_that_the_portal_does_not_serve(
    keys: Keys, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    lost = keys.change(publish=lambda document: publish_to(elsewhere, document))
    with pytest.raises(Refused, match="Nothing signs with it"):
        await lost.run()
    assert keys.signing().kid == "first"
    assert await keys.opens(keys.link(PEOPLE[0]))
    prepared = json.loads(elsewhere.read_text())["keys"][1]["kid"]

    # Started again with the file in its place, it goes on with the same key.
    ring = await keys.change().run()
    assert ring.current.kid == prepared
    assert any("made before" in words for words in keys.said)
    assert await keys.opens(keys.link(PEOPLE[1]))


async def test_of_two_who_change_it_at_once_one_is_told(keys: Keys) -> None:
    async def sleep_while_another_writes(_: float) -> None:
        stored = await keys.vault.get(PATH)
        plain = {name: value.get_secret_value() for name, value in stored.data.items()}
        await keys.vault.put(PATH, plain, cas=stored.version)

    with pytest.raises(Conflict):
        await keys.change(sleep=sleep_while_another_writes).run()
    assert keys.signing().kid == "first"
    assert (await keys.change().run()).current.kid == keys.signing().kid


async def test_a_stolen_key_is_accepted_no_longer(keys: Keys) -> None:
    link = keys.link(PEOPLE[0])
    ring = await keys.change().run(kept=timedelta(0))
    assert await keys.served() == [ring.current.kid]
    assert not await keys.opens(link)
    assert await keys.opens(keys.link(PEOPLE[0]))


async def test_a_file_that_became_unusable_changes_nothing(keys: Keys) -> None:
    _, pem = new_signing_key("second")
    private = {**read_keyring({"kid": "s", "private_pem": pem}).document(LONG_AGO)["keys"][0]}
    for spoiled in ("", "{", "[]", '{"keys": []}', json.dumps({"keys": [{**private, "d": "AA"}]})):
        keys.file.write_text(spoiled)
        assert await keys.served() == ["first"]
        assert await keys.opens(keys.link(PEOPLE[0]))
    keys.file.unlink()
    assert await keys.served() == ["first"]
    await keys.change().show()
    assert await keys.served() == ["first"]


async def test_who_composes_messages_cannot_put_a_key_in_place(keys: Keys) -> None:
    login = keys.bao.contents.issue("recovery-flows")
    async with VaultClient(
        keys.bao.address, role_id=login.role_id, secret_id=SecretStr(login.secret_id)
    ) as vault:
        with pytest.raises(Misconfigured):
            await keys.change(vault=vault).run()
    assert keys.signing().kid == "first"


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"kid": "a"},
        {"kid": "a", "private_pem": "no key"},
        {"kid": "a", "private_pem": new_signing_key("a")[1], "retired": "{"},
        {"kid": "a", "private_pem": new_signing_key("a")[1], "next_kid": "b"},
    ],
)
def test_entries_that_are_not_ours(entry: dict[str, str]) -> None:
    with pytest.raises(Misconfigured) as refused:
        read_keyring(entry)
    assert "PRIVATE" not in str(refused.value)
