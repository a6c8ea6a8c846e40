"""Azure Key Vault beyond the shared promise: the server is driven by Microsoft's own SDK first, so
that a misunderstanding can't cancel itself out; then what consumers read at every moment, soft
delete, disabled versions, identities."""

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.pipeline.transport import RequestsTransport
from azure.keyvault.secrets import SecretClient
from pydantic import SecretStr, ValidationError

from blocks.azure import AzureKeyVault
from clients.azure_versions import MAX_TAGS, Version, chain
from recovery.errors import Conflict, Misconfigured, NotFound, Refused
from recovery.rotate import SecretLabels
from rehearsal.world.faults import CloseAfter, CloseBefore
from tests.contracts.benches import OLD, AzureBench


class _Plain(RequestsTransport):
    """The SDK refuses anything but https; the loopback server speaks http."""

    def send(self, request: Any, **kwargs: Any) -> Any:
        told = request.url
        request.url = told.replace("https://", "http://", 1)
        try:
            return super().send(request, **kwargs)
        finally:
            request.url = told


class _Credential:
    """Gets its token from the same server as our client does."""

    def __init__(self, bench: AzureBench) -> None:
        self._bench = bench

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        assert scopes == ("https://vault.azure.net/.default",), "told by the 401's challenge"
        form = {
            "grant_type": "client_credentials",
            "client_id": "recovery",
            "client_secret": "app-secret",
            "scope": scopes[0],
        }
        reply = self._bench.vault._token_of_application("contoso", form)
        document = reply.body
        assert isinstance(document, dict)
        return AccessToken(document["access_token"], int(time.time()) + document["expires_in"])


@pytest.fixture
def sdk(azure: AzureBench) -> Iterator[SecretClient]:
    # As the service itself: ids and further pages begin with https.
    url = azure.vault.address = azure.vault.address.replace("http://", "https://")
    with SecretClient(
        url,
        _Credential(azure),
        transport=_Plain(),
        verify_challenge_resource=False,
        retry_total=0,
    ) as client:
        yield client


@pytest.fixture
async def path(azure: AzureBench) -> str:
    path = azure.path()
    await azure.seed(path)
    return path


def name_of(path: str) -> str:
    return path.replace("/", "--")


# The server, by Microsoft's SDK.


async def test_the_server_is_what_the_vendors_sdk_expects(
    azure: AzureBench, sdk: SecretClient
) -> None:
    def drive() -> None:
        first = sdk.set_secret("one", "a", tags={"k": "v"}, content_type="text/plain")
        assert (first.value, first.name) == ("a", "one")
        assert first.properties.tags == {"k": "v"}
        assert first.properties.enabled is True
        assert first.properties.content_type == "text/plain"
        assert first.properties.recovery_level == "Recoverable+Purgeable"
        second = sdk.set_secret("one", "b")
        assert second.properties.version != first.properties.version
        assert second.properties.created_on is not None
        assert second.properties.created_on.microsecond == 0, "whole seconds"
        assert sdk.get_secret("one").value == "b"
        assert sdk.get_secret("ONE").value == "b", "names know no case"
        assert sdk.get_secret("one", first.properties.version).value == "a"
        for n in range(20):
            sdk.set_secret("one", str(n))
        listed = list(sdk.list_properties_of_secret_versions("one"))
        assert len(listed) == 22, "in pages"
        assert {p.tags["k"] for p in listed if p.tags} == {"v"}
        assert list(sdk.list_properties_of_secret_versions("never")) == []
        newest = sdk.get_secret("one").properties
        sdk.update_secret_properties("one", newest.version, enabled=False)
        with pytest.raises(HttpResponseError) as caught:
            sdk.get_secret("one")
        assert caught.value.status_code == 403
        assert caught.value.model.error.inner_error.code == "SecretDisabled"
        sdk.update_secret_properties("one", newest.version, enabled=True, tags={"n": "m"})
        assert sdk.get_secret("one").properties.tags == {"n": "m"}
        with pytest.raises(ResourceNotFoundError) as caught:
            sdk.get_secret("never")
        assert "SecretNotFound" in str(caught.value)
        deleted = sdk.begin_delete_secret("one", _polling_interval=0).result()
        assert deleted.deleted_date is not None
        assert deleted.scheduled_purge_date is not None
        with pytest.raises(ResourceNotFoundError):
            sdk.get_secret("one")
        with pytest.raises(HttpResponseError) as caught:
            sdk.set_secret("one", "again")
        assert caught.value.status_code == 409
        assert "ObjectIsDeletedButRecoverable" in str(caught.value.response.text())
        sdk.begin_recover_deleted_secret("one", _polling_interval=0).wait()
        assert sdk.get_secret("one").properties.tags == {"n": "m"}
        sdk.begin_delete_secret("one", _polling_interval=0).wait()
        sdk.purge_deleted_secret("one")
        sdk.set_secret("one", "begun anew")
        assert len(list(sdk.list_properties_of_secret_versions("one"))) == 1

    await asyncio.to_thread(drive)


async def test_our_client_and_the_vendors_sdk_see_the_same(
    azure: AzureBench, sdk: SecretClient, path: str
) -> None:
    async with azure.client() as store:
        cas = (await store.observe(path)).version
        cas = await store.stage_pending(path, "s2", SecretStr("new"), cas=cas)

        def staged() -> None:
            now = sdk.get_secret(name_of(path))
            assert now.value == OLD
            assert now.properties.version == cas
            tags = now.properties.tags or {}
            assert (tags["secret_id"], tags["pending_id"], tags["owner"]) == ("s1", "s2", "team")
            pending = sdk.get_secret(name_of(path) + "--pending", tags["pending_version"])
            assert pending.value == "new"

        await asyncio.to_thread(staged)
        cas = await store.promote(path, cas=cas)

        def promoted() -> None:
            now = sdk.get_secret(name_of(path))
            assert now.value == "new"
            tags = now.properties.tags or {}
            assert (tags["secret_id"], tags["previous_id"]) == ("s2", "s1")
            assert "pending_id" not in tags
            old = sdk.get_secret(name_of(path), tags["previous_version"])
            assert old.value == OLD
            with pytest.raises(HttpResponseError, match="Forbidden"):
                sdk.get_secret(name_of(path) + "--pending")

        await asyncio.to_thread(promoted)


async def test_what_a_person_writes_with_the_sdk_counts(
    azure: AzureBench, sdk: SecretClient, path: str
) -> None:
    async with azure.client() as store:
        cas = (await store.observe(path)).version
        cas = await store.stage_pending(path, "s2", SecretStr("new"), cas=cas)
        tags = {"secret_id": "s9"}
        azure.vault.ahead += _seconds(1)
        await asyncio.to_thread(sdk.set_secret, name_of(path), "by hand", tags=tags)
        found = await store.observe(path)
        assert found == SecretLabels(found.version, "s9", None, None)
        with pytest.raises(Conflict):
            await store.promote(path, cas=cas)
        assert await azure.consumed(path) == "by hand"


def _seconds(number: int) -> timedelta:
    return timedelta(seconds=number)


# Which versions count.


def made(id_: str, created: int, base: str = "", **tags: str) -> Version:
    return Version(id_, created, True, tags | ({"recovery-base": base} if base else {}))


@pytest.mark.parametrize(
    ("versions", "counted"),
    [
        ([], ""),
        ([made("a", 1)], "a"),
        ([made("a", 1), made("b", 2, "a"), made("c", 3, "b")], "abc"),
        # Two upon one: the first written, and within one second the smaller id.
        ([made("a", 1), made("c", 2, "a"), made("b", 3, "a")], "ac"),
        ([made("a", 1), made("c", 2, "a"), made("b", 2, "a")], "ab"),
        # What stands upon a loser does not count either.
        ([made("a", 1), made("b", 2, "a"), made("x", 3, "a"), made("y", 4, "x")], "ab"),
        # Somebody wrote by hand: everything begins anew there, whatever came to the old end later.
        ([made("a", 1), made("b", 2, "a"), made("h", 3), made("c", 4, "b")], "h"),
        ([made("a", 1), made("h", 3), made("c", 4, "h"), made("i", 5)], "i"),
        # A base that is gone with a purge or a restore.
        ([made("b", 2, "gone")], "b"),
    ],
)
def test_which_versions_count(versions: list[Version], counted: str) -> None:
    assert "".join(v.id for v in chain(versions)) == counted
    assert "".join(v.id for v in chain(reversed(versions))) == counted


# Traps of the service.


async def test_consumers_read_a_value_at_every_moment(azure: AzureBench, path: str) -> None:
    """They name no version: a pending one, or a disabled newest one, would reach them at once."""
    values: list[str] = []
    plain_set, plain_update = azure.vault._set, azure.vault._update

    def watched_set(name: str, document: Any) -> Any:
        reply = plain_set(name, document)
        values.append(azure.vault.latest(name_of(path)).value)
        return reply

    def watched_update(version: Any, document: Any) -> Any:
        reply = plain_update(version, document)
        assert azure.vault.latest(name_of(path)).enabled
        return reply

    azure.vault._set, azure.vault._update = watched_set, watched_update  # type: ignore[method-assign]
    async with azure.client() as store:
        cas = (await store.observe(path)).version
        for n in range(2):
            cas = await store.stage_pending(path, f"s{n}", SecretStr(f"v{n}"), cas=cas)
            cas = await store.drop_pending(path, cas=cas)
            cas = await store.stage_pending(path, f"t{n}", SecretStr(f"w{n}"), cas=cas)
            cas = await store.promote(path, cas=cas)
            cas = await store.roll_back(path, cas=cas)
    assert set(values) == {OLD, "w0", "w1"}
    assert values[-1] == OLD
    assert {"v0", "v1"}.isdisjoint(values), "what was only staged reached nobody"


async def test_a_loser_shows_current_to_consumers_again(azure: AzureBench, path: str) -> None:
    """It wrote after the winner, so that its version is the newest, with the wrong value."""
    async with azure.client() as winner, azure.client() as loser:
        cas = (await winner.observe(path)).version
        cas = await winner.stage_pending(path, "s2", SecretStr("new"), cas=cas)
        head = await loser._unchanged(path, cas, "look")

        async def as_it_was(*_: object) -> Version:
            return head

        loser._unchanged = as_it_was  # type: ignore[method-assign]
        await winner.promote(path, cas=cas)
        assert await azure.consumed(path) == "new"
        with pytest.raises(Conflict):
            await loser.drop_pending(path, cas=cas)
        assert await azure.consumed(path) == "new"
        found = await winner.observe(path)
        assert found == SecretLabels(found.version, "s2", None, "s1")
        await winner.roll_back(path, cas=found.version)
        assert await azure.consumed(path) == OLD


async def test_a_lost_answer_makes_no_second_version(azure: AzureBench, path: str) -> None:
    async with azure.client() as store:
        cas = (await store.observe(path)).version
        before = len(azure.vault.versions(name_of(path)))
        for fault in (CloseAfter(), CloseBefore()):
            azure.faults.inject(fault, f"PUT /secrets/{name_of(path)}--pending$", times=1)
            azure.faults.inject(fault, f"PUT /secrets/{name_of(path)}$", times=1)
            cas = await store.stage_pending(path, "s2", SecretStr("new"), cas=cas)
            cas = await store.drop_pending(path, cas=cas)
        assert len(azure.vault.versions(name_of(path))) == before + 4
        assert len(azure.vault.versions(f"{name_of(path)}--pending")) == 2


async def test_a_secret_that_was_deleted_and_is_kept(
    azure: AzureBench, sdk: SecretClient, path: str
) -> None:
    def delete(name: str) -> None:
        sdk.begin_delete_secret(name, _polling_interval=0).wait()

    async with azure.client() as store:
        cas = (await store.observe(path)).version
        cas = await store.stage_pending(path, "s2", SecretStr("new"), cas=cas)
        await asyncio.to_thread(delete, f"{name_of(path)}--pending")
        with pytest.raises(NotFound):
            await store.pending(path)
        with pytest.raises(NotFound):
            await store.promote(path, cas=cas)
        assert await azure.consumed(path) == OLD
        cas = await store.drop_pending(path, cas=cas)
        with pytest.raises(Misconfigured, match="Recover or purge"):
            await store.stage_pending(path, "s3", SecretStr("newer"), cas=cas)
        await asyncio.to_thread(delete, name_of(path))
        assert (await store.observe(path)).version == ""
        with pytest.raises(NotFound):
            await store.current(path)


async def test_a_version_that_somebody_disabled(
    azure: AzureBench, sdk: SecretClient, path: str
) -> None:
    async with azure.client() as store:
        cas = (await store.observe(path)).version
        cas = await store.stage_pending(path, "s2", SecretStr("new"), cas=cas)
        old = cas
        cas = await store.promote(path, cas=cas)
        disable = sdk.update_secret_properties
        await asyncio.to_thread(disable, name_of(path), str(old), enabled=False)
        with pytest.raises(Refused) as caught:
            await store.roll_back(path, cas=cas)
        assert caught.value.code == "disabled"
        assert await azure.consumed(path) == "new", "nothing was changed"
        await asyncio.to_thread(disable, name_of(path), str(old), enabled=True)
        await store.roll_back(path, cas=cas)
        assert await azure.consumed(path) == OLD


async def test_names(azure: AzureBench) -> None:
    async with azure.client() as store:
        for wrong in ("apps/a_b", "apps/a.b", "apps/a--b", "apps/-a", "apps/" + "a" * 120):
            with pytest.raises(Misconfigured, match="Name a secret"):
                await store.observe(wrong)
        await azure.seed("apps/App-X")
        cas = (await store.observe("apps/App-X")).version
        await store.stage_pending("apps/App-X", "s2", SecretStr("new"), cas=cas)
        with pytest.raises(Misconfigured, match="know no case"):
            await store.observe("apps/app-x")


async def test_a_secret_with_too_many_tags_of_others(azure: AzureBench, path: str) -> None:
    tags = {f"k{n}": "v" for n in range(MAX_TAGS - 2)} | {"secret_id": "s1"}
    azure.vault.ahead += _seconds(1)
    azure.vault._set(name_of(path), {"value": OLD, "tags": tags})
    async with azure.client() as store:
        cas = (await store.observe(path)).version
        with pytest.raises(Refused) as caught:
            await store.stage_pending(path, "s2", SecretStr("new"), cas=cas)
        assert caught.value.code == "too_many_tags"
        assert (await store.observe(path)).version == cas


# Identities.


async def test_the_identities(azure: AzureBench, path: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("projected-token\n")
    none: dict[str, Any] = {"client_secret": None}
    ways: list[dict[str, Any]] = [
        {},
        none | {"token_file": str(file)},
        none
        | {"managed_identity": True, "metadata_address": azure.vault.address, "client_id": None},
    ]
    for way in ways:
        async with azure.client(**way) as store:
            await store.check()
            assert (await store.current(path))[0] == "s1"
    issued = len(azure.vault.issued)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"client_secret": "wrong"}, "client secret"),
        ({"tenant_id": "fabrikam"}, "client secret"),
        (none | {"token_file": str(tmp_path / "none")}, "readable file"),
        (none | {"managed_identity": True, "metadata_address": azure.vault.address}, "identity"),
    ]
    for way, match in wrong:
        async with azure.client(**way) as store:
            with pytest.raises(Misconfigured, match=match):
                await store.check()
    assert len(azure.vault.issued) == issued


async def test_a_reader_can_not_write(azure: AzureBench, path: str) -> None:
    async with azure.client(client_id="reader", client_secret="reader-secret") as store:
        await store.check()
        cas = (await store.observe(path)).version
        with pytest.raises(Misconfigured, match="ForbiddenByRbac"):
            await store.stage_pending(path, "s2", SecretStr("new"), cas=cas)
    assert len(azure.vault.versions(name_of(path))) == 1


async def test_a_token_is_fetched_again_before_it_ends_and_after_it_was_refused(
    azure: AzureBench, path: str
) -> None:
    azure.vault.token_lifetime = _seconds(301)
    async with azure.client() as store:
        await store.check()
        await asyncio.gather(*(store.observe(path) for _ in range(10)))
        assert len(azure.vault.issued) == 1
        await asyncio.sleep(1.2)
        azure.vault.token_lifetime = _seconds(3600)
        await store.observe(path)
        assert len(azure.vault.issued) == 2
        azure.vault.expire_tokens()
        with pytest.raises(Misconfigured, match="access token"):
            await store.observe(path)
        assert len(azure.vault.issued) == 2, "a fresh one is refused for a reason"
        held = store._tokens._token
        assert held is not None
        held.taken_at -= 120
        await store.observe(path)
        assert len(azure.vault.issued) == 3


async def test_a_next_page_at_another_host_gets_no_token(azure: AzureBench, path: str) -> None:
    for _ in range(10):
        await azure.overwrite(path, "s1", OLD)
    azure.vault.address = "http://attacker.example"
    async with azure.client() as store:
        assert (await store.observe(path)).current_id == "s1"


def test_what_can_not_work_is_refused_at_the_door() -> None:
    address = "https://recovery.vault.azure.net"
    for wrong in (
        {},
        {"client_secret": "s"},
        {"client_secret": "s", "tenant_id": "t"},
        {"client_secret": "s", "token_file": "f", "tenant_id": "t", "client_id": "c"},
        {"managed_identity": True, "client_secret": "s", "tenant_id": "t", "client_id": "c"},
    ):
        with pytest.raises(ValidationError):
            AzureKeyVault(address=address, **wrong)
