"""Liveness and readiness, for whoever restarts the portal and sends traffic to it."""

import logging
import time

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ledger import Ledger
from portal.door import in_thread
from portal.server import Leaving
from recovery.errors import RecoveryError

_KEPT_SECONDS = 2.0

log = logging.getLogger("portal")


class Health:
    """Readiness is asked of the ledger at most every two seconds, however often one asks us."""

    def __init__(self, ledger: Ledger, leaving: Leaving | None = None) -> None:
        self._ledger = ledger
        self._leaving = leaving or Leaving()
        self._known: tuple[float, bool] | None = None

    async def alive(self, request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def ready(self, request: Request) -> Response:
        now = time.monotonic()
        if self._known is None or now - self._known[0] > _KEPT_SECONDS:
            self._known = (now, await self._look())
        if self._known[1] and not self._leaving.told:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready\n", 503, {"retry-after": "5"})

    async def _look(self) -> bool:
        try:
            await in_thread(self._ledger.check)
        except RecoveryError as error:
            log.error("the portal is not ready: %s", error)
            return False
        return True
