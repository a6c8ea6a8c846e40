"""Azure Key Vault as a store of client secrets: versions that form a chain, labels as their tags.

Key Vault REST API "Secrets", version 7.4, over our own wire. How labels and check-and-set come
about without the service knowing either: `clients.azure_versions`.
"""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from clients import azure_versions as versions
from clients.azure_answers import refusal
from clients.azure_tokens import AzureTokens
from clients.azure_versions import Version
from clients.http import OnWire, Wire
from recovery.app_clients import SecretLabels, StoreVersion
from recovery.errors import (
    Conflict,
    Incomplete,
    Misconfigured,
    NotFound,
    RecoveryError,
    Refused,
    Unknown,
)

API_VERSION = "7.4"
ATTEMPTS = 4
SETTLED_AFTER = timedelta(seconds=2)
"""Two writes within one second can't be told apart by time, so the answer to who was first waits
until the next whole second has passed too, for clocks of the service that differ a little."""
_PENDING_SUFFIX = "--pending"
_MAX_PAGES = 200
_MAX_LOOKS = 40
_SEGMENT = re.compile(r"[0-9A-Za-z]+(-[0-9A-Za-z]+)*")
_LONGEST = 127 - len(_PENDING_SUFFIX)
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Look:
    """All versions of one secret, and the service's time when it listed them."""

    all: tuple[Version, ...]
    at: float

    @property
    def counted(self) -> list[Version]:
        return versions.chain(self.all)


class AzureKeyVaultClient(OnWire):
    """A `SecretStore`. A change takes about two seconds: see SETTLED_AFTER."""

    def __init__(self, wire: Wire, tokens: AzureTokens, *, sleep: Sleep = asyncio.sleep) -> None:
        self._wire = wire
        self._tokens = tokens
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"AzureKeyVaultClient({self._wire.base_url!r})"

    async def aclose(self) -> None:
        await self._wire.aclose()
        await self._tokens.aclose()

    async def check(self) -> None:
        """Returns when Entra ID gives us a token and the vault lets us look at a secret."""
        await self._look("recovery-check", "Check Azure Key Vault")

    async def observe(self, path: str) -> SecretLabels:
        head = await self._head(path)
        return head.labels if head is not None else SecretLabels("")

    async def current(self, path: str) -> tuple[str, SecretStr]:
        head = await self._head(path)
        if head is None:
            raise _nothing(path, "CURRENT")
        return head.tags.get(versions.ID, ""), await self._value(_name(path), head.id, path)

    async def pending(self, path: str) -> tuple[str, SecretStr]:
        head = await self._head(path)
        if head is None or versions.PENDING_VERSION not in head.tags:
            raise _nothing(path, "PENDING")
        value = await self._value(_pending(path), head.tags[versions.PENDING_VERSION], path)
        return head.tags[versions.PENDING_ID], value

    async def stage_pending(
        self, path: str, secret_id: str, value: SecretStr, *, cas: StoreVersion
    ) -> str:
        """As promised by `SecretStore`. Refused `no_current` where nothing stands at the path: a
        secret here always has a value, and consumers would read it."""
        attempted = "Stage a new secret as PENDING"
        head = await self._unchanged(path, cas, attempted)
        versions.staged(head, secret_id, "")
        tags = {versions.PATH: path, versions.ID: secret_id}
        pending = await self._put(_pending(path), value, tags, path, attempted)
        current = await self._value(_name(path), head.id, path)
        try:
            changed = versions.staged(head, secret_id, pending.id)
            return await self._append(path, head, current, changed, attempted)
        except Unknown:
            raise
        except RecoveryError:
            await self._disable(_pending(path), pending.id, path)
            raise

    async def promote(self, path: str, *, cas: StoreVersion) -> str:
        attempted = "Promote PENDING to CURRENT"
        head = await self._unchanged(path, cas, attempted)
        changed = versions.promoted(head)
        pending = head.tags[versions.PENDING_VERSION]
        value = await self._value(_pending(path), pending, path)
        new = await self._append(path, head, value, changed, attempted)
        await self._disable(_pending(path), pending, path)
        return new

    async def roll_back(self, path: str, *, cas: StoreVersion) -> str:
        attempted = "Roll back to PREVIOUS"
        head = await self._unchanged(path, cas, attempted)
        changed = versions.rolled_back(head)
        value = await self._value(_name(path), head.tags[versions.PREVIOUS_VERSION], path)
        return await self._append(path, head, value, changed, attempted)

    async def drop_pending(self, path: str, *, cas: StoreVersion) -> str:
        attempted = "Drop PENDING"
        head = await self._unchanged(path, cas, attempted)
        changed = versions.without_pending(head)
        value = await self._value(_name(path), head.id, path)
        new = await self._append(path, head, value, changed, attempted)
        await self._disable(_pending(path), head.tags[versions.PENDING_VERSION], path)
        return new

    async def drop_previous(self, path: str, *, cas: StoreVersion) -> str:
        attempted = "Drop PREVIOUS"
        head = await self._unchanged(path, cas, attempted)
        changed = versions.without_previous(head)
        value = await self._value(_name(path), head.id, path)
        return await self._append(path, head, value, changed, attempted)

    async def _head(self, path: str) -> Version | None:
        counted = (await self._look(_name(path), "Look at a secret in Azure", path)).counted
        if not counted:
            return None
        head = counted[-1]
        told = head.tags.get(versions.PATH, path)
        if told != path:
            raise Misconfigured(
                "Look at a secret in Azure",
                subject=path,
                expected="a name of its own",
                got="one that another path has, since Key Vault's names know no case",
                advice="Give one of the two clients another path in rotate.vault_path.",
            )
        return head

    async def _unchanged(self, path: str, cas: StoreVersion, attempted: str) -> Version:
        head = await self._head(path)
        if (head.id if head is not None else "") != cas:
            raise _lost(path, attempted)
        if head is None:
            raise Refused(
                attempted,
                code="no_current",
                subject=path,
                expected="a secret under CURRENT",
                got="none",
                advice="Create the secret with the value that its consumers run on.",
            )
        return head

    async def _append(
        self,
        path: str,
        head: Version,
        value: SecretStr,
        tags: Mapping[str, str],
        attempted: str,
    ) -> str:
        """A new version upon `head`, once it is certain that it counts; Conflict if it doesn't."""
        tags = {**tags, versions.PATH: path, versions.BASE: head.id}
        if len(tags) >= versions.MAX_TAGS:
            raise Refused(
                attempted,
                code="too_many_tags",
                subject=path,
                expected=f"room for our tags among {versions.MAX_TAGS}",
                advice="Take tags of your own away from this secret.",
            )
        written = await self._put(_name(path), value, tags, path, attempted)
        look = await self._settled(_name(path), written, path)
        writer = written.tags[versions.WRITER]
        ours = [v for v in look.counted if v.tags.get(versions.WRITER) == writer]
        if not ours:
            await self._mend(path, look)
            raise _lost(path, attempted)
        return ours[0].id

    async def _settled(self, name: str, written: Version, path: str) -> _Look:
        for _ in range(_MAX_LOOKS):
            look = await self._look(name, "See which writer was first", path)
            ahead = written.created + SETTLED_AFTER.total_seconds() - look.at
            if ahead <= 0:
                return look
            await self._sleep(min(ahead, 1.0))
        raise Unknown(
            "See which writer was first",
            subject=path,
            got="a clock of Key Vault that does not move on",
            advice="Look again before doing it again.",
        )

    async def _mend(self, path: str, look: _Look) -> None:
        """A version that does not count may be the newest, with a value that consumers must not
        read: then CURRENT is written once more, on top. Best effort; the next change mends too."""
        if not look.counted:
            return
        head = look.counted[-1]
        with suppress(RecoveryError):
            newest = Version.of(await self._get(_name(path), "", path))
            if newest.tags.get(versions.ID) == head.tags.get(versions.ID):
                return
            value = await self._value(_name(path), head.id, path)
            tags = {n: v for n, v in head.tags.items() if n != versions.WRITER}
            tags[versions.BASE] = head.id
            await self._put(_name(path), value, tags, path, "Show CURRENT to consumers again")

    async def _put(
        self, name: str, value: SecretStr, tags: Mapping[str, str], path: str, attempted: str
    ) -> Version:
        """A new version. Its writer's tag tells after a lost answer whether it was made."""
        writer = secrets.token_hex(8)
        document = {
            "value": value.get_secret_value(),
            "contentType": "text/plain",
            "tags": {**tags, versions.WRITER: writer},
            "attributes": {"enabled": True},
        }
        lost: Unknown | None = None
        for attempt in range(ATTEMPTS):
            try:
                response = await self._call(
                    "PUT", f"/secrets/{name}", attempted, path, json=document, repeatable=False
                )
                return Version.of(response)
            except Unknown as error:
                lost = error
                await self._sleep(0.2 * 2**attempt)
            look = await self._look(name, attempted, path)
            mine = [v for v in look.all if v.tags.get(versions.WRITER) == writer]
            if mine:
                return min(mine, key=lambda v: v.created)
        assert lost is not None
        raise lost

    async def _disable(self, name: str, version: str, path: str) -> None:
        """Best effort: its value is of no use any more, and may be taken for one that is."""
        with suppress(RecoveryError):
            await self._call(
                "PATCH",
                f"/secrets/{name}/{version}",
                "Disable a version that is done with",
                path,
                json={"attributes": {"enabled": False}},
            )

    async def _value(self, name: str, version: str, path: str) -> SecretStr:
        value = (await self._get(name, version, path)).get("value")
        if not isinstance(value, str) or not value:
            raise Incomplete("Read a secret from Azure", subject=path, expected="a value")
        return SecretStr(value)

    async def _get(self, name: str, version: str, path: str) -> dict[str, Any]:
        where = f"/secrets/{name}/{version}".rstrip("/")
        return await self._call("GET", where, "Read a secret from Azure", path)

    async def _look(self, name: str, attempted: str, path: str = "") -> _Look:
        found: list[Version] = []
        where, at = f"/secrets/{name}/versions?api-version={API_VERSION}&maxresults=25", 0.0
        for _ in range(_MAX_PAGES):
            try:
                response = await self._answer("GET", where, attempted, path)
            except NotFound:
                return _Look((), at)
            page = self._wire.json(response)
            at = _served_at(response)
            found += [Version.of(item) for item in page.get("value") or ()]
            if not page.get("nextLink"):
                return _Look(tuple(found), at)
            following = urlsplit(page["nextLink"])
            # Never another host: the token goes where the block says.
            where = f"{following.path}?{following.query}"
        raise Incomplete(attempted, subject=path, expected="an end of the list of versions")

    async def _call(
        self,
        method: str,
        where: str,
        attempted: str,
        path: str,
        *,
        json: Any = None,
        repeatable: bool = True,
    ) -> dict[str, Any]:
        where = f"{where}?api-version={API_VERSION}"
        response = await self._answer(
            method, where, attempted, path, json=json, repeatable=repeatable
        )
        document: dict[str, Any] = self._wire.json(response)
        return document

    async def _answer(
        self,
        method: str,
        where: str,
        attempted: str,
        path: str,
        *,
        json: Any = None,
        repeatable: bool = True,
    ) -> httpx.Response:
        response = await self._wire.request(
            method,
            where,
            attempted=attempted,
            subject=path,
            json=json,
            repeatable=repeatable,
            ok=(200, 403, 404, 409),
        )
        if response.status_code != 200:
            raise refusal(response, attempted, path)
        return response


def _name(path: str) -> str:
    """Key Vault's names know letters, digits and hyphens alone: `a/b` is `a--b` there."""
    parts = path.split("/")
    if not all(_SEGMENT.fullmatch(part) for part in parts) or len("--".join(parts)) > _LONGEST:
        raise Misconfigured(
            "Name a secret in Azure Key Vault",
            expected=f"letters, digits, single hyphens and /, {_LONGEST} signs at most",
            got="something else",
            advice="Correct rotate.vault_path in the runbook, or keep this client's secret "
            "elsewhere.",
        )
    return "--".join(parts)


def _pending(path: str) -> str:
    return _name(path) + _PENDING_SUFFIX


def _served_at(response: httpx.Response) -> float:
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        raise Incomplete(
            "Look at a secret in Azure",
            expected="an answer with a date",
            got="none",
            advice="Check that the address in the azure-key-vault block is the vault itself.",
        ) from None


def _nothing(path: str, label: str) -> NotFound:
    return NotFound(
        f"Read the secret under {label} from Azure", code="not_found", subject=path, got="none"
    )


def _lost(path: str, attempted: str) -> Conflict:
    return Conflict(
        attempted,
        code="cas_mismatch",
        subject=path,
        expected="the version we looked at",
        got="another writer's",
        advice="Look again and decide anew.",
    )
