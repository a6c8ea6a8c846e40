"""Any other CI behind a webhook: a signed POST starts a job, a status address tells how it goes.

The protocol is ours and small (docs/systems.md): `Idempotency-Key` after the IETF draft of that
name, an HMAC-SHA256 over time and body, 202 with `Location` (RFC 9110 15.3.3). The status address
must be on the webhook's own origin: an answer can't send us elsewhere with our signature.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import urljoin, urlsplit

import httpx
from pydantic import BaseModel, SecretStr

from clients.ci import FOLLOW, START, CiRuns, Look, Search, State, shown_link
from clients.http import Wire
from recovery.errors import Misconfigured, Unknown

TIMESTAMP = "X-Recovery-Timestamp"
SIGNATURE = "X-Recovery-Signature"

_WORD = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_WAITING = {"queued": "still in the queue"}
_GREEN = ("succeeded", "success")
_RED = {"failed": "", "cancelled": "cancelled", "canceled": "cancelled", "timed_out": ""}


class _Accepted(BaseModel):
    status_url: str = ""


class _Status(BaseModel):
    state: str
    id: str | int = ""
    log_url: str = ""


class WebhookCiClient(CiRuns):
    """Over a wire without credentials: each request is signed with `secret`. `path` is where jobs
    are started, below the wire's address."""

    system: ClassVar[str] = "the CI webhook"

    def __init__(
        self,
        wire: Wire,
        secret: SecretStr,
        *,
        path: str = "/jobs",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        **more: Any,
    ) -> None:
        super().__init__(wire, **more)
        self._secret = secret
        self._prefix = urlsplit(wire.base_url).path.rstrip("/")
        self._start_path = path
        self._clock = clock

    async def _find(self, job: str, run_id: str) -> Search:
        # The start itself finds it: the same key gets the same run.
        return Search(findable=False)

    async def _start(self, job: str, parameters: Mapping[str, str], run_id: str) -> str:
        body = json.dumps(
            {"job": job, "parameters": dict(parameters), "run_id": run_id},
            separators=(",", ":"),
            sort_keys=True,
        ).encode()
        response = await self._wire.request(
            "POST",
            self._start_path,
            attempted=START,
            subject=job,
            content=body,
            headers={
                "Content-Type": "application/json",
                "Idempotency-Key": run_id,
                **self._signed("POST", self._start_path, body),
            },
            ok=(200, 201, 202),
            repeatable=True,
        )
        return self._on_our_origin(job, self._status_address(response))

    async def _look(self, job: str, ref: str, run_id: str) -> Look:
        response = await self._wire.request(
            "GET",
            ref,
            attempted=FOLLOW,
            subject=job,
            headers={**self._signed("GET", ref, b"")},
            repeatable=True,
        )
        status = self._wire.read(response, _Status)
        url = shown_link(urljoin(f"{self._wire.base_url}{ref}", status.log_url or ref))
        state = status.state if _WORD.fullmatch(status.state) else "an unreadable state"
        number = status.id or run_id
        if state in _GREEN:
            return Look(State.GREEN, number, url, state)
        if state in _RED:
            return Look(State.RED, number, url, state, code=_RED[state])
        if state in _WAITING:
            return Look(State.WAITING, number, url, _WAITING[state])
        return Look(State.RUNNING, number, url)

    def _signed(self, method: str, path: str, body: bytes) -> dict[str, str]:
        """What the other side checks: who, when (so that it can't be replayed later) and what."""
        moment = str(int(self._clock().timestamp()))
        whole = f"{self._prefix}{path}"
        signed = b"\n".join([moment.encode(), method.encode(), whole.encode(), body])
        key = self._secret.get_secret_value().encode()
        return {
            TIMESTAMP: moment,
            SIGNATURE: f"sha256={hmac.new(key, signed, hashlib.sha256).hexdigest()}",
        }

    def _status_address(self, response: httpx.Response) -> str:
        location: str = response.headers.get("location", "")
        return location or self._wire.read(response, _Accepted).status_url

    def _on_our_origin(self, job: str, address: str) -> str:
        """Path and query of the status address; the rest must be the webhook's own."""
        if not address:
            raise Unknown(
                START,
                subject=job,
                expected="a status address (Location or status_url)",
                got="none",
                advice="It may run. Look at the webhook's own log.",
            )
        base = f"{self._wire.base_url}{self._start_path}"
        try:
            ours, theirs = urlsplit(base), urlsplit(urljoin(base, address))
            same = _origin(ours) == _origin(theirs) and not theirs.username
        except ValueError:
            same = False
        if not same:
            raise Misconfigured(
                FOLLOW,
                subject=job,
                expected="a status address on the webhook's own host",
                got="another host",
                advice="It was started; nobody follows it. Mend the webhook's answer, or the "
                "address in its block.",
            )
        path = theirs.path
        if not path.startswith(f"{self._prefix}/"):
            raise Misconfigured(
                FOLLOW,
                subject=job,
                expected="a status address below the webhook's own path",
                got="another path",
                advice="Mend the webhook's answer, or the address in its block.",
            )
        path = path.removeprefix(self._prefix)
        return f"{path}?{theirs.query}" if theirs.query else path


def _origin(parts: Any) -> tuple[str, str | None, int | None]:
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port
