"""The SIEM server: an in-memory Elasticsearch 8 on the wire, as far as the rehearsal needs it.

Speaks _search, point in time and _doc with ApiKey or Basic credentials; refuses in Elasticsearch's
shapes. A document is searchable once the clock has passed its event.ingested, and a point in time
keeps what was searchable when it was opened.
"""

import base64
import hmac
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Literal

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rehearsal.world import siem_search
from rehearsal.world.siem_documents import DocumentStore, Stored
from rehearsal.world.siem_errors import (
    MAX_BUCKETS,
    Json,
    SearchRefused,
    illegal,
    no_such_index,
    parsing,
    shards_failed,
)
from rehearsal.world.siem_pits import PointInTime, PointsInTime
from rehearsal.world.wire_faults import (
    FaultyWire,
    PartialShards,
    TimedOut,
    WireFaults,
    drawn_faults,
)

VERSION = "8.19.4"
_PRODUCT = (b"x-elastic-product", b"Elasticsearch")
_JSON_TYPES = ("application/json", "application/vnd.elasticsearch+json")
_SEARCH_PARAMETERS = frozenset(
    {"ignore_unavailable", "allow_no_indices", "expand_wildcards", "allow_partial_search_results"}
    | {"track_total_hits", "size", "from", "timeout", "request_cache", "preference", "routing"}
    | {"pretty", "human", "error_trace"}
)


@dataclass(frozen=True, slots=True)
class Credential:
    """An API key (`name` is its id) or a user of Basic authentication. Reads; writes if it may."""

    kind: Literal["api_key", "basic"]
    name: str
    secret: str = field(repr=False)
    may_write: bool = False

    @property
    def authorization(self) -> str:
        """The header's value that a client sends."""
        pair = base64.b64encode(f"{self.name}:{self.secret}".encode()).decode()
        return f"{'ApiKey' if self.kind == 'api_key' else 'Basic'} {pair}"


class SiemApp:
    """ASGI application. `append` ships documents; `faults` are switched on by scenarios."""

    def __init__(
        self,
        clock: Callable[[], datetime],
        documents: Iterable[Mapping[str, Json]] = (),
        *,
        credentials: Sequence[Credential],
        shards: int = 3,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self.faults = WireFaults()
        self._clock = clock
        self._credentials = {c.authorization: c for c in credentials}
        self._max_buckets = max_buckets
        self._store = DocumentStore(shards)
        self._indices: set[str] = set()
        self._pits = PointsInTime(clock)
        self.append(documents)
        both = ["GET", "POST"]
        application = Starlette(
            routes=[
                Route("/", self._root, methods=["GET"]),
                Route("/_search", self._search_everywhere, methods=both),
                Route("/_pit", self._close_pit, methods=["DELETE"]),
                Route("/{index}/_search", self._search_index, methods=both),
                Route("/{index}/_pit", self._open_pit, methods=["POST"]),
                Route("/{index}/_doc", self._write, methods=["POST"]),
            ],
            exception_handlers={SearchRefused: _refused, HTTPException: _not_routed},
        )
        self._asgi = FaultyWire(application, self.faults, _fault_body, (_PRODUCT,))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._asgi(scope, receive, send)

    def append(self, documents: Iterable[Mapping[str, Json]]) -> None:
        """Ship ECS documents. One without event.ingested is searchable at once; the data stream
        decides the index (logs-<dataset>-<namespace>)."""
        self._indices.update(document.index for document in self._store.add(documents))

    @property
    def searchable(self) -> int:
        """How many documents a search can find now."""
        self._store.publish(self._clock())
        return len(self._store.documents)

    @property
    def open_pits(self) -> int:
        return len(self._pits)

    # ------------------------------------------------------------------ the wire

    async def _root(self, request: Request) -> Response:
        self._authenticate(request)
        version = {"number": VERSION, "build_flavor": "default", "lucene_version": "9.12.2"}
        info = {"name": "rehearsal-1", "cluster_name": "rehearsal", "version": version}
        return _answer(200, {**info, "tagline": "You Know, for Search"})

    async def _search_everywhere(self, request: Request) -> Response:
        self._authenticate(request)
        body = await _search_body(request)
        if body.get("pit") is None:
            return self._searched(request, body, self._store, self._resolve("*", request), None)
        for parameter in ("ignore_unavailable", "allow_no_indices", "expand_wildcards", "routing"):
            if parameter in request.query_params:
                raise illegal(f"[{parameter}] cannot be used with point in time")
        pit = self._pits.use(body["pit"])
        return self._searched(request, body, pit.store, pit.indices, pit)

    async def _search_index(self, request: Request) -> Response:
        self._authenticate(request)
        body = await _search_body(request)
        if body.get("pit") is not None:
            reason = "[indices] cannot be used with point in time. Do not specify any index"
            raise SearchRefused(400, "action_request_validation_exception", reason)
        indices = self._resolve(request.path_params["index"], request)
        return self._searched(request, body, self._store, indices, None)

    def _searched(
        self,
        request: Request,
        body: Mapping[str, Json],
        store: DocumentStore,
        indices: tuple[str, ...],
        pit: PointInTime | None,
    ) -> Response:
        began = time.monotonic()
        now = self._clock()
        if pit is None:
            store.publish(now)
        drawn = drawn_faults(request.scope)
        every = [(index, shard) for index in indices for shard in range(store.shards)]
        failed = every[: sum(fault.shards for fault in drawn if isinstance(fault, PartialShards))]
        failures = [_failure(index, shard) for index, shard in failed]
        timed_out = any(isinstance(fault, TimedOut) for fault in drawn)
        strict = request.query_params.get("allow_partial_search_results") == "false"
        if failed and (strict or len(failed) == len(every)):
            reason = "all shards failed" if len(failed) == len(every) else "Partial shards failure"
            return _answer(503, shards_failed(503, reason, failures))
        if timed_out and strict:
            raise SearchRefused(504, "search_timeout_exception", "Time exceeded", phase=True)
        all_indices = tuple(sorted(self._indices)) == indices and pit is None
        scope = siem_search.Scope(None if all_indices else indices, frozenset(failed), timed_out)
        found = siem_search.search(store, body, scope, now, self._max_buckets)
        answer: dict[str, Json] = {} if pit is None else {"pit_id": self._pits.issue(pit)}
        answer["took"] = int((time.monotonic() - began) * 1000)
        answer["timed_out"] = timed_out
        answer["_shards"] = {
            "total": len(every),
            "successful": len(every) - len(failed),
            "skipped": 0,
            "failed": len(failed),
            **({"failures": failures} if failures else {}),
        }
        return _answer(200, {**answer, **found})

    async def _open_pit(self, request: Request) -> Response:
        self._authenticate(request)
        keep_alive = request.query_params.get("keep_alive")
        if keep_alive is None:
            reason = "Validation Failed: 1: [keep_alive] is not specified;"
            raise SearchRefused(400, "action_request_validation_exception", reason)
        indices = self._resolve(request.path_params["index"], request)
        self._store.publish(self._clock())
        issued = self._pits.open(self._store, indices, keep_alive)
        shards = len(indices) * self._store.shards
        counts = {"total": shards, "successful": shards, "skipped": 0, "failed": 0}
        return _answer(200, {"id": issued, "_shards": counts})

    async def _close_pit(self, request: Request) -> Response:
        self._authenticate(request)
        body = await _json_body(request)
        pit = self._pits.close(body.get("id"))
        freed = 0 if pit is None else len(pit.indices) * pit.store.shards
        return _answer(404 if pit is None else 200, {"succeeded": True, "num_freed": freed})

    async def _write(self, request: Request) -> Response:
        credential = self._authenticate(request)
        if not credential.may_write:
            reason = (
                f"action [indices:data/write/index] is unauthorized for [{credential.name}], "
                "this action is granted by the index privileges [create_doc,create,index,write]"
            )
            raise SearchRefused(403, "security_exception", reason)
        body = await _json_body(request)
        if not isinstance(body.get("@timestamp"), str):
            reason = "data stream timestamp field [@timestamp] is missing"
            raise SearchRefused(400, "document_parsing_exception", reason)
        stored: Stored = self._store.add([body])[0]
        self._indices.add(stored.index)
        written = {"_index": stored.index, "_id": stored.id, "_version": 1, "result": "created"}
        return _answer(201, {**written, "_shards": {"total": 1, "successful": 1, "failed": 0}})

    # ------------------------------------------------------------------ who, where, when

    def _authenticate(self, request: Request) -> Credential:
        given = request.headers.get("authorization", "")
        for authorization, credential in self._credentials.items():
            if hmac.compare_digest(authorization.encode(), given.encode()):
                return credential
        reason = "unable to authenticate with provided credentials"
        if not given:
            reason = "missing authentication credentials for REST request"
        challenge = ['Basic realm="security" charset="UTF-8"', "ApiKey"]
        header = {"WWW-Authenticate": challenge}
        raise SearchRefused(401, "security_exception", reason, header=header)

    def _resolve(self, expression: str, request: Request) -> tuple[str, ...]:
        """The indices that an expression names: commas, wildcards, -exclusions."""
        lenient = request.query_params.get("ignore_unavailable") == "true"
        chosen: set[str] = set()
        for part in expression.split(","):
            if part in ("_all", "*", ""):
                chosen |= self._indices
            elif part.startswith("-") and chosen:
                chosen -= {name for name in chosen if fnmatchcase(name, part[1:])}
            elif "*" in part:
                matching = {name for name in self._indices if fnmatchcase(name, part)}
                if not matching and request.query_params.get("allow_no_indices") == "false":
                    raise no_such_index(part)
                chosen |= matching
            elif part in self._indices:
                chosen.add(part)
            elif not lenient:
                raise no_such_index(part)
        return tuple(sorted(chosen))


def _failure(index: str, shard: int) -> dict[str, Json]:
    reason = {
        "type": "circuit_breaking_exception",
        "reason": "[parent] Data too large, data for [<http_request>] would be over the limit",
    }
    return {"shard": shard, "index": index, "node": "rehearsal-1", "reason": reason}


async def _search_body(request: Request) -> dict[str, Json]:
    """The body with the size, from and track_total_hits of the URL put in their place."""
    body = await _json_body(request)
    for name, value in request.query_params.items():
        if name not in _SEARCH_PARAMETERS:
            path = request.url.path
            raise illegal(f"request [{path}] contains unrecognized parameter: [{name}]")
        if name in ("size", "from"):
            if not value.isdigit():
                raise illegal(f"Failed to parse int parameter [{name}] with value [{value}]")
            body[name] = int(value)
        elif name == "track_total_hits":
            body[name] = int(value) if value.isdigit() else value == "true"
    return body


async def _json_body(request: Request) -> dict[str, Json]:
    raw = await request.body()
    if not raw:
        return {}
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    if media_type.strip().lower() not in _JSON_TYPES:
        reason = f"Content-Type header [{media_type}] is not supported"
        raise SearchRefused(406, "media_type_header_exception", reason)
    asked = re.search(r"compatible-with=(\d+)", parameters)
    if asked is not None and int(asked.group(1)) > int(VERSION.split(".")[0]):
        reason = f"Invalid media-type value on headers [Content-Type]: compatible-with={asked[1]}"
        raise SearchRefused(400, "media_type_header_exception", reason)
    try:
        body = json.loads(raw)
    except ValueError:
        reason = "[1:1] the request's body is not valid JSON"
        raise SearchRefused(400, "x_content_parse_exception", reason) from None
    if not isinstance(body, dict):
        raise parsing("Expected [START_OBJECT] but found another value")
    return body


def _answer(status: int, body: Json) -> Response:
    return Response(
        json.dumps(body, separators=(",", ":")),
        status_code=status,
        media_type="application/json",
        headers={"X-Elastic-Product": "Elasticsearch"},
    )


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, SearchRefused)
    answer = _answer(refusal.status, refusal.body())
    if refusal.status == 401:
        answer.headers.append("WWW-Authenticate", 'Basic realm="security" charset="UTF-8"')
        answer.headers.append("WWW-Authenticate", "ApiKey")
    return answer


async def _not_routed(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, HTTPException)
    uri, method = request.url.path, request.method
    if refusal.status_code == 405:
        reason = f"Incorrect HTTP method for uri [{uri}] and method [{method}]"
        return _answer(405, {"error": reason, "status": 405})
    reason = f"no handler found for uri [{uri}] and method [{method}]"
    return _answer(400, {"error": reason, "status": 400})


def _fault_body(status: int) -> bytes:
    kinds = {429: "es_rejected_execution_exception", 401: "security_exception"}
    kind = kinds.get(status, "unavailable_shards_exception")
    return json.dumps(SearchRefused(status, kind, "the cluster cannot serve this").body()).encode()
