"""Hands mail to SendGrid's v3 API (docs: Mail Send, Email Activity): one request for many people.

Built with SendGrid's own mail helpers, sent over our wire: their client is blocking, has no
timeout and logs the API key. Every person has a personalization of his own, or they would see
each other's address and share one link.
"""

import re
from collections.abc import Collection, Sequence

from pydantic import BaseModel
from sendgrid.helpers.mail import (
    BypassUnsubscribeManagement,
    Category,
    ClickTracking,
    Content,
    CustomArg,
    From,
    Ganalytics,
    Header,
    Mail,
    MailSettings,
    OpenTracking,
    Personalization,
    Subject,
    SubscriptionTracking,
    Substitution,
    To,
    TrackingSettings,
)

from clients.http import OnWire, Wire
from recovery.messages import EmailCopy, EmailText

MOST_COPIES = 1_000
_NOTICE_ID = re.compile(r"[A-Za-z0-9._:-]{1,200}")
_FARTHEST_FIRST = ("delivered", "not_delivered", "processing", "processed")


class _Message(BaseModel):
    status: str


class _Messages(BaseModel):
    messages: list[_Message]


def split_batches(copies: Sequence[EmailCopy], size: int) -> list[list[EmailCopy]]:
    """The copies in requests of at most `size`, none of which holds an address twice: SendGrid
    refuses all of a request with a double, and shared mailboxes are common."""
    if not 1 <= size <= MOST_COPIES:
        raise ValueError(f"a request holds 1 to {MOST_COPIES} copies")
    rounds: list[list[EmailCopy]] = []
    times: dict[str, int] = {}
    for copy in copies:
        turn = times.get(_same(copy.to), 0)
        times[_same(copy.to)] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(copy)
    return [turn[i : i + size] for turn in rounds for i in range(0, len(turn), size)]


class SendGridClient(OnWire):
    """Sends from one verified sender. Closing it closes the wire.

    All tracking is off: it would put a stranger's host into the one link people may trust, and
    give him the token. `bypass_unsubscribes` reaches people who left the newsletter; bounces and
    spam reports are always respected.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        sender_email: str,
        sender_name: str,
        bypass_unsubscribes: bool = False,
    ) -> None:
        self._wire = wire
        self._sender_email = sender_email
        self._sender_name = sender_name
        self._bypass_unsubscribes = bypass_unsubscribes

    async def send(self, text: EmailText, copies: Sequence[EmailCopy], *, category: str) -> str:
        """One request; SendGrid's id of it. It is accepted then, not delivered.

        Never repeated after it may have arrived: Unknown, and then `found` tells. ValueError for
        no copy, more than 1,000, or an address twice: see `split_batches`.
        """
        if not 1 <= len(copies) <= MOST_COPIES:
            raise ValueError(f"a request holds 1 to {MOST_COPIES} copies")
        if len({_same(copy.to) for copy in copies}) < len(copies):
            raise ValueError("an address stands twice in one request")
        response = await self._wire.request(
            "POST",
            "/v3/mail/send",
            attempted=f"Send {len(copies)} emails",
            subject=category,
            json=self._mail(text, copies, category),
            ok=(202,),
            repeatable=False,
        )
        return str(response.headers.get("x-message-id", ""))

    async def found(self, notice_ids: Collection[str]) -> dict[str, str]:
        """SendGrid's status of each notice that it knows: `delivered`, `not_delivered`,
        `processed`. One that is missing was not accepted, or only seconds ago."""
        statuses: dict[str, str] = {}
        for notice_id in notice_ids:
            if not _NOTICE_ID.fullmatch(notice_id):
                raise ValueError("a notice id goes into a query and has only plain characters")
            response = await self._wire.request(
                "GET",
                "/v3/messages",
                attempted="Search for a sent email",
                subject=notice_id,
                params={"limit": "10", "query": f"unique_args['notice_id']=\"{notice_id}\""},
                repeatable=True,
            )
            found = {m.status for m in self._wire.read(response, _Messages).messages}
            if found:
                known = [status for status in _FARTHEST_FIRST if status in found]
                statuses[notice_id] = known[0] if known else min(found)
        return statuses

    def _mail(self, text: EmailText, copies: Sequence[EmailCopy], category: str) -> object:
        mail = Mail()
        mail.from_email = From(self._sender_email, self._sender_name)
        mail.subject = Subject(text.subject)
        mail.add_content(Content("text/plain", text.text))
        mail.add_content(Content("text/html", text.html))
        mail.add_category(Category(category))
        mail.tracking_settings = TrackingSettings(
            click_tracking=ClickTracking(enable=False, enable_text=False),
            open_tracking=OpenTracking(enable=False),
            subscription_tracking=SubscriptionTracking(enable=False),
            ganalytics=Ganalytics(enable=False),
        )
        if self._bypass_unsubscribes:
            mail.mail_settings = MailSettings(
                bypass_unsubscribe_management=BypassUnsubscribeManagement(enable=True)
            )
        for copy in copies:
            mail.add_personalization(_personalization(copy))
        return mail.get()


def _personalization(copy: EmailCopy) -> Personalization:
    personalization = Personalization()
    to = To()
    # Given to the constructor it would be parsed as "name <address>", and changed.
    to.email = copy.to
    personalization.add_to(to)
    for tag, value in copy.values.items():
        personalization.add_substitution(Substitution(f"-{tag}-", value))
    for name, value in copy.headers.items():
        personalization.add_header(Header(name, value))
    # SendGrid's staff can read custom arguments for ever: nothing but our opaque id.
    personalization.add_custom_arg(CustomArg("notice_id", copy.notice_id))
    return personalization


def _same(address: str) -> str:
    return address.strip().casefold()
