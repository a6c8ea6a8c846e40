"""Whether a contact on record may be written to. Syntax only: nothing is looked up.

Email after RFC 5321/5322 (email-validator), phone numbers in E.164 (libphonenumber). What an
attacker could have planted (control characters, look-alike letters, punycode, premium numbers) is
refused, so that such an account goes to a person instead of getting a link.
"""

import unicodedata
from dataclasses import dataclass

import phonenumbers
from email_validator import EmailNotValidError, validate_email

_LONGEST = 320
_TOGETHER = (
    frozenset({"HIRAGANA", "KATAKANA", "CJK", "LATIN"}),  # Japanese is written in all of these
    frozenset({"HANGUL", "CJK", "LATIN"}),
)
_PAID = (
    phonenumbers.PhoneNumberType.PREMIUM_RATE,
    phonenumbers.PhoneNumberType.SHARED_COST,
    phonenumbers.PhoneNumberType.PAGER,
    phonenumbers.PhoneNumberType.VOICEMAIL,
)


@dataclass(frozen=True, slots=True)
class Checked:
    """A usable value, or why there is none. Both None where nothing was on record."""

    value: str | None
    reason: str | None = None


def check_email(raw: str | None) -> Checked:
    """The address normalized (NFC, domain in lower case). The reasons never repeat the address."""
    text, trouble = _one_line(raw)
    if trouble or not text:
        return Checked(None, trouble)
    local, _, domain = text.rpartition("@")
    if any(label.startswith("xn--") for label in domain.casefold().split(".")):
        return Checked(None, "punycode domain")
    if mixed_scripts(local):
        return Checked(None, "look-alike letters in the local part")
    if mixed_scripts(domain):
        return Checked(None, "look-alike letters in the domain")
    if not local.isascii():
        # Mail providers answer for a whole batch, and few take an address that needs SMTPUTF8.
        return Checked(None, "local part beyond ASCII")
    try:
        valid = validate_email(text, check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        return Checked(None, "malformed address")
    return Checked(valid.normalized)


def check_phone(raw: str | None) -> Checked:
    """The number in E.164. It must be written with its country code; letters are refused."""
    text, trouble = _one_line(raw)
    if trouble or not text:
        return Checked(None, trouble)
    if not text.startswith(("+", "\uff0b")):
        return Checked(None, "no country code")
    if any(c.isalpha() for c in text):
        return Checked(None, "letters or an extension in the number")
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        return Checked(None, "malformed number")
    if not phonenumbers.is_valid_number(number):
        return Checked(None, "not an assigned number range")
    if phonenumbers.number_type(number) in _PAID:
        return Checked(None, "a number that charges whoever writes to it")
    return Checked(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


def check_handle(raw: str) -> Checked:
    """The platform's own name for the account, in NFC; it is shown to people."""
    text, trouble = _one_line(raw)
    if trouble:
        return Checked(None, trouble)
    return Checked(text) if text else Checked(None, "empty")


def ascii_address(email: str) -> str:
    """The address as mail providers take it: an international domain in its ASCII form."""
    if email.isascii():
        return email
    valid = validate_email(email, check_deliverability=False, test_environment=True)
    return f"{valid.local_part}@{valid.ascii_domain}"


def mixed_scripts(text: str) -> bool:
    """True where letters of several alphabets stand together that no language mixes."""
    scripts = {_script(c) for c in text if c.isalpha()}
    return len(scripts) > 1 and not any(scripts <= together for together in _TOGETHER)


def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNNAMED").split(" ")[0].split("-")[0]


def _one_line(raw: str | None) -> tuple[str, str | None]:
    if raw is None:
        return "", None
    if len(raw) > _LONGEST:
        return "", f"longer than {_LONGEST} characters"
    text = unicodedata.normalize("NFC", raw.strip(" "))
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in text):
        return "", "control or invisible characters"
    return text.strip(), None
