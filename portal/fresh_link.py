"""A fresh link for who missed the first: always the same answer, at the same moment.

The account is looked up after the answer, so that no one learns from it which accounts exist; the
link goes to the contacts on record, by the flow that serves the ledger's requests.
"""

import asyncio
import logging

from starlette.requests import Request
from starlette.responses import Response

from portal.door import Door, in_thread
from portal.forms import FreshLinkForm, fields, read
from portal.texts import choose
from recovery.accounts import Stage
from recovery.errors import RecoveryError

_SERVED = frozenset({Stage.TOKEN_ISSUED, Stage.NOTIFIED})
_MOST_AT_ONCE = 200
_PATIENCE_SECONDS = 5.0

log = logging.getLogger("portal")


class FreshLink:
    def __init__(self, door: Door) -> None:
        self._door = door
        self._running: set[asyncio.Task[None]] = set()

    async def page(self, request: Request) -> Response:
        return self._door.pages.page(request, "fresh", asked=False, problem="")

    async def ask(self, request: Request) -> Response:
        form = read(FreshLinkForm, await fields(request))
        if form is None:
            texts = choose(request.headers.get("accept-language", ""))
            return self._door.pages.page(
                request, "fresh", 422, asked=False, problem=texts("fresh.missing")
            )
        # These two look at who asks, never at what is asked for.
        limits = self._door.settings.limits
        if not (
            await self._door.allowed("fresh", "", limits.fresh_link_overall)
            and await self._door.allowed(
                "fresh-client", self._door.client(request), limits.fresh_link_per_client
            )
        ):
            return self._door.pages.error(request, 429)
        if len(self._running) >= _MOST_AT_ONCE:
            return self._door.pages.error(request, 503)
        task = asyncio.create_task(self._note(form.identifier))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return self._door.pages.page(request, "fresh", asked=True, problem="")

    async def drained(self) -> None:
        """Returns when what was asked for is noted, or after a few seconds."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=_PATIENCE_SECONDS)

    async def _note(self, identifier: str) -> None:
        door = self._door
        limit = door.settings.limits.fresh_link_per_identifier
        try:
            if not await door.allowed("fresh-identifier", identifier.casefold(), limit):
                return

            def within(ref: str) -> bool:
                """However the account was named: by its handle, by its address."""
                most = door.settings.limits.fresh_link_per_account
                return door.ledger.throttle(f"fresh-account:{ref}", limit=most.limit, per=most.per)

            def note() -> None:
                for account in door.ledger.find_account(identifier):
                    if account.stage in _SERVED and within(account.ref):
                        door.ledger.request_link(account.ref)

            await in_thread(note)
        except RecoveryError as error:
            log.error("a request for a fresh link was lost: %s", error)
