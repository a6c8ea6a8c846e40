"""Which notices a person gets, over which channel, and what proves that they are ours.

The enrollment link goes by email and in-app; the text message carries no link, so that the weaker
channel never governs. Accounts left to a person get a notice without any link. The texts are in
`recovery.notify_texts`, whose functions can be had from here as well.
"""

import hashlib
import hmac
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from recovery.accounts import Account, Act, Channel, Stage
from recovery.errors import Misconfigured
from recovery.messages import notice_id
from recovery.notify_texts import (
    LOCALES,
    NoticeKind,
    banner_copy,
    email_copy,
    email_text,
    filled,
    message_locale,
    preview,
    sms_copy,
    status_text,
    text_digest,
)
from recovery.policy import RecoveryPolicy

__all__ = [
    "LOCALES",
    "NoticeKind",
    "PlannedNotice",
    "SkipReason",
    "Skipped",
    "authenticity_code",
    "banner_copy",
    "email_copy",
    "email_text",
    "enrollment_link",
    "filled",
    "message_locale",
    "plan_confirmation",
    "plan_notices",
    "preview",
    "sms_copy",
    "status_text",
    "step_of",
    "text_digest",
]

_PREFIX = {
    NoticeKind.LINK: "notify",
    NoticeKind.MANUAL: "notify_manual",
    NoticeKind.ENROLLED: "notify_enrolled",
}
LINK_CHANNELS = (Channel.EMAIL, Channel.IN_APP)
"""Which carry a link. One of them has to get through, or the person can't enroll alone."""
_AFTERWARDS = (Channel.EMAIL, Channel.IN_APP, Channel.SMS)
"""In which order a channel is chosen to tell of an enrollment: its code came by text message just
now, so whoever has that phone in hand is told somewhere else first."""
_FIELD = {Channel.EMAIL: "email", Channel.SMS: "phone"}
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,4096}")


class SkipReason(StrEnum):
    """Why a person is not written to over a channel; shown in the report."""

    EXCLUDED = "the account is excluded"
    LEFT_TO_A_PERSON = "the account is left to a person: no link"
    NOT_LEFT_TO_A_PERSON = "the account is not left to a person"
    NOT_IN_RUNBOOK = "channel not in the runbook"
    NO_ADDRESS = "no address on record"
    QUARANTINED = "address malformed or suspicious"
    OPTED_OUT = "opted out of this channel"
    BOUNCED = "an earlier message came back"
    BUDGET_USED = "message budget used up"


@dataclass(frozen=True, slots=True)
class PlannedNotice:
    """One message to one person. `act` goes into the ledger before it is sent."""

    act: Act
    channel: Channel
    kind: NoticeKind

    @property
    def notice_id(self) -> str:
        return notice_id(self.act.subject, self.act.step, self.act.generation)


@dataclass(frozen=True, slots=True)
class Skipped:
    ref: str
    channel: Channel
    reason: SkipReason


def step_of(kind: NoticeKind, channel: Channel) -> str:
    """The act's name: `notify.email`, `notify_manual.sms`."""
    return f"{_PREFIX[kind]}.{channel.value}"


def plan_notices(
    account: Account,
    policy: RecoveryPolicy,
    *,
    kind: NoticeKind,
    generation: int,
    quarantined: Collection[str] = (),
    opted_out: Collection[Channel] = (),
    bounced: Collection[Channel] = (),
    sent: Mapping[Channel, int] | None = None,
) -> list[PlannedNotice | Skipped]:
    """One entry for every channel there is: a notice, or why there is none.

    `generation` counts the messages of this kind from 1. `quarantined` names the account's fields
    that were refused ("email", "phone"); `opted_out`, `bounced` and `sent` say what happened
    before: `sent` counts the messages of either kind that this person got over a channel in this
    incident.
    """
    return [
        Skipped(account.ref, channel, reason)
        if reason
        else PlannedNotice(Act(account.ref, step_of(kind, channel), generation), channel, kind)
        for channel in Channel
        for reason in [
            _skip(
                account,
                channel,
                policy,
                kind,
                used=max((sent or {}).get(channel, 0), generation - 1),
                quarantined=quarantined,
                opted_out=opted_out,
                bounced=bounced,
            )
        ]
    ]


def _skip(
    account: Account,
    channel: Channel,
    policy: RecoveryPolicy,
    kind: NoticeKind,
    *,
    used: int,
    quarantined: Collection[str],
    opted_out: Collection[Channel],
    bounced: Collection[Channel],
) -> SkipReason | None:
    if account.excluded or account.stage is Stage.EXCLUDED:
        return SkipReason.EXCLUDED
    if kind is NoticeKind.LINK and account.stage is Stage.MANUAL:
        return SkipReason.LEFT_TO_A_PERSON
    if kind is NoticeKind.MANUAL and account.stage is not Stage.MANUAL:
        return SkipReason.NOT_LEFT_TO_A_PERSON
    if channel not in policy.notify.channels:
        return SkipReason.NOT_IN_RUNBOOK
    if channel not in account.channels:
        refused = _FIELD[channel] in quarantined
        return SkipReason.QUARANTINED if refused else SkipReason.NO_ADDRESS
    if channel in opted_out:
        return SkipReason.OPTED_OUT
    if channel in bounced:
        return SkipReason.BOUNCED
    if used >= policy.notify.max_messages:
        return SkipReason.BUDGET_USED
    return None


def plan_confirmation(
    account: Account,
    policy: RecoveryPolicy,
    *,
    generation: int,
    sent: Mapping[Channel, int],
    refused: Collection[Channel] = (),
) -> PlannedNotice | SkipReason:
    """The one notice that an authenticator was set up (NIST SP 800-63B-4, 4.2.3), over the first
    channel that can take it; or why there is none. `sent` counts the messages so far, `refused`
    names channels over which this notice was refused."""
    reason = SkipReason.NO_ADDRESS
    for channel in _AFTERWARDS:
        if channel not in policy.notify.channels or channel not in account.channels:
            continue
        if channel in refused:
            continue
        if sent.get(channel, 0) >= policy.notify.max_messages:
            reason = SkipReason.BUDGET_USED
            continue
        act = Act(account.ref, step_of(NoticeKind.ENROLLED, channel), generation)
        return PlannedNotice(act, channel, NoticeKind.ENROLLED)
    return reason


def authenticity_code(key: bytes, notice_id: str) -> str:
    """Six digits by which a person recognizes a message of ours on our own site.

    Derived (HMAC-SHA256 over the notice id), never stored; it opens nothing, so it needs no expiry.
    """
    digest = hmac.new(key, b"authenticity\x00" + notice_id.encode(), hashlib.sha256).digest()
    return f"{int.from_bytes(digest[:8]) % 1_000_000:06d}"


def enrollment_link(base_url: str, token: str) -> str:
    """`base_url` is the address of the portal's enrollment page. The token stands in the fragment:
    it reaches neither servers' logs nor a Referer header (ASVS 14.2.1), and a scanner that fetches
    the link consumes nothing.
    """
    parts = urlsplit(base_url)
    local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise _bad_address("https")
    if not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        raise _bad_address("a host and a path alone")
    if not base_url.isascii() or not re.fullmatch(r"[^\s\"'<>\\]+", base_url):
        raise _bad_address("printable ASCII")
    if not _TOKEN.fullmatch(token):
        raise ValueError("not a token that can stand in a link")
    return f"{base_url if parts.path else base_url + '/'}#t={token}"


def _bad_address(expected: str) -> Misconfigured:
    return Misconfigured(
        "Make an enrollment link",
        expected=f"the portal's address with {expected}",
        advice="Correct the address in the enrollment-portal block.",
    )
