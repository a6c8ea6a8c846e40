"""What SendGrid's v3 Mail Send accepts: the request's body to letters, or the refusal of all of it.

Limits and errors follow SendGrid's page on Mail Send errors. Parts of the API that the rehearsal
does not act out (templates, attachments, unsubscribe groups, batches) are refused, not ignored.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

Json: TypeAlias = Any

MAX_PERSONALIZATIONS = 1_000
MAX_RECIPIENTS = 1_000
MAX_ARGUMENT_BYTES = 10_000
MAX_SUBSTITUTION_BYTES = 10_000
MAX_CATEGORIES = 10
MAX_CATEGORY_CHARACTERS = 255
MAX_AHEAD = timedelta(hours=72)

_ADDRESS = re.compile(r"[^@\s<>,;]+@[^@\s<>,;]+\.[^@\s<>,;]+\Z")
_PARTS = frozenset(
    {"personalizations", "from", "reply_to", "subject", "content", "categories", "custom_args"}
    | {"headers", "send_at", "mail_settings", "tracking_settings", "template_id", "batch_id"}
)
_PERSONAL_PARTS = frozenset(
    {"to", "cc", "bcc", "from", "subject", "headers", "substitutions", "dynamic_template_data"}
    | {"custom_args", "send_at"}
)
_OWN_HEADERS = frozenset(
    {"x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "to", "from", "subject"}
    | {"content-transfer-encoding", "reply-to", "cc", "bcc"}
)
_BYPASSES = {
    "bypass_list_management": frozenset({"unsubscribe", "bounce", "spam"}),
    "bypass_unsubscribe_management": frozenset({"unsubscribe"}),
    "bypass_bounce_management": frozenset({"bounce"}),
    "bypass_spam_management": frozenset({"spam"}),
}
_TRACKING = ("click_tracking", "open_tracking", "subscription_tracking", "ganalytics")


class MailRefused(Exception):
    """The whole request is refused: nobody gets any mail of it."""

    def __init__(self, message: str, field: str | None = None, status: int = 400) -> None:
        super().__init__(f"{status} {field}")
        self.status = status
        self.body = {"errors": [{"message": message, "field": field, "help": None}]}


@dataclass(frozen=True, slots=True)
class Letter:
    """What one personalization makes of the mail. `recipients` see each other."""

    recipients: tuple[str, ...]
    sender: str
    subject: str
    text: str | None
    html: str | None
    custom_args: Mapping[str, str]
    send_at: datetime | None
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Mail:
    """An acceptable request. `click_tracking` (html, text) is None where the request leaves it to
    the account's setting; `bypassed` are the suppressions that it overrules."""

    letters: tuple[Letter, ...]
    categories: tuple[str, ...]
    bypassed: frozenset[str]
    sandbox: bool
    click_tracking: tuple[bool, bool] | None


def check_mail(body: Json, verified_senders: Collection[str], now: datetime) -> Mail:
    """Raises MailRefused. `verified_senders` are addresses, or domains without an @."""
    if not isinstance(body, Mapping):
        raise MailRefused("Bad Request")
    _only(body, _PARTS, "")
    personal = _personalizations(body)
    default_sender = _address(body.get("from"), "from")
    _unique_and_few(personal)
    if body.get("template_id") is not None:
        raise MailRefused("The template_id is not one of this account's templates.", "template_id")
    if body.get("batch_id") is not None:
        raise MailRefused("The batch id is not valid: it was not created here.", "batch_id")
    if body.get("reply_to") is not None:
        _address(body["reply_to"], "reply_to")
    _headers(body.get("headers"), "headers")
    text, html = _contents(body.get("content"))
    categories = _categories(body.get("categories"))
    bypassed, sandbox = _mail_settings(body.get("mail_settings") or {})
    tracking = _tracking(body.get("tracking_settings") or {})
    letters = tuple(
        _letter(body, item, f"personalizations.{n}", default_sender, (text, html), now)
        for n, item in enumerate(personal)
    )
    for letter in letters:
        if not _is_verified(letter.sender, verified_senders):
            reason = "The from address does not match a verified Sender Identity."
            raise MailRefused(reason, "from", status=403)
    return Mail(letters, categories, bypassed, sandbox, tracking)


def _personalizations(body: Mapping[str, Json]) -> Sequence[Mapping[str, Json]]:
    given = body.get("personalizations")
    if not isinstance(given, list) or not given:
        raise MailRefused("You must have at least one personalization.", "personalizations")
    if len(given) > MAX_PERSONALIZATIONS:
        reason = f"The personalization block is limited to {MAX_PERSONALIZATIONS} personalizations"
        reason += f" per API request. You have provided {len(given)} personalizations."
        raise MailRefused(reason, "personalizations")
    for number, item in enumerate(given):
        where = f"personalizations.{number}"
        if not isinstance(item, Mapping):
            raise MailRefused("A personalization is an object.", where)
        _only(item, _PERSONAL_PARTS, f"{where}.")
        if not isinstance(item.get("to"), list) or not item["to"]:
            raise MailRefused("The to array is required, with at least one email.", f"{where}.to")
    return given


def _addresses(item: Mapping[str, Json], where: str) -> Iterator[tuple[str, str]]:
    """Each recipient and the field that names it."""
    for kind in ("to", "cc", "bcc"):
        listed = item.get(kind) or []
        if not isinstance(listed, list):
            raise MailRefused(f"The {kind} parameter is an array.", f"{where}.{kind}")
        for number, entry in enumerate(listed):
            yield _address(entry, f"{where}.{kind}.{number}"), f"{where}.{kind}"


def _unique_and_few(personal: Sequence[Mapping[str, Json]]) -> None:
    seen: set[str] = set()
    total = 0
    for number, item in enumerate(personal):
        for address, where in _addresses(item, f"personalizations.{number}"):
            total += 1
            if address.lower() in seen:
                reason = "Each unique email address in the personalizations array should only be "
                reason += f"included once. You have included [{address}] more than once."
                raise MailRefused(reason, where)
            seen.add(address.lower())
    if total > MAX_RECIPIENTS:
        reason = f"There is a limit of {MAX_RECIPIENTS} total recipients (to + cc + bcc)"
        raise MailRefused(f"{reason} per request.", "personalizations")


def _address(entry: Json, where: str) -> str:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("email"), str):
        raise MailRefused("An email object with an email parameter is required.", f"{where}.email")
    _only(entry, frozenset({"email", "name"}), f"{where}.")
    if _ADDRESS.match(entry["email"]) is None:
        raise MailRefused("Does not contain a valid address.", f"{where}.email")
    address: str = entry["email"]
    return address


def _letter(
    body: Mapping[str, Json],
    item: Mapping[str, Json],
    where: str,
    default_sender: str,
    contents: tuple[str | None, str | None],
    now: datetime,
) -> Letter:
    if item.get("dynamic_template_data") is not None:
        reason = "The dynamic_template_data can only be used with a dynamic transactional template."
        raise MailRefused(reason, f"{where}.dynamic_template_data")
    subject = item.get("subject") or body.get("subject")
    if not isinstance(subject, str) or not subject:
        reason = "The subject is required, unless every personalization has a subject defined."
        raise MailRefused(reason, "subject")
    headers = _headers(body.get("headers"), "headers")
    headers |= _headers(item.get("headers"), f"{where}.headers")
    substitutions = _strings(item.get("substitutions"), f"{where}.substitutions")
    if _size(substitutions) > MAX_SUBSTITUTION_BYTES:
        reason = f"The substitutions are limited to {MAX_SUBSTITUTION_BYTES} bytes."
        raise MailRefused(reason, f"{where}.substitutions")
    custom_args = _strings(body.get("custom_args"), "custom_args")
    custom_args |= _strings(item.get("custom_args"), f"{where}.custom_args")
    if _size(custom_args) > MAX_ARGUMENT_BYTES:
        reason = f"The custom_args are limited to {MAX_ARGUMENT_BYTES} bytes."
        raise MailRefused(reason, f"{where}.custom_args")
    text, html = contents
    sender = default_sender
    if item.get("from") is not None:
        sender = _address(item["from"], f"{where}.from")
    return Letter(
        recipients=tuple(address for address, _ in _addresses(item, where)),
        sender=sender,
        subject=_filled(subject, substitutions),
        text=None if text is None else _filled(text, substitutions),
        html=None if html is None else _filled(html, substitutions),
        custom_args=custom_args,
        send_at=_send_at(item.get("send_at", body.get("send_at")), where, now),
        headers=headers,
    )


def _filled(template: str, substitutions: Mapping[str, str]) -> str:
    """Every tag replaced by its value as it stands, also in HTML: escaping is the sender's."""
    for tag, value in substitutions.items():
        template = template.replace(tag, value)
    return template


def _contents(given: Json) -> tuple[str | None, str | None]:
    if not isinstance(given, list) or not given:
        reason = "Unless a valid template_id is provided, the content parameter is required."
        raise MailRefused(reason, "content")
    found: dict[str, str] = {}
    for number, block in enumerate(given):
        if not isinstance(block, Mapping) or not isinstance(block.get("value"), str):
            raise MailRefused("The content value must be a string.", f"content.{number}.value")
        if not block["value"]:
            reason = "The content value must be a string at least one character in length."
            raise MailRefused(reason, f"content.{number}.value")
        kind = block.get("type")
        if kind not in ("text/plain", "text/html"):
            raise MailRefused("The content type is not valid here.", f"content.{number}.type")
        if kind in found or (kind == "text/plain" and found):
            reason = "If present, text/plain must be first, followed by text/html, once each."
            raise MailRefused(reason, "content")
        found[kind] = block["value"]
    return found.get("text/plain"), found.get("text/html")


def _categories(given: Json) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise MailRefused("The categories are an array of strings.", "categories")
    if len(given) > MAX_CATEGORIES:
        raise MailRefused(f"There is a limit of {MAX_CATEGORIES} categories.", "categories")
    if len(set(given)) != len(given):
        raise MailRefused("The categories must be unique.", "categories")
    if any(len(name) > MAX_CATEGORY_CHARACTERS for name in given):
        reason = f"A category may not exceed {MAX_CATEGORY_CHARACTERS} characters."
        raise MailRefused(reason, "categories")
    return tuple(given)


def _mail_settings(given: Mapping[str, Json]) -> tuple[frozenset[str], bool]:
    _only(given, frozenset({*_BYPASSES, "sandbox_mode"}), "mail_settings.")
    enabled = {name for name in given if _enabled(given, name, "mail_settings")}
    bypasses = enabled - {"sandbox_mode"}
    if "bypass_list_management" in bypasses and len(bypasses) > 1:
        reason = "bypass_list_management cannot be combined with another bypass setting."
        raise MailRefused(reason, "mail_settings.bypass_list_management")
    bypassed = frozenset(kind for name in bypasses for kind in _BYPASSES[name])
    return bypassed, "sandbox_mode" in enabled


def _tracking(given: Mapping[str, Json]) -> tuple[bool, bool] | None:
    _only(given, frozenset(_TRACKING), "tracking_settings.")
    for name in given:
        _enabled(given, name, "tracking_settings")
    clicks = given.get("click_tracking")
    if clicks is None or "enable" not in clicks:
        return None
    return clicks["enable"], clicks["enable"] and clicks.get("enable_text") is True


def _enabled(settings: Mapping[str, Json], name: str, where: str) -> bool:
    setting = settings[name]
    if not isinstance(setting, Mapping) or not isinstance(setting.get("enable", False), bool):
        raise MailRefused("The enable parameter is a boolean.", f"{where}.{name}.enable")
    return setting.get("enable") is True


def _send_at(given: Json, where: str, now: datetime) -> datetime | None:
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool):
        raise MailRefused("The send_at parameter is a unix timestamp.", f"{where}.send_at")
    moment = datetime.fromtimestamp(given, UTC)
    if moment > now + MAX_AHEAD:
        raise MailRefused("Scheduling more than 72 hours in advance is forbidden.", "send_at")
    return moment


def _headers(given: Json, where: str) -> dict[str, str]:
    headers = _strings(given, where)
    for name in headers:
        if name.lower() in _OWN_HEADERS:
            raise MailRefused(f"The header {name} is reserved.", where)
    return headers


def _strings(given: Json, where: str) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise MailRefused("An object of key/value pairs is expected.", where)
    if not all(isinstance(value, str) for value in given.values()):
        raise MailRefused("The values must be strings.", where)
    return dict(given)


def _size(pairs: Mapping[str, str]) -> int:
    return len(json.dumps(pairs, ensure_ascii=False, separators=(",", ":")).encode())


def _only(given: Mapping[str, Json], known: frozenset[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise MailRefused(f"Additional property {name} is not allowed", f"{where}{name}")


def _is_verified(address: str, verified: Collection[str]) -> bool:
    _, _, domain = address.lower().rpartition("@")
    return any(entry.lower() in (address.lower(), domain) for entry in verified)
