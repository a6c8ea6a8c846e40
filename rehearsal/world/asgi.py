"""Requests in, JSON answers out: the little of a web framework that a rehearsal server needs.

Routes are looked up segment by segment in a tree, which keeps a server with thirty routes at
several thousand requests a second.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from starlette.types import Message, Receive, Scope, Send

MAX_BODY = 1 << 20
"""Bytes; a larger body is answered with 413."""

Headers = tuple[tuple[str, str], ...]


class Problem(Exception):
    """Ends a request with `{"error": code, "message": text}`."""

    def __init__(self, status: int, code: str, text: str, *, headers: Headers = ()) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.text = text
        self.headers = headers

    def reply(self) -> "Reply":
        return Reply(self.status, {"error": self.code, "message": self.text}, self.headers)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. A `body` of None sends no content at all."""

    status: int
    body: object = None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query_string: str
    headers: dict[str, str]
    body: bytes

    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    def json(self) -> dict[str, object]:
        """The body as an object; an empty body is an empty object. Problem 400 otherwise."""
        if not self.body:
            return {}
        try:
            value = json.loads(self.body)
        except ValueError:
            raise Problem(400, "bad_request", "The body is not JSON.") from None
        if not isinstance(value, dict):
            raise Problem(400, "bad_request", "The body is not a JSON object.")
        return value

    def form(self) -> dict[str, str]:
        """A form-encoded body, each field once (RFC 6749 3.2). Problem 400 otherwise."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise Problem(400, "invalid_request", "The body must be form-encoded.")
        try:
            pairs = parse_qsl(self.body.decode("utf-8"), keep_blank_values=True, max_num_fields=50)
        except ValueError:
            raise Problem(400, "invalid_request", "The body is not a form.") from None
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise Problem(400, "invalid_request", "A field is given more than once.")
        return fields

    def bearer(self) -> str | None:
        """The credential of `Authorization: Bearer`, None when there is none."""
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() if scheme.lower() == "bearer" and value.strip() else None


def text_of(document: dict[str, object], name: str, *, longest: int = 4000) -> str:
    """A required non-empty string field of a JSON body. Problem 400 otherwise."""
    value = document.get(name)
    if not isinstance(value, str) or not value or len(value) > longest:
        raise Problem(400, "bad_request", f"The field {name} must be a string.")
    return value


def optional_text_of(document: dict[str, object], name: str, *, longest: int = 4000) -> str | None:
    if document.get(name) is None:
        return None
    return text_of(document, name, longest=longest)


Handler = Callable[[Request, tuple[str, ...]], Awaitable[Reply]]
"""Gets the request and what stood at the `{}` places of its route, in order."""


@dataclass(slots=True)
class _Node:
    fixed: dict[str, "_Node"] = field(default_factory=dict)
    any: "_Node | None" = None
    handlers: dict[str, Handler] = field(default_factory=dict)


class Routes:
    """Templates such as `/admin/accounts/{}/sessions`; a fixed segment wins over `{}`."""

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, method: str, template: str, handler: Handler) -> None:
        node = self._root
        for segment in template.strip("/").split("/"):
            if segment == "{}":
                node.any = node = node.any or _Node()
            else:
                node = node.fixed.setdefault(segment, _Node())
        if method in node.handlers:
            raise ValueError(f"{method} {template} is there already")
        node.handlers[method] = handler

    def find(self, method: str, path: str) -> tuple[Handler, tuple[str, ...]]:
        """Problem 404 for an unknown path, 405 for a known path and another method."""
        node: _Node | None = self._root
        taken: list[str] = []
        for segment in path.strip("/").split("/"):
            assert node is not None
            known = node.fixed.get(segment)
            if known is None and segment:
                taken.append(segment)
                known = node.any
            if known is None:
                raise Problem(404, "not_found", "There is no such resource.")
            node = known
        assert node is not None
        handler = node.handlers.get(method)
        if handler is not None:
            return handler, tuple(taken)
        if not node.handlers:
            raise Problem(404, "not_found", "There is no such resource.")
        allow = (("Allow", ", ".join(sorted(node.handlers))),)
        raise Problem(405, "method_not_allowed", "Another method is needed.", headers=allow)


async def read_request(scope: Scope, receive: Receive) -> Request:
    """The whole request. Problem 413 beyond MAX_BODY; ConnectionError when the caller left."""
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the caller went away")
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            raise Problem(413, "too_large", "The body is too large.")
        parts.append(part)
        more = message.get("more_body", False)
    return Request(
        method=scope["method"],
        path=scope["path"],
        query_string=scope["query_string"].decode("latin-1"),
        headers={k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]},
        body=b"".join(parts),
    )


async def write_reply(send: Send, reply: Reply) -> None:
    headers = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in reply.headers]
    body = b""
    if reply.body is not None:
        body = json.dumps(reply.body, separators=(",", ":")).encode()
        headers.append((b"content-type", b"application/json"))
    if reply.status != 204:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class RoutedApp:
    """An ASGI app over `Routes`; every Problem becomes its answer."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _accept_lifespan(receive, send)
            return
        try:
            request = await read_request(scope, receive)
            handler, taken = self._routes.find(request.method, request.path)
            reply = await handler(request, taken)
        except Problem as problem:
            reply = problem.reply()
        except ConnectionError:
            return
        await write_reply(send, reply)


async def _accept_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
