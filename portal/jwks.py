"""The public halves of all our signing keys in one document (RFC 7517), for whoever verifies."""

import hashlib
import json

from starlette.requests import Request
from starlette.responses import Response

from portal.door import Door

JWKS_PATH = "/.well-known/jwks.json"
KEYS_CACHED = "public, max-age=300"
"""Others may keep our keys for five minutes; a new key is published for longer before it signs."""


class Jwks:
    """Keys that sign enrollment links and keys that sign notices. What each is for is told by the
    `typ` of what it signed; no key does both."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def document(self, request: Request) -> Response:
        links = self._door.keys.document()["keys"]
        notices = self._door.settings.notice_jwks.get("keys", ())
        body = json.dumps({"keys": [*links, *notices]}, sort_keys=True).encode()
        anybody = {"access-control-allow-origin": "*"}
        return cacheable(request, body, "application/jwk-set+json", KEYS_CACHED, anybody)


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
