"""The incident status page: what the flow made public at the notify gate, and not a word more.

HTML, JSON and Atom (RFC 4287) of the same. Everything is cacheable, and the ledger is asked every
few seconds at most, however many people ask: on the worst day everybody does.
"""

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree import ElementTree as Xml

from starlette.requests import Request
from starlette.responses import Response

from portal.door import Door, in_thread
from portal.jwks import cacheable
from portal.texts import DEFAULT, Texts, choose
from recovery.errors import RecoveryError
from recovery.status import PublicStatus, StatusText, coarse

_KEPT_SECONDS = 5.0
_CACHED = "public, max-age=30"
_ATOM = "http://www.w3.org/2005/Atom"
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

log = logging.getLogger("portal")


@dataclass(frozen=True, slots=True)
class Moment:
    machine: str
    words: str


@dataclass(frozen=True, slots=True)
class ShownStep:
    when: Moment
    sentence: str


@dataclass(frozen=True, slots=True)
class Shown:
    id: str
    title: str
    body: str
    published: Moment
    closed: bool
    steps: list[ShownStep]


class StatusPage:
    def __init__(self, door: Door) -> None:
        self._door = door
        self._known: tuple[float, list[PublicStatus]] | None = None
        self._looking = asyncio.Lock()

    async def page(self, request: Request) -> Response:
        texts = choose(request.headers.get("accept-language", ""))
        incidents = [_shown(status, texts) for status in await self._statuses()]
        made = self._door.pages.page(request, "status", incidents=incidents)
        headers = {"content-language": texts.tag, "vary": "Accept-Language"}
        return cacheable(request, bytes(made.body), "text/html", _CACHED, headers)

    async def document(self, request: Request) -> Response:
        incidents = [_as_json(status) for status in await self._statuses()]
        body = json.dumps({"incidents": incidents}, ensure_ascii=False, indent=1).encode()
        return cacheable(request, body, "application/json", _CACHED, _FOR_ALL)

    async def feed(self, request: Request) -> Response:
        texts = choose(request.headers.get("accept-language", ""))
        settings = self._door.settings
        body = _atom(await self._statuses(), texts, settings.public_url, settings.organization)
        headers = {**_FOR_ALL, "content-language": texts.tag, "vary": "Accept-Language"}
        return cacheable(request, body, "application/atom+xml", _CACHED, headers)

    async def _statuses(self) -> list[PublicStatus]:
        """Of the last seconds. Where the ledger is away, what was known before stands."""
        async with self._looking:
            now = time.monotonic()
            if self._known is not None and now - self._known[0] <= _KEPT_SECONDS:
                return self._known[1]
            try:
                found = await in_thread(self._door.ledger.public_statuses)
            except RecoveryError as error:
                if self._known is None:
                    raise
                log.error("the status page shows what it knew before: %s", error)
                found = self._known[1]
            self._known = (now, found)
            return found


# Machines of others may read it from their own pages; there is nothing personal in it.
_FOR_ALL = {"access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}


def _text_of(status: PublicStatus, tag: str) -> StatusText:
    return status.texts.get(tag) or status.texts[DEFAULT]


def _moment(at: datetime) -> Moment:
    return Moment(_rfc3339(at), f"{at:%Y-%m-%d %H:%M} UTC")


def _rfc3339(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _shown(status: PublicStatus, texts: Texts) -> Shown:
    text = _text_of(status, texts.tag)
    return Shown(
        id=status.incident_id,
        title=text.title,
        body=text.body,
        published=_moment(coarse(status.published_at)),
        closed=status.closed,
        steps=[ShownStep(_moment(at), text.steps[step]) for step, at in reversed(status.steps)],
    )


def _as_json(status: PublicStatus) -> dict[str, object]:
    return {
        "id": status.incident_id,
        "published": _rfc3339(coarse(status.published_at)),
        "changed": _rfc3339(status.changed_at),
        "closed": status.closed,
        "texts": {
            tag: {"title": text.title, "body": text.body}
            for tag, text in sorted(status.texts.items())
        },
        "steps": [
            {
                "step": step.value,
                "at": _rfc3339(at),
                "texts": {tag: text.steps[step] for tag, text in sorted(status.texts.items())},
            }
            for step, at in status.steps
        ],
    }


def _atom(statuses: list[PublicStatus], texts: Texts, address: str, organization: str) -> bytes:
    """An entry for each incident and each of its steps, the newest first."""
    page = f"{address}/status"
    feed = Xml.Element("feed", {"xmlns": _ATOM, "xml:lang": texts.tag})
    _add(feed, "id", page)
    _add(feed, "title", f"{organization}: {texts('status.title')}")
    _add(feed, "updated", _rfc3339(max((s.changed_at for s in statuses), default=_NEVER)))
    _add(_add(feed, "author"), "name", organization)
    Xml.SubElement(feed, "link", rel="self", type="application/atom+xml", href=f"{page}.atom")
    Xml.SubElement(feed, "link", rel="alternate", type="text/html", href=page)
    for status in statuses:
        text = _text_of(status, texts.tag)
        anchor = f"{page}#{status.incident_id}"
        for step, at in reversed(status.steps):
            _entry(feed, f"{anchor}-{step.value}", text.title, text.steps[step], at, anchor)
        _entry(feed, anchor, text.title, text.body, coarse(status.published_at), anchor)
    spelled: bytes = Xml.tostring(feed, encoding="utf-8", xml_declaration=True)
    return spelled


def _entry(feed: Xml.Element, name: str, title: str, content: str, at: datetime, link: str) -> None:
    entry = _add(feed, "entry")
    _add(entry, "id", name)
    _add(entry, "title", title)
    _add(entry, "updated", _rfc3339(at))
    _add(entry, "content", content).set("type", "text")
    Xml.SubElement(entry, "link", rel="alternate", type="text/html", href=link)


def _add(parent: Xml.Element, name: str, text: str | None = None) -> Xml.Element:
    element = Xml.SubElement(parent, name)
    element.text = text
    return element
