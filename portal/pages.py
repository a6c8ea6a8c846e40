"""Makes pages: one template and one language's texts into an answer. Everything is escaped."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from portal.settings import PortalSettings
from portal.texts import choose

HERE = Path(__file__).parent

_ERRORS = {403: "form", 404: "missing", 405: "missing", 429: "many", 500: "busy", 503: "busy"}
_RETRY_AFTER = {429: "60", 503: "30"}


class Pages:
    def __init__(self, settings: PortalSettings) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(
            organization=settings.organization,
            site=settings.site,
            address=settings.public_url,
            support=settings.support,
            passkeys=settings.rp_id is not None,
        )

    def page(
        self, request: Request, template: str, status: int = 200, **values: object
    ) -> Response:
        """`template` without its ending; `t` in it is the language's texts."""
        texts = choose(request.headers.get("accept-language", ""))
        body = self._environment.get_template(f"{template}.html").render(
            t=texts, lang=texts.tag, path=request.url.path, **values
        )
        headers = {"content-language": texts.tag, "vary": "Accept-Language"}
        if status in _RETRY_AFTER:
            headers["retry-after"] = _RETRY_AFTER[status]
        return Response(body, status, headers, media_type="text/html")

    def error(self, request: Request, status: int) -> Response:
        """The page for what is nobody's step: a status and the sentence that goes with it."""
        about = _ERRORS.get(status, "form" if status < 500 else "busy")
        return self.page(request, "error", status, about=about)


def see(path: str, headers: Mapping[str, str] | None = None) -> Response:
    """303: go and look there. Paths alone, so that no Host header gets into an address."""
    return RedirectResponse(path, 303, headers)
