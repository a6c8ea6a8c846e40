"""Talks to the platform's admin API: accounts, their credentials, app clients and their secrets.

The playbook's API is the default; another platform of this shape is described by `PlatformPaths`.
"""

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import dataclass

import httpx
from pydantic import SecretStr

from clients.http import OnWire, Wire, segment
from clients.platform_answers import (
    AuthenticatorsAnswer,
    BannersAnswer,
    ClientsAnswer,
    CreatedAnswer,
    NewSecretAnswer,
    PageAnswer,
    QueryAnswer,
    RemovedAnswer,
    RevokedAnswer,
    SecretsAnswer,
    SummaryAnswer,
)
from clients.platform_paths import PlatformPaths
from recovery.accounts import RosterEntry, Verdict
from recovery.app_clients import AppClient, ClientSecret
from recovery.contain import CredentialKind
from recovery.errors import Incomplete, NotFound, Refused
from recovery.messages import BannerCopy
from recovery.passkey import Passkey
from recovery.validate import LiveCredentials

__all__ = ["NewSecret", "PlatformClient", "PlatformPaths"]

_QUERY_SIZE = 200
_PAGE_SIZE = 500
_CLIENTS_SIZE = 50


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A secret just created; its value is shown this once."""

    secret_id: str
    value: SecretStr


class PlatformClient(OnWire):
    """One admin credential at the platform. Everything but `create_secret` may be repeated.

    An unknown account or client raises NotFound, a deactivated account Conflict; both concern
    this account alone. Closing it closes the wire.
    """

    def __init__(self, wire: Wire, paths: PlatformPaths | None = None) -> None:
        self._wire = wire
        self._paths = paths or PlatformPaths()

    async def check(self) -> None:
        """Returns where the platform answers and the admin token may read accounts."""
        await self._wire.request(
            "GET",
            self._paths.accounts,
            attempted="Check the platform",
            params={"limit": "1"},
            repeatable=True,
        )

    # Accounts

    async def roster(self, ids: Sequence[str]) -> tuple[list[RosterEntry], list[str]]:
        """The accounts behind the ids, and the ids that the platform doesn't know.

        Incomplete where the platform accounts for less than it was asked.
        """
        found: list[RosterEntry] = []
        missing: list[str] = []
        for chunk in _chunks(list(dict.fromkeys(ids)), _QUERY_SIZE):
            response = await self._wire.request(
                "POST",
                self._paths.accounts_query,
                attempted=f"Read {len(chunk)} accounts from the roster",
                json={"ids": chunk},
                repeatable=True,
            )
            answer = self._wire.read(response, QueryAnswer)
            told = [account.id for account in answer.accounts] + answer.missing
            if sorted(told) != sorted(chunk):
                raise Incomplete(
                    "Read accounts from the roster",
                    expected=f"each of {len(chunk)} ids once, as an account or as missing",
                    got=f"{len(set(told) & set(chunk))} of them in {len(told)} entries",
                    advice="Nothing was admitted. Run again; if it stays, ask the platform's team.",
                )
            found.extend(account.entry() for account in answer.accounts)
            missing.extend(answer.missing)
        return found, missing

    async def all_accounts(self) -> AsyncIterator[list[RosterEntry]]:
        """Every account of the platform, page by page in the order of ids."""
        cursor: str | None = None
        cursors: set[str] = set()
        before: set[str] = set()
        while True:
            response = await self._wire.request(
                "GET",
                self._paths.accounts,
                attempted="Read a page of all accounts",
                params={"limit": str(_PAGE_SIZE)} | ({"after": cursor} if cursor else {}),
                repeatable=True,
            )
            page = self._wire.read(response, PageAnswer)
            here = {account.id for account in page.accounts}
            if len(here) != len(page.accounts) or here & before:
                raise _astray("an account that stood there before")
            if page.accounts:
                yield [account.entry() for account in page.accounts]
            if page.next is None:
                return
            if page.next in cursors:
                raise _astray("a page that was read before")
            cursor, before = page.next, here
            cursors.add(cursor)

    async def revoke(self, account_id: str, kind: CredentialKind) -> tuple[Verdict, int]:
        """Kills all credentials of this kind; how many there were. ALREADY where none was."""
        response = await self._on_account(
            "DELETE",
            self._paths.revocation(kind),
            account_id,
            f"Revoke {kind.value.replace('_', ' ')}",
        )
        return _counted(self._wire.read(response, RevokedAnswer).revoked)

    async def force_password_reset(self, account_id: str) -> Verdict:
        """The old password stops to work at once; the platform sends nothing to the person."""
        response = await self._on_account(
            "POST",
            self._paths.password_reset,
            account_id,
            "Force a password reset",
            json={"notify": False},
            ok=(200, 204),
        )
        return Verdict.DONE if response.status_code == 204 else Verdict.ALREADY

    async def remove_authenticators(self, account_id: str) -> tuple[Verdict, int]:
        response = await self._on_account(
            "DELETE", self._paths.authenticators, account_id, "Remove all authenticators"
        )
        return _counted(self._wire.read(response, RemovedAnswer).removed)

    async def bind_totp(self, account_id: str, secret: SecretStr, *, key: str, label: str) -> str:
        """Binds the authenticator; its id. The same `key` again gives the same id."""
        response = await self._on_account(
            "POST",
            self._paths.authenticators,
            account_id,
            "Bind an authenticator",
            json={
                "type": "totp",
                "secret": secret.get_secret_value(),
                "label": label,
                "idempotency_key": key,
            },
            ok=(200, 201),
        )
        return self._wire.read(response, CreatedAnswer).id

    async def bind_passkey(self, account_id: str, passkey: Passkey, *, key: str, label: str) -> str:
        """Binds the public half; the authenticator's id. The same `key` again gives the same id;
        Conflict where another authenticator was bound with it."""
        response = await self._on_account(
            "POST",
            self._paths.passkeys,
            account_id,
            "Bind a passkey",
            json={
                "type": "passkey",
                **passkey.document(),
                "label": label,
                "idempotency_key": key,
            },
            ok=(200, 201),
        )
        return self._wire.read(response, CreatedAnswer).id

    async def passkeys(self, account_id: str) -> list[bytes]:
        """Credential ids of the passkeys that the account has, so that none is made twice."""
        response = await self._on_account(
            "GET", self._paths.passkeys, account_id, "List the passkeys"
        )
        return self._wire.read(response, AuthenticatorsAnswer).passkeys()

    async def live(self, account_id: str) -> LiveCredentials:
        """What the platform counts as alive at this moment."""
        response = await self._on_account(
            "GET", self._paths.live, account_id, "Count live credentials"
        )
        return self._wire.read(response, SummaryAnswer).live()

    async def post_banner(self, copy: BannerCopy) -> tuple[Verdict, str]:
        """Shows a message inside the product; its id. ALREADY where this notice stood there."""
        response = await self._on_account(
            "POST",
            self._paths.banners,
            copy.account_id,
            "Post a banner",
            json={
                "idempotency_key": copy.notice_id,
                "title": copy.title,
                "body": copy.body,
                "link": copy.link,
                "code": copy.code,
                "signature": copy.signature,
            },
            ok=(200, 201),
        )
        verdict = Verdict.DONE if response.status_code == 201 else Verdict.ALREADY
        return verdict, self._wire.read(response, CreatedAnswer).id

    async def banner_keys(self, account_id: str) -> set[str]:
        """Our notice ids (and others' keys) of the banners that stand there."""
        response = await self._on_account("GET", self._paths.banners, account_id, "List banners")
        return {b.idempotency_key for b in self._wire.read(response, BannersAnswer).banners}

    # App clients

    async def app_clients(self, ids: Collection[str] | None = None) -> list[AppClient]:
        """All clients, or those of `ids` that the platform keeps; in the order of ids."""
        chunks: list[list[str] | None] = [None]
        if ids is not None:
            chunks = list(_chunks(sorted(set(ids)), _CLIENTS_SIZE))
        clients: list[AppClient] = []
        for chunk in chunks:
            if chunk and any("," in client_id or not client_id for client_id in chunk):
                raise Refused("Read app clients", code="malformed_id", got="an id with a comma")
            response = await self._wire.request(
                "GET",
                self._paths.clients,
                attempted="Read app clients",
                params={"ids": ",".join(chunk)} if chunk else None,
                repeatable=True,
            )
            answer = self._wire.read(response, ClientsAnswer)
            clients.extend(client.client() for client in answer.clients)
        return sorted(clients, key=lambda client: client.client_id)

    async def client_secrets(self, client_id: str) -> list[ClientSecret]:
        """Oldest first; never the values."""
        response = await self._on_client("GET", self._paths.secrets, client_id, "List secrets")
        answer = self._wire.read(response, SecretsAnswer)
        return sorted((s.secret() for s in answer.secrets), key=lambda s: s.created_at)

    async def create_secret(self, client_id: str, marker: str) -> NewSecret:
        """Adds a secret that carries `marker`. Never repeated: Unknown where the answer was lost,
        and then a secret nobody knows may exist, to be found by its marker."""
        response = await self._on_client(
            "POST",
            self._paths.secrets,
            client_id,
            "Create a client secret",
            json={"marker": marker},
            ok=(201,),
            repeatable=False,
        )
        return self._new_secret(response)

    async def rotate_secret(self, client_id: str, marker: str) -> NewSecret:
        """Replaces the one secret of a client that can't hold two: the old one is dead at once.

        Never repeated: Unknown where the answer was lost, and then nobody may know the secret
        that is in force; only rotating once more helps.
        """
        response = await self._on_client(
            "POST",
            self._paths.rotate_secret,
            client_id,
            "Rotate a client secret in place",
            json={"marker": marker},
            repeatable=False,
        )
        return self._new_secret(response)

    def _new_secret(self, response: httpx.Response) -> NewSecret:
        answer = self._wire.read(response, NewSecretAnswer)
        return NewSecret(answer.id, answer.client_secret)

    async def deactivate_secret(self, client_id: str, secret_id: str) -> Verdict:
        """Can be undone. Refused `last_active_secret` where it is the only one."""
        await self._on_client(
            "POST", self._paths.deactivate, client_id, "Deactivate a client secret", secret_id
        )
        return Verdict.DONE

    async def activate_secret(self, client_id: str, secret_id: str) -> Verdict:
        await self._on_client(
            "POST", self._paths.activate, client_id, "Activate a client secret", secret_id
        )
        return Verdict.DONE

    async def delete_secret(self, client_id: str, secret_id: str) -> Verdict:
        """Can't be undone. ALREADY where it is gone; Refused `secret_active` where it is active."""
        try:
            await self._on_client(
                "DELETE",
                self._paths.secret,
                client_id,
                "Delete a client secret",
                secret_id,
                ok=(204,),
            )
        except NotFound:
            return Verdict.ALREADY
        return Verdict.DONE

    # The person's side

    async def login(self, handle: str, password: SecretStr, totp: str | None = None) -> bool:
        """Whether these open the account; False on 401. Sent without our admin token; the
        session is not kept. RateLimited after ten failures a minute for one handle."""
        response = await self._wire.request(
            "POST",
            self._paths.login,
            attempted="Try a login as a person would",
            json={"handle": handle, "password": password.get_secret_value(), "totp": totp},
            headers={"Authorization": None},
            ok=(200, 401),
            repeatable=True,
        )
        return response.status_code == 200

    async def _on_account(
        self,
        method: str,
        template: str,
        account_id: str,
        attempted: str,
        *,
        json: object = None,
        ok: Collection[int] = (200,),
    ) -> httpx.Response:
        return await self._wire.request(
            method,
            template.format(account=segment(account_id)),
            attempted=attempted,
            subject=account_id,
            json=json,
            ok=ok,
            repeatable=True,
        )

    async def _on_client(
        self,
        method: str,
        template: str,
        client_id: str,
        attempted: str,
        secret_id: str = "",
        *,
        json: object = None,
        ok: Collection[int] = (200,),
        repeatable: bool = True,
    ) -> httpx.Response:
        ids = {"client": segment(client_id)} | ({"secret": segment(secret_id)} if secret_id else {})
        return await self._wire.request(
            method,
            template.format(**ids),
            attempted=attempted,
            subject=f"{client_id} {secret_id}".rstrip(),
            json=json,
            ok=ok,
            repeatable=repeatable,
        )


def _chunks(items: list[str], size: int) -> Iterator[list[str]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def _counted(count: int) -> tuple[Verdict, int]:
    return (Verdict.DONE if count else Verdict.ALREADY), count


def _astray(got: str) -> Incomplete:
    return Incomplete(
        "Read all accounts page by page",
        expected="pages that come to an end, with each account once",
        got=got,
        advice="Start the export again; nothing was done.",
    )
