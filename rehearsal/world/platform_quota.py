"""Who may administer the platform and how fast: opaque admin tokens, a quota on each."""

import hmac
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from rehearsal.world.asgi import Headers, Problem
from rehearsal.world.clock import WorldClock


class Scope(StrEnum):
    """ADMIN is everything under /admin, READ what changes nothing there; BIND only to list and add
    an account's authenticators."""

    ADMIN = "admin"
    READ = "read"
    BIND = "bind"


@dataclass(frozen=True, slots=True)
class AdminToken:
    """`per_second` is both the refill and the size of the bucket, in real time; `concurrent`
    the requests that may be in the server at once."""

    value: str = field(repr=False)
    scopes: frozenset[Scope] = frozenset({Scope.ADMIN})
    per_second: float = 50.0
    concurrent: int = 20
    expires_at: datetime | None = None
    shares: str = ""
    """Name of a quota that several tokens have together; empty for one of its own."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float
    running: int = 0


class AdminDoor:
    """Authenticates admin tokens and enforces their quotas."""

    def __init__(self, clock: WorldClock, tokens: Iterable[AdminToken] = ()) -> None:
        self._clock = clock
        self._tokens: dict[str, AdminToken] = {}
        self._buckets: dict[str, _Bucket] = {}
        for token in tokens:
            self.add(token)

    def add(self, token: AdminToken) -> None:
        """Makes a token valid, or changes the terms of one that is; its bucket is full."""
        self._tokens[token.value] = token
        full = _Bucket(_capacity(token), time.monotonic())
        if token.shares:
            self._buckets.setdefault(token.shares, full)
        else:
            self._buckets[token.value] = full

    def withdraw(self, value: str) -> None:
        self._tokens.pop(value, None)

    def authenticate(self, value: str | None) -> AdminToken:
        """Problem 401 invalid_token or token_expired."""
        token = self._tokens.get(value or "")
        if token is None or not hmac.compare_digest(token.value, value or ""):
            raise _unauthorized("invalid_token", "An admin token is needed.")
        if token.expires_at is not None and token.expires_at <= self._clock.now():
            raise _unauthorized("token_expired", "The admin token has expired.")
        return token

    @contextmanager
    def lease(self, token: AdminToken) -> Iterator[Headers]:
        """A place in the server for one request; yields the quota headers of its answer.

        Problem 429 when the bucket is empty or all places are taken; that costs no quota.
        """
        bucket = self._buckets[token.shares or token.value]
        now = time.monotonic()
        refilled = bucket.tokens + (now - bucket.filled_at) * token.per_second
        bucket.tokens = min(_capacity(token), refilled)
        bucket.filled_at = now
        if bucket.tokens < 1 or bucket.running >= token.concurrent:
            headers = (("Retry-After", "1"), *self._headers(token, bucket))
            raise Problem(429, "rate_limited", "Too many requests.", headers=headers)
        bucket.tokens -= 1
        bucket.running += 1
        try:
            yield self._headers(token, bucket)
        finally:
            bucket.running -= 1

    def _headers(self, token: AdminToken, bucket: _Bucket) -> Headers:
        until_full = (_capacity(token) - bucket.tokens) / token.per_second
        return (
            ("X-RateLimit-Limit", str(int(_capacity(token)))),
            ("X-RateLimit-Remaining", str(int(bucket.tokens))),
            ("X-RateLimit-Reset", str(math.ceil(self._clock.timestamp() + until_full))),
        )


def _capacity(token: AdminToken) -> float:
    return max(1.0, token.per_second)


def _unauthorized(code: str, text: str) -> Problem:
    return Problem(401, code, text, headers=(("WWW-Authenticate", 'Bearer realm="admin"'),))
