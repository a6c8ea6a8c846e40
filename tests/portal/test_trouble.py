"""When something below the portal breaks: people get a page, the log gets a place and no value."""

import asyncio
import logging

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from portal import guard
from portal.guard import Guard
from rehearsal.world.serving import Loopback
from tests.portal.world import PortalWorld


def plain(request: Request, status: int) -> Response:
    return PlainTextResponse(f"page {status}", status)


def guarded(app: object) -> Guard:
    return Guard(app, origin="https://a.example", https=True, page=plain)  # type: ignore[arg-type]


async def asked(url: str, said: bytes) -> bytes:
    """The whole answer to some bytes on a connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(said)
        await writer.drain()
        return await asyncio.wait_for(reader.read(65536), 10)
    finally:
        writer.close()


async def test_an_exception_is_logged_without_what_it_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("ana.silva@example.com has code 123456")

    async with Loopback(guarded(broken)) as server:
        with caplog.at_level(logging.INFO):
            answer = await asked(server.url, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"page 500" in answer
    assert b"content-security-policy" in answer.lower()
    assert b"strict-transport-security: max-age=63072000" in answer.lower()
    assert "ValueError at test_trouble.py:" in caplog.text
    assert "ana.silva" not in caplog.text
    assert "123456" not in caplog.text


async def test_a_body_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_TIMEOUT_SECONDS", 0.2)
    reached = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal reached
        reached = reached or scope["type"] == "http"

    async with Loopback(guarded(app)) as server:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf"
        answer = await asked(server.url, head)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()
    assert not reached


async def test_a_ledger_that_went_away(
    world: PortalWorld, person: str, caplog: pytest.LogCaptureFixture
) -> None:
    browser = world.browser()
    page = await world.begin(browser, world.invite(person))
    form = page.forms["/enroll/code/send"]
    world.ledger.close()
    database = world.folder / "ledger" / "ledger.db"
    away = database.with_suffix(".away")
    for suffix in ("", "-wal", "-shm"):
        part = database.with_name(database.name + suffix)
        if part.exists():
            part.rename(away.with_name(away.name + suffix))

    page = await browser.send(form)
    assert page.status == 503
    assert "Nothing has been lost" in page.text
    async with world.http.get(f"{world.url}/readyz") as response:
        assert response.status == 503
    async with world.http.get(f"{world.url}/healthz") as response:
        assert response.status == 200
    assert (await world.browser().open("/enroll")).status == 200, "what needs no ledger goes on"
    assert browser.cookies["__Host-enroll"] not in caplog.text

    world.ledger.close()
    for suffix in ("", "-wal", "-shm"):
        part = away.with_name(away.name + suffix)
        if part.exists():
            part.rename(database.with_name(database.name + suffix))
    page = await browser.send(form)
    assert page.path == "/enroll/code"
    assert page.status == 200
