"""The public halves of all our signing keys in one document (RFC 7517), for whoever verifies."""

import hashlib
import json

from starlette.requests import Request
from starlette.responses import Response

from portal.settings import PortalSettings

JWKS_PATH = "/.well-known/jwks.json"
_KEPT = "public, max-age=300"


class Jwks:
    """Keys that sign enrollment links and keys that sign notices. What each is for is told by the
    `typ` of what it signed; no key does both."""

    def __init__(self, settings: PortalSettings) -> None:
        rows = [*settings.jwks.get("keys", ()), *settings.notice_jwks.get("keys", ())]
        self._body = json.dumps({"keys": rows}, sort_keys=True).encode()

    async def document(self, request: Request) -> Response:
        return cacheable(request, self._body, "application/jwk-set+json", _KEPT)


def cacheable(
    request: Request,
    body: bytes,
    media_type: str,
    kept: str,
    headers: dict[str, str] | None = None,
) -> Response:
    """The body with a strong ETag of its content, or 304 where the client has it."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    given = {"etag": etag, "cache-control": kept, **(headers or {})}
    asked = request.headers.get("if-none-match", "").split(",")
    asked = [tag.strip().removeprefix("W/") for tag in asked]
    if etag in asked or "*" in asked:
        return Response(status_code=304, headers=given)
    return Response(body, headers=given, media_type=media_type)
