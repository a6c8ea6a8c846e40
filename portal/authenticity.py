"""Is this message yours? Compares the code in it with those of the messages that were really sent.

A person types the known address himself; a code that he types where the message's own link led
him would prove nothing.
"""

import hmac
import time
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from portal.door import Door, in_thread
from portal.forms import CheckForm, fields, read
from portal.texts import choose
from recovery.accounts import Channel
from recovery.incident import ActRecord, Visitor
from recovery.messages import notice_id
from recovery.notify import authenticity_code


@dataclass(frozen=True, slots=True)
class Sent:
    """A message as its own reader may see it."""

    when: str
    channel: str
    contact: str


class Authenticity:
    def __init__(self, door: Door) -> None:
        self._door = door
        self._key = door.settings.code_key.get_secret_value().encode()

    async def page(self, request: Request) -> Response:
        return self._door.pages.page(request, "check", checked=False, problem="")

    async def check(self, request: Request) -> Response:
        """The same answer, after the same time, for a wrong code and for an unknown account."""
        started = time.monotonic()
        form = read(CheckForm, await fields(request))
        if form is None:
            texts = choose(request.headers.get("accept-language", ""))
            problem = texts("check.missing")
            return self._door.pages.page(request, "check", 422, checked=False, problem=problem)
        if not await self._allowed(request, form.identifier):
            return self._door.pages.error(request, 429)
        found = await in_thread(lambda: self._sent(form.identifier, form.code))
        await self._door.no_sooner(started)
        return self._door.pages.page(request, "check", checked=True, found=found)

    async def _allowed(self, request: Request, identifier: str) -> bool:
        """Counts what was typed, whether or not there is such an account."""
        door, limits = self._door, self._door.settings.limits
        return (
            await door.allowed("check", "", limits.check_overall)
            and await door.allowed("check-client", door.client(request), limits.check_per_client)
            and await door.allowed(
                "check-identifier", identifier.casefold(), limits.check_per_identifier
            )
        )

    def _sent(self, identifier: str, code: str) -> list[Sent]:
        ledger = self._door.ledger
        return [
            _shown(account, record)
            for account in ledger.find_account(identifier)
            for record in ledger.notices(account.ref)
            if self._carries(record, code)
        ]

    def _carries(self, record: ActRecord, code: str) -> bool:
        act = record.act
        expected = authenticity_code(self._key, notice_id(act.subject, act.step, act.generation))
        return hmac.compare_digest(expected.encode(), code.encode())


def _shown(account: Visitor, record: ActRecord) -> Sent:
    channel = Channel(record.act.step.split(".")[1])
    sent_at = record.settled_at or record.intended_at
    contact = ""
    if channel is Channel.EMAIL:
        contact = masked_email(account.email or "")
    elif channel is Channel.SMS:
        contact = f"•••• {(account.phone or '')[-2:]}"
    return Sent(f"{sent_at:%Y-%m-%d %H:%M} UTC", channel.value, contact)


def masked_email(address: str) -> str:
    """`a•••@e•••.com`: enough for its owner, little for anybody else."""
    local, _, domain = address.rpartition("@")
    name, dot, ending = domain.rpartition(".")
    return f"{local[:1]}•••@{name[:1]}•••{dot}{ending}"
