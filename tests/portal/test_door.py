"""What every request meets: where it may come from, what a body may be, what every answer says."""

import re
from typing import Any

import aiohttp
import pytest

from tests.portal.world import PortalWorld

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGES = ["/", "/enroll", "/fresh-link", "/check", "/advice", "/nothing-here"]
_COLOUR = re.compile(r"--([a-z-]+): #([0-9a-f]{6})")
CLOSED = ["/enroll/code", "/enroll/choose", "/enroll/authenticator", "/enroll/done"]


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "{own}"}, True),
        ({"Origin": "{own}"}, True),
        ({"Origin": "null"}, True),
        ({}, True),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "null"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "{own}.evil.example"}, False),
    ],
)
async def test_forms_from_elsewhere(
    shared: PortalWorld, headers: dict[str, str], allowed: bool
) -> None:
    given = {name: value.replace("{own}", shared.url) for name, value in headers.items()}
    async with shared.http.post(
        f"{shared.url}/fresh-link", data={"identifier": "nobody"}, headers=given
    ) as response:
        assert (response.status == 200) is allowed
        assert response.status in (200, 403)


async def test_the_host_header_is_never_believed(shared: PortalWorld, person: str) -> None:
    browser = shared.browser()
    link = shared.invite(person)
    form = (await browser.open("/enroll")).forms["/enroll/begin"]
    async with shared.http.post(
        f"{shared.url}{form.action}",
        data={"token": link.partition("#t=")[2]},
        headers={"Host": "evil.example"},
        allow_redirects=False,
    ) as response:
        assert response.status == 303
        assert response.headers["Location"] == "/enroll/code"
        assert "evil" not in "".join(response.headers.values())


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"token=" + b"a" * 20_000, {}, 413),
        (b"token=x&token=y", {}, 400),
        (b"{}", {"Content-Type": "application/json"}, 415),
        (b"\xff\xfe=%ff", {}, 400),
        (b"&".join(b"f%d=1" % n for n in range(50)), {}, 400),
        (b"", {}, 400),
    ],
)
async def test_bodies_that_are_no_form(
    shared: PortalWorld, data: bytes, headers: dict[str, str], status: int
) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    async with shared.http.post(f"{shared.url}/enroll/begin", data=data, headers=kind) as response:
        assert response.status == status
        assert "text/html" in response.headers["Content-Type"]


async def test_a_body_without_a_length_is_cut_off(shared: PortalWorld) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"a" * 1024

    try:
        async with shared.http.post(
            f"{shared.url}/fresh-link",
            data=endless(),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        ) as response:
            assert response.status == 413
    except aiohttp.ClientConnectionError:
        pass  # The door was shut while the client was still talking.
    async with shared.http.get(f"{shared.url}/healthz") as response:
        assert response.status == 200


@pytest.mark.parametrize(("size", "status"), [(8_000, 200), (17_000, 431), (200_000, 400)])
async def test_headers_that_are_too_long(shared: PortalWorld, size: int, status: int) -> None:
    """Beyond what we take; far beyond that the server does not even read on."""
    async with shared.http.get(shared.url, headers={"X-Long": "a" * size}) as response:
        assert response.status == status


# ---------------------------------------------------------------------- answers


@pytest.mark.parametrize("path", [*PAGES, *CLOSED, "/static/portal.css", "/healthz", "/readyz"])
async def test_headers_on_every_answer(shared: PortalWorld, path: str) -> None:
    async with shared.http.get(shared.url + path) as response:
        headers = response.headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "Permissions-Policy" in headers
        assert "Strict-Transport-Security" not in headers, "this one is served without TLS"
        static = path.startswith("/static/")
        assert headers["Cache-Control"] == ("public, max-age=3600" if static else "no-store")


@pytest.mark.parametrize("path", [*PAGES, *CLOSED])
async def test_pages_hold_nothing_foreign(shared: PortalWorld, path: str) -> None:
    async with shared.http.get(shared.url + path) as response:
        body = await response.text()
    assert len(body) < 50_000
    for address in re.findall(r"""(?:src|href|action)=["']([^"']*)""", body):
        assert address.startswith("/") or address == "#main", address
        assert not address.startswith("//"), address
    assert " style=" not in body
    assert not re.search(r"<script(?![^>]* src=)", body)
    assert not re.search(r"\son\w+=", body)
    assert "<style" not in body
    for field in re.findall(r'<input type="text"[^>]*>', body):
        name = re.search(r' id="(\w+)"', field)
        assert name is not None
        assert f'<label for="{name[1]}">' in body


async def test_all_files_together_are_small(shared: PortalWorld) -> None:
    weight = 0
    for path in ("/enroll", "/static/portal.css", "/static/enroll.js", "/static/icon.svg"):
        async with shared.http.get(shared.url + path) as response:
            assert response.status == 200
            weight += len(await response.read())
    assert weight < 50_000


@pytest.mark.parametrize("path", [*PAGES[:-1], "/enroll/begin", "/enroll/code/send"])
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_other_methods(shared: PortalWorld, method: str, path: str) -> None:
    async with shared.http.request(method, shared.url + path) as response:
        assert response.status == 405


async def test_opening_has_no_effect(shared: PortalWorld, person: str) -> None:
    """Every path by GET and HEAD, with the cookie of a session in the middle of its way."""
    browser = shared.browser()
    page = await shared.begin(browser, shared.invite(person))
    await browser.send(page.forms["/enroll/code/send"])
    await shared.twilio.settled()
    cookies = [{}, {"Cookie": f"__Host-enroll={browser.cookies['__Host-enroll']}"}]
    paths = [*PAGES, *CLOSED, "/enroll/begin", "/enroll/code/send", "/readyz", "/static/enroll.js"]
    before = shared.ledger_digest(), shared.mailboxes.digest()
    for cookie in cookies:
        for path in paths:
            for method in ("GET", "HEAD", "GET"):
                query = "?t=abc&code=123456&identifier=someone&token=x"
                async with shared.http.request(
                    method, shared.url + path + query, headers=cookie, allow_redirects=False
                ) as response:
                    assert response.status in (200, 303, 400, 404, 405)
                    assert "Set-Cookie" not in response.headers
    assert (shared.ledger_digest(), shared.mailboxes.digest()) == before
    assert len(shared.twilio.messages) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_colours_are_told_apart(shared: PortalWorld, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: text 4.5 to 1; 1.4.11: borders of fields 3 to 1."""
    async with shared.http.get(f"{shared.url}/static/portal.css") as response:
        style = await response.text()
    light, dark = (dict(_COLOUR.findall(block)) for block in style.split("@media", 2)[:2])
    colours = light if scheme == "light" else light | dark
    for text, ground, least in (
        ("ink", "paper", 4.5),
        ("ink", "ground", 4.5),
        ("soft", "paper", 4.5),
        ("soft", "ground", 4.5),
        ("deed", "paper", 4.5),
        ("deed", "ground", 4.5),
        ("deed-ink", "deed", 4.5),
        ("deed-ink", "deed-over", 4.5),
        ("ink", "good-ground", 4.5),
        ("ink", "bad-ground", 4.5),
        ("ink", "note-ground", 4.5),
        ("deed", "note-ground", 4.5),
        ("field", "paper", 3.0),
        ("bad", "paper", 3.0),
    ):
        assert _contrast(colours[text], colours[ground]) >= least, (text, ground)


def _contrast(first: str, second: str) -> float:
    brighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


async def test_health_is_for_machines(shared: PortalWorld) -> None:
    for path, said in (("/healthz", "alive"), ("/readyz", "ready")):
        async with shared.http.get(shared.url + path) as response:
            assert (response.status, (await response.text()).strip()) == (200, said)
