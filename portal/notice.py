"""Did you sign this? Takes what a person pastes, and says whose it is and whether the words fit.

Nothing is looked up: the keys are public, and whoever likes checks without us (recovery.notices).
"""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from portal.door import Door
from portal.forms import NoticeForm, fields, read
from portal.texts import choose
from recovery import notices
from recovery.errors import Unverified
from recovery.notices import digest_of

LARGEST_NOTICE = 96 * 1024
"""Two texts of some thousand characters, of which each may take nine bytes on the wire."""


@dataclass(frozen=True, slots=True)
class ShownNotice:
    incident: str
    when: str
    channel: str
    link: str


class NoticePage:
    def __init__(self, door: Door) -> None:
        self._door = door

    async def page(self, request: Request) -> Response:
        return self._door.pages.page(request, "notice", result="", notice=None, problem="")

    async def check(self, request: Request) -> Response:
        door = self._door
        form = read(NoticeForm, await fields(request))
        if form is None:
            texts = choose(request.headers.get("accept-language", ""))
            problem = texts("notice.missing")
            return door.pages.page(request, "notice", 422, result="", notice=None, problem=problem)
        try:
            notice = notices.verify(form.document, door.notice_keys, now=door.clock())
        except Unverified:
            return door.pages.page(request, "notice", result="no", notice=None, problem="")
        result = "half"
        if form.text:
            result = "yes" if digest_of(form.text) == notice.text else "other"
        shown = ShownNotice(
            incident=notice.incident,
            when=f"{notice.sent_at:%Y-%m-%d %H:%M} UTC",
            channel=notice.channel.value,
            link=notice.link,
        )
        return door.pages.page(request, "notice", result=result, notice=shown, problem="")
