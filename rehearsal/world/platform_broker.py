"""The platform's broker of service credentials: who may ask it has users made and taken away.

It speaks what Vault's RabbitMQ engine calls (GET, PUT and DELETE of RabbitMQ's management API under
/api/users): a user's password is an admin token of the platform for as long as the user is there.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rehearsal.world.asgi import Handler, Problem, Reply, Request, Routes, text_of
from rehearsal.world.platform_quota import AdminDoor, AdminToken, Scope

_NAME = re.compile(r"[A-Za-z0-9-]{1,80}")
_SHARED = "leased"


@dataclass(frozen=True, slots=True)
class _User:
    token: str = field(repr=False)
    scope: Scope


class CredentialBroker:
    """Closed until `open_for` names a caller. All leased tokens share one quota, as the service
    account that stands behind them has one."""

    def __init__(self, door: AdminDoor) -> None:
        self._door = door
        self._caller: tuple[str, str] | None = None
        self._per_second, self._concurrent = 50.0, 20
        self._users: dict[str, _User] = {}
        self.made: list[tuple[Scope, str]] = []
        """Scope and value of every token there ever was, for whoever searches for leaks."""

    def open_for(self, user: str, password: str, *, per_second: float, concurrent: int) -> None:
        self._caller = (user, password)
        self._per_second, self._concurrent = per_second, concurrent

    def living(self, scope: Scope) -> list[str]:
        """The tokens of that scope which are good at this moment."""
        return [user.token for user in self._users.values() if user.scope is scope]

    async def users(self, request: Request, _: tuple[str, ...]) -> Reply:
        self._authenticate(request)
        return _listed(self._users)

    async def put(self, request: Request, names: tuple[str, ...]) -> Reply:
        self._authenticate(request)
        name, document = names[0], request.json()
        if not _NAME.fullmatch(name):
            raise Problem(400, "bad_request", "That is no user name.")
        try:
            scope = Scope(text_of(document, "tags"))
        except ValueError:
            raise Problem(400, "bad_request", "The platform has no such role.") from None
        value = text_of(document, "password")
        known = name in self._users
        self._forget(name)
        self._users[name] = _User(value, scope)
        self.made.append((scope, value))
        self._door.add(
            AdminToken(
                value,
                scopes=frozenset({scope}),
                per_second=self._per_second,
                concurrent=self._concurrent,
                shares=_SHARED,
            )
        )
        return Reply(204 if known else 201)

    async def delete(self, request: Request, names: tuple[str, ...]) -> Reply:
        self._authenticate(request)
        if not self._forget(names[0]):
            raise Problem(404, "not_found", "There is no such user.")
        return Reply(204)

    def _forget(self, name: str) -> bool:
        user = self._users.pop(name, None)
        if user is not None:
            self._door.withdraw(user.token)
        return user is not None

    def _authenticate(self, request: Request) -> None:
        given = _basic(request.headers.get("authorization", ""))
        if self._caller is None or not all(
            hmac.compare_digest(a.encode(), b.encode())
            for a, b in zip(self._caller, given, strict=True)
        ):
            challenge = (("WWW-Authenticate", 'Basic realm="broker"'),)
            raise Problem(401, "not_authorised", "Login failed.", headers=challenge)


def add_broker_routes(routes: Routes, broker: CredentialBroker) -> None:
    for method, path, act in _routes(broker):
        routes.add(method, path, act)


def _routes(broker: CredentialBroker) -> Iterator[tuple[str, str, Handler]]:
    yield "GET", "/api/users", broker.users
    yield "PUT", "/api/users/{}", broker.put
    yield "DELETE", "/api/users/{}", broker.delete


def _listed(users: dict[str, _User]) -> Reply:
    listed: list[object] = [{"name": name, "tags": [u.scope]} for name, u in users.items()]
    return Reply(200, listed)


def _basic(header: str) -> tuple[str, str]:
    """User and password of RFC 7617, both empty where there are none."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return user, password
