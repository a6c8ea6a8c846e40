"""The platform's admin API over OAuth clients and their secrets: /admin/clients."""

from rehearsal.world.asgi import Problem, Reply, Request, Routes, optional_text_of
from rehearsal.world.platform_admin import AdminAct, behind_door
from rehearsal.world.platform_clients import ClientState, Secret
from rehearsal.world.platform_quota import Scope
from rehearsal.world.platform_state import PlatformState

MAX_CLIENT_IDS = 50


def add_client_routes(routes: Routes, state: PlatformState) -> None:
    api = _ClientApi(state)
    secrets = "/admin/clients/{}/secrets"

    def route(method: str, path: str, act: AdminAct, *scopes: Scope) -> None:
        name = f"{method} {path.removeprefix('/admin/').replace('/{}', '')}"
        routes.add(method, path, behind_door(state, name, act, *scopes))

    route("GET", "/admin/clients", api.clients, Scope.READ)
    route("GET", secrets, api.secrets, Scope.READ)
    route("POST", secrets, api.add_secret)
    route("POST", f"{secrets}/{{}}/deactivate", api.deactivate)
    route("POST", f"{secrets}/{{}}/activate", api.activate)
    route("DELETE", f"{secrets}/{{}}", api.delete)
    route("POST", "/admin/clients/{}/rotate-secret", api.rotate)


class _ClientApi:
    def __init__(self, state: PlatformState) -> None:
        self._state = state
        self._book = state.clients

    def clients(self, request: Request, _: tuple[str, ...]) -> Reply:
        """All, or those of `ids` that there are."""
        listed = self._book.listed()
        wanted = request.query().get("ids")
        if wanted is not None:
            ids = {one for one in wanted.split(",") if one}
            if len(ids) > MAX_CLIENT_IDS:
                raise Problem(400, "too_many_ids", f"At most {MAX_CLIENT_IDS} ids at once.")
            listed = [client for client in listed if client.seed.id in ids]
        return Reply(200, {"clients": [self._client(client) for client in listed]})

    def secrets(self, _: Request, ids: tuple[str, ...]) -> Reply:
        listed = [_secret(secret) for secret in self._book.get(ids[0]).secrets.values()]
        return Reply(200, {"secrets": listed})

    def add_secret(self, request: Request, ids: tuple[str, ...]) -> Reply:
        marker = optional_text_of(request.json(), "marker", longest=255)
        return Reply(201, _new_secret(self._book.add_secret(ids[0], marker)))

    def rotate(self, request: Request, ids: tuple[str, ...]) -> Reply:
        marker = optional_text_of(request.json(), "marker", longest=255)
        return Reply(200, _new_secret(self._book.rotate(ids[0], marker)))

    def deactivate(self, _: Request, ids: tuple[str, ...]) -> Reply:
        return Reply(200, _secret(self._book.deactivate(ids[0], ids[1])))

    def activate(self, _: Request, ids: tuple[str, ...]) -> Reply:
        return Reply(200, _secret(self._book.activate(ids[0], ids[1])))

    def delete(self, _: Request, ids: tuple[str, ...]) -> Reply:
        self._book.delete(ids[0], ids[1])
        return Reply(204)

    def _client(self, client: ClientState) -> dict[str, object]:
        seed = client.seed
        return {
            "id": seed.id,
            "name": seed.name,
            "owner": seed.owner,
            "linked_accounts": self._state.tokens.linked_accounts(seed.id),
            "risk": seed.risk,
            "kind": "oauth_client",
            "max_secrets": seed.max_secrets,
            "can_deactivate": seed.deactivates,
            "consumers": [
                {
                    "name": consumer.name,
                    "health_url": f"{self._state.consumers_url}/consumers/{consumer.name}/health",
                    "ci_job": consumer.ci_job,
                    "tries_both": consumer.tries_both,
                }
                for consumer in seed.consumers
            ],
            "integrations": [
                {
                    "name": partner,
                    "health_url": f"{self._state.consumers_url}/integrations/{seed.id}/health",
                }
                for partner in seed.partners
            ],
        }


def _new_secret(secret: Secret) -> dict[str, object]:
    """The one time its value is told."""
    return {
        "id": secret.id,
        "client_secret": secret.value,
        "created_at": secret.created_at.isoformat(),
    }


def _secret(secret: Secret) -> dict[str, object]:
    """Everything but the value."""
    used = secret.last_used_at
    return {
        "id": secret.id,
        "created_at": secret.created_at.isoformat(),
        "status": secret.status,
        "marker": secret.marker,
        "last_used_at": used.isoformat() if used else None,
    }
