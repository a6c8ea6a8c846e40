"""The one text that people get, per language and channel, and one person's copy of it.

Texts stand in `templates/messages/`. Nothing that a stranger can choose reaches a reader unless it
is harmless: a handle that could act as a link, a number to call or a tag is not shown at all.
"""

import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
import yaml

from recovery.accounts import Account
from recovery.contacts import ascii_address, mixed_scripts
from recovery.errors import Misconfigured
from recovery.messages import BannerCopy, EmailCopy, EmailText, SmsCopy
from recovery.policy import RecoveryPolicy
from recovery.sms_segments import segments
from recovery.status import PublicStep, StatusText

LOCALES = ("en", "de", "es", "fr", "ja")
SMS_VALIDITY = timedelta(hours=4)
"""A notice that comes later confuses more than it helps; carriers would try for ten hours."""

# Tag names hold a colon, which neither a token nor a shown handle can contain: no value can be
# taken for another tag, in whatever order a provider fills them.
_HELLO, _HELLO_HTML, _LINK, _HOST, _CODE = "p:hello", "p:hello_html", "p:link", "p:host", "p:code"
_FOLDER = Path(__file__).parent / "templates" / "messages"
_INCIDENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{1,40}")
_SITE = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._~-]*)*")
_CODE_SHAPE = re.compile(r"\d{6}")


class NoticeKind(StrEnum):
    """LINK invites to enroll; MANUAL says that our team will help and holds no link; ENROLLED
    tells, after it was done, that an authenticator was set up, and holds none either."""

    LINK = "link"
    MANUAL = "manual"
    ENROLLED = "enrolled"


_TITLES = {
    NoticeKind.LINK: "With enrollment link",
    NoticeKind.MANUAL: "Without link, where our team helps",
    NoticeKind.ENROLLED: "Without link, after somebody has enrolled",
}


def message_locale(locale: str) -> str:
    """The language that a person of this locale is written in; English where we have no other."""
    language = re.split(r"[-_]", locale.casefold(), maxsplit=1)[0]
    return language if language in LOCALES else LOCALES[0]


def shown_handle(handle: str) -> str:
    """The handle as it may stand in a message, or "" where it may not.

    Letters, digits, "_", "-" and "." of one alphabet; a dot that would make mail programs see a web
    address is put into brackets; what may be read as a telephone number is not shown.
    """
    name = unicodedata.normalize("NFC", handle).removeprefix("@")
    if not 1 <= len(name) <= 40 or mixed_scripts(name):
        return ""
    if not all(c in "_-." or unicodedata.category(c)[0] in "LMN" for c in name):
        return ""
    if sum(c.isdigit() for c in name) >= 7:
        return ""
    return re.sub(r"\.(?=\w)", "[.]", name)


def email_text(
    locale: str, kind: NoticeKind, policy: RecoveryPolicy, incident_id: str
) -> EmailText:
    """The text for everybody of this language; personal parts stand as `-tag-` placeholders."""
    language = message_locale(locale)
    words = _words(language, kind, policy, incident_id, code=f"-{_CODE}-", host=f"-{_HOST}-")
    values = {
        **words,
        "locale": language,
        "link": f"-{_LINK}-" if kind is NoticeKind.LINK else "",
        "message_code": f"-{_CODE}-",
    }
    templates = _templates()
    return EmailText(
        subject=words["subject"],
        text=templates.get_template("email.txt.j2").render(values, hello=f"-{_HELLO}-"),
        html=templates.get_template("email.html.j2").render(values, hello=f"-{_HELLO_HTML}-"),
    )


def email_copy(
    account: Account, notice_id: str, *, kind: NoticeKind, code: str, link: str | None = None
) -> EmailCopy:
    """One person's values for `email_text(account.locale, kind, ...)`."""
    _check(kind, code, link)
    if not account.email:
        raise ValueError("an email copy needs an address on record")
    to = ascii_address(account.email)
    if not to.isprintable() or " " in to:
        raise ValueError("an address is one line")
    catalog = _catalog(message_locale(account.locale))
    name = shown_handle(account.handle)
    marked = f"<bdi>{html.escape(name)}</bdi>"
    values = {
        _HELLO: catalog["hello"].format(name=name) if name else catalog["hello_anyone"],
        _HELLO_HTML: (
            html.escape(catalog["hello"]).format(name=marked)
            if name
            else html.escape(catalog["hello_anyone"])
        ),
        _CODE: code,
    }
    if link is not None:
        values |= {_LINK: link, _HOST: urlsplit(link).netloc}
    return EmailCopy(notice_id, to, values)


def filled(text: str, copy: EmailCopy) -> str:
    """A part of the mail as this person reads it: what the provider makes of text and copy."""
    for tag, value in copy.values.items():
        text = text.replace(f"-{tag}-", value)
    return text


def sms_copy(
    account: Account,
    notice_id: str,
    *,
    kind: NoticeKind,
    policy: RecoveryPolicy,
    incident_id: str,
    code: str,
) -> SmsCopy:
    """Reference, code, and the advice to type our address: never a link, nor the address."""
    _check(kind, code, None, link_expected=False)
    if not account.phone:
        raise ValueError("a text message needs a number on record")
    words = _words(message_locale(account.locale), kind, policy, incident_id, code=code)
    return SmsCopy(notice_id, account.phone, words["sms"], SMS_VALIDITY)


def banner_copy(
    account: Account,
    notice_id: str,
    *,
    kind: NoticeKind,
    policy: RecoveryPolicy,
    incident_id: str,
    code: str,
    link: str | None = None,
) -> BannerCopy:
    """The banner in the app, as plain text; it holds nothing of the account but its id."""
    _check(kind, code, link)
    words = _words(message_locale(account.locale), kind, policy, incident_id, code=code)
    return BannerCopy(
        notice_id, account.account_id, words["banner_title"], words["banner"], link, code
    )


def preview(policy: RecoveryPolicy, incident_id: str, *, locale: str = "en") -> str:
    """Markdown for the approval form: every text as an invented person would get it."""
    parts = [f"**Text digest** `{text_digest(policy)}` (all languages: {', '.join(LOCALES)})"]
    for kind in NoticeKind:
        words = _words(
            message_locale(locale), kind, policy, incident_id, code="123456", host=_site(policy)
        )
        mail = email_text(locale, kind, policy, incident_id)
        body = mail.text
        filled = {
            _HELLO: _catalog(message_locale(locale))["hello"].format(name="sam_r"),
            _LINK: f"https://{_site(policy)}/enroll#t=(a link for one person)",
            _CODE: "123456",
        }
        for tag, value in filled.items():
            body = body.replace(f"-{tag}-", value)
        size = segments(words["sms"])
        title = _TITLES[kind]
        parts += [
            f"### {title}",
            f"Email: **{_markdown(mail.subject)}**\n\n{_fenced(body)}",
            f"Text message ({size.count} segments, {size.encoding})\n\n{_fenced(words['sms'])}",
            f"In-app banner: **{_markdown(words['banner_title'])}**\n\n{_fenced(words['banner'])}",
        ]
    status = status_text(locale, policy, incident_id)
    parts += [
        "### Public status page",
        f"**{_markdown(status.title)}**\n\n{_fenced(status.body)}",
        "\n".join(f"- {_markdown(sentence)}" for sentence in status.steps.values()),
    ]
    return "\n\n".join(parts) + "\n"


def status_text(locale: str, policy: RecoveryPolicy, incident_id: str) -> StatusText:
    """What the status page says in this language, beside the portal's own headings."""
    catalog = _catalog(message_locale(locale))["status"]
    common = _common(policy, incident_id)
    steps = {step: str(catalog[step.value]).format_map(common) for step in PublicStep}
    title, body = (str(catalog[key]).format_map(common) for key in ("title", "body"))
    return StatusText(title, body, steps)


def text_digest(policy: RecoveryPolicy) -> str:
    """SHA-256 (hex) over every text in every language under this runbook: what was approved.

    The incident's id is left out, so that a rehearsal's approval can be compared with it.
    """
    texts: list[object] = []
    for locale in LOCALES:
        catalog = _catalog(locale)
        texts.append([locale, catalog["hello"], catalog["hello_anyone"]])
        for kind in NoticeKind:
            mail = email_text(locale, kind, policy, "INCIDENT")
            words = _words(locale, kind, policy, "INCIDENT", code="CODE", host="HOST")
            texts.append([kind.value, mail.subject, mail.text, mail.html, sorted(words.items())])
        status = status_text(locale, policy, "INCIDENT")
        texts.append(["status", status.title, status.body, sorted(status.steps.items())])
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()


def _check(kind: NoticeKind, code: str, link: str | None, *, link_expected: bool = True) -> None:
    if not _CODE_SHAPE.fullmatch(code):
        raise ValueError("a message code has six digits")
    if link_expected and (link is not None) != (kind is NoticeKind.LINK):
        raise ValueError("a link belongs to notices of kind LINK, and to none else")


def _words(
    locale: str,
    kind: NoticeKind,
    policy: RecoveryPolicy,
    incident_id: str,
    *,
    code: str,
    host: str = "",
) -> dict[str, str]:
    """The catalog's texts for this kind with all that is common to everybody filled in."""
    minutes = int(policy.enroll.token_ttl / timedelta(minutes=1))
    common = {
        **_common(policy, incident_id),
        "minutes": str(minutes),
        "code": code,
        "host": host,
    }
    catalog = _catalog(locale)
    texts: dict[str, Any] = {**catalog, **catalog[kind.value]}
    return {
        key: text.format_map(common)
        for key, text in texts.items()
        if isinstance(text, str) and not key.startswith("hello")
    }


def _common(policy: RecoveryPolicy, incident_id: str) -> dict[str, str]:
    if not _INCIDENT.fullmatch(incident_id):
        raise Misconfigured(
            "Compose the notices",
            expected="an incident id of letters, digits and hyphens",
            got="another text",
        )
    return {
        "organization": _organization(policy),
        "site": _site(policy),
        "incident": incident_id,
    }


def _organization(policy: RecoveryPolicy) -> str:
    name = policy.notify.organization
    if not name.isprintable() or len(name) > 60 or "-p:" in name:
        raise Misconfigured(
            "Compose the notices",
            expected="notify.organization to be one printable line of at most 60 characters",
            advice="Correct it in the runbook.",
        )
    return name


def _site(policy: RecoveryPolicy) -> str:
    if not _SITE.fullmatch(policy.notify.site):
        raise Misconfigured(
            "Compose the notices",
            expected="notify.site to be an address as people type it (accounts.example.com)",
            advice="Correct it in the runbook.",
        )
    return policy.notify.site


@cache
def _catalog(locale: str) -> Mapping[str, Any]:
    document = yaml.safe_load((_FOLDER / f"{locale}.yaml").read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise Misconfigured("Read the message catalog", subject=locale, expected="a mapping")
    return document


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", text)


def _fenced(text: str) -> str:
    return f"````text\n{text.strip()}\n````"
