"""The platform as an ASGI app: the door of people and apps here, the admin and OAuth doors beside.

Everything it remembers is in `PlatformState`; faults injected there strike before the app.
"""

from starlette.types import ASGIApp

from rehearsal.world.asgi import (
    Problem,
    Reply,
    Request,
    RoutedApp,
    Routes,
    optional_text_of,
    text_of,
)
from rehearsal.world.oauth_app import add_oauth_routes
from rehearsal.world.platform_admin import add_account_routes
from rehearsal.world.platform_admin_clients import add_client_routes
from rehearsal.world.platform_broker import add_broker_routes
from rehearsal.world.platform_state import PlatformState
from rehearsal.world.platform_tokens import Bearer


def platform_app(state: PlatformState) -> ASGIApp:
    """The app to give to `Loopback`."""
    routes = Routes()
    add_account_routes(routes, state)
    add_client_routes(routes, state)
    add_oauth_routes(routes, state)
    add_broker_routes(routes, state.broker)
    person = _PersonApi(state)
    routes.add("POST", "/login", person.login)
    routes.add("POST", "/login/passkey/options", person.passkey_options)
    routes.add("POST", "/login/passkey", person.passkey_login)
    routes.add("POST", "/account/password", person.set_password)
    routes.add("POST", "/account/recover", person.recover)
    routes.add("GET", "/api/me", person.me)
    routes.add("GET", "/api/me/banners", person.banners)
    return state.faults.around(RoutedApp(routes))


class _PersonApi:
    def __init__(self, state: PlatformState) -> None:
        self._state = state

    async def login(self, request: Request, _: tuple[str, ...]) -> Reply:
        document = request.json()
        session = self._state.login(
            text_of(document, "handle"),
            text_of(document, "password"),
            optional_text_of(document, "totp"),
        )
        return Reply(200, {"session": session})

    async def passkey_options(self, request: Request, _: tuple[str, ...]) -> Reply:
        return Reply(200, self._state.passkeys.options())

    async def passkey_login(self, request: Request, _: tuple[str, ...]) -> Reply:
        return Reply(200, {"session": self._state.passkey_login(request.json())})

    async def set_password(self, request: Request, _: tuple[str, ...]) -> Reply:
        document = request.json()
        self._state.set_password(
            text_of(document, "handle"),
            text_of(document, "totp"),
            text_of(document, "new_password"),
        )
        return Reply(204)

    async def recover(self, request: Request, _: tuple[str, ...]) -> Reply:
        """The legacy way: the mailed token is good as often as somebody shows it."""
        account_id = self._state.tokens.recovery_owner(text_of(request.json(), "token"))
        if account_id is None:
            raise Problem(401, "invalid_token", "The recovery link is not valid.")
        return Reply(200, {"sub": account_id})

    async def me(self, request: Request, _: tuple[str, ...]) -> Reply:
        bearer = self._bearer(request)
        return Reply(200, {"sub": bearer.sub, "kind": bearer.kind})

    async def banners(self, request: Request, _: tuple[str, ...]) -> Reply:
        """The notices inside the app, with their details, as the signed-in person sees them."""
        shown = [
            {
                "title": banner.title,
                "body": banner.body,
                "link": banner.link,
                "signature": banner.signature,
            }
            for banner in self._state.banners_of(self._bearer(request).sub)
        ]
        return Reply(200, {"banners": shown})

    def _bearer(self, request: Request) -> Bearer:
        bearer = self._state.tokens.bearer(request.bearer() or "")
        if bearer is None:
            challenge = (("WWW-Authenticate", 'Bearer realm="api", error="invalid_token"'),)
            raise Problem(401, "invalid_token", "Not signed in.", headers=challenge)
        return bearer
