"""A person's browser, as far as a portal without scripts of consequence needs one.

It keeps cookies by hand, since `Secure` cookies on plain http are kept on loopback alone, and
sends what Chromium sends: the fragment of an address stays with it, a form on a page with
`no-referrer` goes out with `Origin: null`.
"""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

_MOST_REDIRECTS = 5


@dataclass(slots=True)
class Form:
    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Page:
    """What stands on a page: its forms by where they go, and the texts that have an id."""

    status: int
    path: str
    forms: dict[str, Form] = field(default_factory=dict)
    by_id: dict[str, str] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    language: str = ""
    text: str = ""


class Browser:
    """One person's. Remembers cookies for one site; a new Browser is a browser never used."""

    def __init__(self, http: aiohttp.ClientSession, site: str, language: str = "en") -> None:
        self._http = http
        self._site = site.rstrip("/")
        self._headers = {"Accept-Language": language, "Accept": "text/html"}
        self.cookies: dict[str, str] = {}

    async def open(self, address: str) -> Page:
        """Follows a link or types an address; the fragment is not sent."""
        return await self._ask("GET", urlsplit(address)._replace(fragment="").geturl())

    async def send(self, form: Form, **typed: str) -> Page:
        """Presses the button of a form, with what was typed into its fields."""
        fields = {**form.fields, **typed}
        return await self._ask("POST", form.action, fields)

    async def fetch(self, where: str, **fields: str) -> tuple[int, dict[str, Any]]:
        """What a page's script asks its own site for: status and JSON, no page."""
        headers = {**self._headers, **self._cookie(), "Accept": "application/json"}
        headers |= {"Origin": self._site, "Sec-Fetch-Site": "same-origin"}
        async with self._http.request(
            "POST", self._site + where, data=fields, headers=headers, allow_redirects=False
        ) as response:
            if response.content_type != "application/json":
                return response.status, {}
            return response.status, await response.json()

    def _cookie(self) -> dict[str, str]:
        if not self.cookies:
            return {}
        return {"Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())}

    async def _ask(self, method: str, where: str, fields: dict[str, str] | None = None) -> Page:
        for _ in range(_MOST_REDIRECTS):
            address = urljoin(self._site + "/", where)
            headers = {**self._headers, **self._cookie()}
            if method == "POST":
                headers |= {"Origin": "null", "Sec-Fetch-Site": "same-origin"}
            async with self._http.request(
                method, address, data=fields, headers=headers, allow_redirects=False
            ) as response:
                for line in response.headers.getall("Set-Cookie", []):
                    self._keep(line)
                if response.status in (302, 303):
                    method, where, fields = "GET", response.headers["Location"], None
                    continue
                body = await response.text()
                return read_page(response.status, urlsplit(address).path, body)
        raise RuntimeError("redirected in a circle")

    def _keep(self, line: str) -> None:
        for name, morsel in SimpleCookie(line).items():
            loopback = urlsplit(self._site).hostname in ("127.0.0.1", "localhost")
            trusted = self._site.startswith("https://") or loopback
            if morsel["secure"] and not trusted:
                continue
            if name.startswith("__Host-") and not (
                morsel["secure"] and morsel["path"] == "/" and not morsel["domain"]
            ):
                continue
            if morsel["max-age"] == "0":
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = morsel.value


def read_page(status: int, path: str, body: str) -> Page:
    reader = _Reader(Page(status, path))
    reader.feed(body)
    reader.page.text = " ".join(" ".join(reader.words).split())
    return reader.page


class _Reader(HTMLParser):
    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page
        self.words: list[str] = []
        self._form: Form | None = None
        self._open_ids: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        match tag:
            case "html":
                self.page.language = given.get("lang", "")
            case "form":
                self._form = Form(given.get("action", ""), given.get("method", "get"))
                self.page.forms[self._form.action] = self._form
            case "input" if self._form is not None and "name" in given:
                self._form.fields[given["name"]] = given.get("value", "")
            case "a" if "href" in given:
                self.page.links.append(given["href"])
            case "script" if "src" in given:
                self.page.scripts.append(given["src"])
        if "id" in given and tag not in ("input", "script"):
            self.page.by_id[given["id"]] = ""
            self._open_ids.append((tag, given["id"]))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        if self._open_ids and self._open_ids[-1][0] == tag:
            self._open_ids.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._open_ids:
            self.page.by_id[self._open_ids[-1][1]] += data
