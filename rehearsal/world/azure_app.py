"""Azure Key Vault's secrets API and the two services that give tokens for it, as one ASGI app.

Follows the models of the vendor's SDK (azure-keyvault-secrets) and its REST pages: versions, soft
delete, disabled versions, the challenge of a 401. The contract tests drive it with that SDK too.
"""

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import urlencode

from starlette.types import ASGIApp, Receive, Scope, Send

from rehearsal.world.asgi import Reply, Request, read_request, write_reply
from rehearsal.world.faults import Faults

API_VERSIONS = ("7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-07-01", "2026-04-01")
RIGHTS = frozenset({"get", "list", "set", "delete", "recover", "purge"})
MAX_PAGE = 25
MAX_TAGS = 15
_RETENTION_DAYS = 90
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(slots=True)
class SecretVersion:
    name: str
    version: str
    value: str = field(repr=False)
    created: int
    updated: int
    enabled: bool = True
    content_type: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who may get a token, by which proof, and what they may do in the vault."""

    client_id: str
    tenant: str = "contoso"
    secret: str | None = field(default=None, repr=False)
    assertion: str | None = field(default=None, repr=False)
    managed: bool = False
    rights: frozenset[str] = RIGHTS


class _No(Exception):
    """Ends a request with the vendor's error document."""

    def __init__(
        self, status: int, code: str, inner: str = "", headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(code)
        error: dict[str, object] = {"code": code, "message": f"{code}."}
        if inner:
            error["innererror"] = {"code": inner}
        self.reply = Reply(status, {"error": error}, headers)


class AzureVault:
    """State and answers. `ahead` moves its clock; it writes the answers' Date itself, so serve it
    with `Loopback(…, dated=False)`. `page` is how many versions one answer lists."""

    def __init__(self, identities: Iterable[Identity], *, page: int = MAX_PAGE) -> None:
        self.faults = Faults()
        self.app: ASGIApp = self.faults.around(self._serve)
        self.ahead = timedelta()
        self.address = ""
        self.issued: list[str] = []
        self._identities = list(identities)
        self._tokens: dict[str, tuple[Identity, float]] = {}
        self._secrets: dict[str, list[SecretVersion]] = {}
        self._deleted: dict[str, tuple[list[SecretVersion], datetime]] = {}
        self._page = page
        self.token_lifetime = timedelta(hours=1)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def versions(self, name: str) -> list[SecretVersion]:
        """As the vault's owner sees them, oldest first."""
        return list(self._secrets.get(name.lower(), ()))

    def latest(self, name: str) -> SecretVersion:
        """What a consumer reads who names no version."""
        return self._secrets[name.lower()][-1]

    def expire_tokens(self) -> None:
        """Fault: every access token given out so far is refused from now on."""
        self._tokens.clear()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        request = await read_request(scope, receive)
        try:
            reply = self._answer(request)
        except _No as no:
            reply = no.reply
        date = ("Date", format_datetime(self.now().replace(microsecond=0), usegmt=True))
        await write_reply(send, Reply(reply.status, reply.body, (*reply.headers, date)))

    def _answer(self, request: Request) -> Reply:
        match [request.method, *request.path.strip("/").split("/")]:
            case ["POST", tenant, "oauth2", "v2.0", "token"]:
                return self._token_of_application(tenant, request.form())
            case ["GET", "metadata", "identity", "oauth2", "token"]:
                return self._token_of_machine(request)
        rights = self._caller(request)
        if request.query().get("api-version") not in API_VERSIONS:
            raise _No(400, "BadParameter")

        def may(right: str) -> None:
            if right not in rights:
                raise _No(403, "Forbidden", "ForbiddenByRbac")

        match [request.method, *request.path.strip("/").split("/")]:
            case ["PUT", "secrets", name]:
                may("set")
                return self._set(name, _body(request))
            case ["GET", "secrets", name, "versions"]:
                may("list")
                return self._list(name, request.query())
            case ["GET", "secrets", name]:
                may("get")
                return self._get(self._held(name)[-1])
            case ["GET", "secrets", name, version]:
                may("get")
                return self._get(self._one(name, version))
            case ["PATCH", "secrets", name, version]:
                may("set")
                return self._update(self._one(name, version), _body(request))
            case ["DELETE", "secrets", name]:
                may("delete")
                return self._delete(name)
            case ["GET", "deletedsecrets", name]:
                may("get")
                return Reply(200, self._gone(name))
            case ["POST", "deletedsecrets", name, "recover"]:
                may("recover")
                return self._recover(name)
            case ["DELETE", "deletedsecrets", name]:
                may("purge")
                self._gone(name)
                del self._deleted[name.lower()]
                return Reply(204)
        raise _No(404, "NotFound")

    # Tokens.

    def _token_of_application(self, tenant: str, form: dict[str, str]) -> Reply:
        if form.get("grant_type") != "client_credentials":
            return Reply(400, {"error": "unsupported_grant_type"})
        if form.get("scope") != "https://vault.azure.net/.default":
            return Reply(400, {"error": "invalid_scope"})
        for one in self._identities:
            if one.managed or (one.client_id, one.tenant) != (form.get("client_id"), tenant):
                continue
            by_secret = one.secret is not None and form.get("client_secret") == one.secret
            by_file = (
                one.assertion is not None
                and form.get("client_assertion") == one.assertion
                and form.get("client_assertion_type") == _ASSERTION
            )
            if by_secret or by_file:
                seconds = int(self.token_lifetime.total_seconds())
                token = self._issue(one)
                return Reply(
                    200, {"token_type": "Bearer", "expires_in": seconds, "access_token": token}
                )
        return Reply(401, {"error": "invalid_client", "error_codes": [7000215]})

    def _token_of_machine(self, request: Request) -> Reply:
        query = request.query()
        if request.headers.get("metadata") != "true" or "x-forwarded-for" in request.headers:
            return Reply(400, {"error": "invalid_request"})
        if query.get("resource") != "https://vault.azure.net":
            return Reply(400, {"error": "invalid_resource"})
        for one in self._identities:
            if one.managed and query.get("client_id", one.client_id) == one.client_id:
                token = self._issue(one)
                return Reply(
                    200,
                    {
                        "access_token": token,
                        "expires_in": str(int(self.token_lifetime.total_seconds())),
                        "resource": query["resource"],
                        "token_type": "Bearer",
                    },
                )
        return Reply(400, {"error": "invalid_request"})

    def _issue(self, identity: Identity) -> str:
        token = secrets.token_urlsafe(24)
        self._tokens[token] = (identity, (self.now() + self.token_lifetime).timestamp())
        self.issued.append(token)
        return token

    def _caller(self, request: Request) -> frozenset[str]:
        identity, ends_at = self._tokens.get(request.bearer() or "", (None, 0.0))
        if identity is None or ends_at <= self.now().timestamp():
            challenge = (
                'Bearer authorization="https://login.microsoftonline.com/contoso", '
                'resource="https://vault.azure.net"'
            )
            raise _No(401, "Unauthorized", headers=(("WWW-Authenticate", challenge),))
        return identity.rights

    # Secrets.

    def _set(self, name: str, document: dict[str, object]) -> Reply:
        if not name.replace("-", "").isalnum() or not name.isascii() or len(name) > 127:
            raise _No(400, "BadParameter")
        if name.lower() in self._deleted:
            raise _No(409, "Conflict", "ObjectIsDeletedButRecoverable")
        value, tags = document.get("value"), document.get("tags") or {}
        if not isinstance(value, str) or not isinstance(tags, dict) or len(tags) > MAX_TAGS:
            raise _No(400, "BadParameter")
        attributes = document.get("attributes") or {}
        now = int(self.now().timestamp())
        kept = self._secrets.setdefault(name.lower(), [])
        # Key Vault keeps the spelling of a name's first use.
        spelling = kept[0].name if kept else name
        made = SecretVersion(spelling, secrets.token_hex(16), value, now, now, tags=dict(tags))
        made.enabled = not isinstance(attributes, dict) or attributes.get("enabled") is not False
        content_type = document.get("contentType")
        made.content_type = content_type if isinstance(content_type, str) else None
        kept.append(made)
        return Reply(200, {"value": value, **self._item(made)})

    def _get(self, version: SecretVersion) -> Reply:
        if not version.enabled:
            raise _No(403, "Forbidden", "SecretDisabled")
        return Reply(200, {"value": version.value, **self._item(version)})

    def _update(self, version: SecretVersion, document: dict[str, object]) -> Reply:
        attributes = document.get("attributes")
        if isinstance(attributes, dict) and isinstance(attributes.get("enabled"), bool):
            version.enabled = attributes["enabled"]
        tags = document.get("tags")
        if isinstance(tags, dict):
            version.tags = dict(tags)
        version.updated = int(self.now().timestamp())
        return Reply(200, self._item(version))

    def _list(self, name: str, query: dict[str, str]) -> Reply:
        """In the order of ids, which is none that tells anything; by pages."""
        size = min(int(query.get("maxresults", MAX_PAGE)), self._page)
        ordered = sorted(self.versions(name), key=lambda v: v.version)
        begin = int(query.get("$skiptoken", 0))
        following = None
        if begin + size < len(ordered):
            rest = urlencode(
                {
                    "api-version": query["api-version"],
                    "$skiptoken": begin + size,
                    "maxresults": size,
                }
            )
            following = f"{self.address}/secrets/{name}/versions?{rest}"
        page = [self._item(v) for v in ordered[begin : begin + size]]
        return Reply(200, {"value": page, "nextLink": following})

    def _delete(self, name: str) -> Reply:
        self._held(name)
        self._deleted[name.lower()] = (self._secrets.pop(name.lower()), self.now())
        return Reply(200, self._gone(name))

    def _recover(self, name: str) -> Reply:
        self._gone(name)
        kept, _ = self._deleted.pop(name.lower())
        self._secrets[name.lower()] = kept
        return Reply(200, self._item(kept[-1]))

    def _gone(self, name: str) -> dict[str, object]:
        if name.lower() not in self._deleted:
            raise _No(404, "SecretNotFound")
        kept, at = self._deleted[name.lower()]
        purge = at + timedelta(days=_RETENTION_DAYS)
        return {
            **self._item(kept[-1]),
            "recoveryId": f"{self.address}/deletedsecrets/{name}",
            "deletedDate": int(at.timestamp()),
            "scheduledPurgeDate": int(purge.timestamp()),
        }

    def _held(self, name: str) -> list[SecretVersion]:
        held = self._secrets.get(name.lower())
        if not held:
            raise _No(404, "SecretNotFound")
        return held

    def _one(self, name: str, version: str) -> SecretVersion:
        for held in self._held(name):
            if held.version == version:
                return held
        raise _No(404, "SecretNotFound")

    def _item(self, version: SecretVersion) -> dict[str, object]:
        document: dict[str, object] = {
            "id": f"{self.address}/secrets/{version.name}/{version.version}",
            "attributes": {
                "enabled": version.enabled,
                "created": version.created,
                "updated": version.updated,
                "recoveryLevel": "Recoverable+Purgeable",
                "recoverableDays": _RETENTION_DAYS,
            },
        }
        if version.tags:
            document["tags"] = dict(version.tags)
        if version.content_type is not None:
            document["contentType"] = version.content_type
        return document


def _body(request: Request) -> dict[str, object]:
    try:
        document = json.loads(request.body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise _No(400, "BadParameter")
    return document
