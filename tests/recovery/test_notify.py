"""Notices: who gets which, texts whole in every language, and nobody can bend them."""

import itertools
import re
from collections import Counter
from datetime import timedelta
from html.parser import HTMLParser
from string import Formatter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.accounts import Account, Act, Channel, Priority, Stage
from recovery.errors import Misconfigured
from recovery.messages import EmailCopy, EmailText
from recovery.notify import (
    NoticeKind,
    PlannedNotice,
    Skipped,
    SkipReason,
    authenticity_code,
    banner_copy,
    email_copy,
    email_text,
    enrollment_link,
    message_locale,
    plan_notices,
    preview,
    sms_copy,
    text_digest,
)
from recovery.notify_texts import LOCALES, _catalog, shown_handle
from recovery.policy import RecoveryPolicy
from recovery.sms_segments import segments

INCIDENT = "INC-2026-0142"
TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhY2MtLWxpbmstIn0.c2lnLWxpbmst-link-_p"
LINK = enrollment_link("https://accounts.example.com/enroll", TOKEN)


def policy(**notify: object) -> RecoveryPolicy:
    return RecoveryPolicy.model_validate(
        {
            "version": 1,
            "name": "test-runbook",
            "exclusions": {"accounts": ["u-svc"]},
            "approvals": {
                gate: {"approvers": ["maya"]} for gate in ("contain", "notify", "retire", "hold")
            },
            "notify": {
                "organization": "Example Social",
                "site": "accounts.example.com",
                **notify,
            },
            "quotas": {
                name: {"per_second": 10, "concurrent": 2}
                for name in ("platform", "siem", "email", "sms", "ci")
            },
        }
    )


def account(**changes: object) -> Account:
    fields: dict[str, object] = {
        "ref": "acc-abc",
        "account_id": "u-1",
        "handle": "ana_k",
        "email": "ana@example.com",
        "phone": "+12025550123",
        "locale": "en",
        "last_active": None,
        "linked_apps": (),
        "priority": Priority.NORMAL,
        "reasons": (),
        "wave": 0,
        "batch": 0,
        "stage": Stage.TOKEN_ISSUED,
    }
    return Account(**{**fields, **changes})  # type: ignore[arg-type]


def reasons(planned: list[PlannedNotice | Skipped]) -> dict[Channel, SkipReason | None]:
    return {p.channel: p.reason if isinstance(p, Skipped) else None for p in planned}


# --- who gets what -----------------------------------------------------------------------------


def test_a_link_goes_over_every_channel_of_the_runbook() -> None:
    planned = plan_notices(account(), policy(), kind=NoticeKind.LINK, generation=2)
    assert [p.act for p in planned if isinstance(p, PlannedNotice)] == [
        Act("acc-abc", "notify.email", 2),
        Act("acc-abc", "notify.sms", 2),
        Act("acc-abc", "notify.in_app", 2),
    ]
    assert isinstance(planned[0], PlannedNotice)
    assert planned[0].notice_id == "acc-abc.notify.email.2"


def test_an_account_left_to_a_person_gets_no_link_and_the_others_no_other_notice() -> None:
    manual = account(stage=Stage.MANUAL, phone=None)
    planned = plan_notices(manual, policy(), kind=NoticeKind.MANUAL, generation=1)
    assert [p.act.step for p in planned if isinstance(p, PlannedNotice)] == [
        "notify_manual.email",
        "notify_manual.in_app",
    ]
    for who, kind, reason in (
        (manual, NoticeKind.LINK, SkipReason.LEFT_TO_A_PERSON),
        (account(), NoticeKind.MANUAL, SkipReason.NOT_LEFT_TO_A_PERSON),
        (account(excluded="listed"), NoticeKind.LINK, SkipReason.EXCLUDED),
        (account(stage=Stage.EXCLUDED), NoticeKind.MANUAL, SkipReason.EXCLUDED),
    ):
        got = reasons(plan_notices(who, policy(), kind=kind, generation=1))
        assert got == dict.fromkeys(Channel, reason)


def test_every_channel_that_is_skipped_says_why() -> None:
    got = plan_notices(
        account(email=None, phone=None),
        policy(channels=["email", "sms"]),
        kind=NoticeKind.LINK,
        generation=1,
        quarantined=["phone"],
    )
    assert reasons(got) == {
        Channel.EMAIL: SkipReason.NO_ADDRESS,
        Channel.SMS: SkipReason.QUARANTINED,
        Channel.IN_APP: SkipReason.NOT_IN_RUNBOOK,
    }
    got = plan_notices(
        account(),
        policy(max_messages=2),
        kind=NoticeKind.LINK,
        generation=2,
        opted_out=[Channel.SMS],
        sent={Channel.EMAIL: 2},
    )
    assert reasons(got) == {
        Channel.EMAIL: SkipReason.BUDGET_USED,
        Channel.SMS: SkipReason.OPTED_OUT,
        Channel.IN_APP: None,
    }
    over = plan_notices(account(), policy(max_messages=2), kind=NoticeKind.LINK, generation=3)
    assert set(reasons(over).values()) == {SkipReason.BUDGET_USED}


# --- code and link -----------------------------------------------------------------------------


def test_the_code_is_derived_from_key_and_notice() -> None:
    codes = [authenticity_code(b"k" * 32, f"acc-{n}.notify.email.1") for n in range(3_000)]
    assert all(re.fullmatch(r"\d{6}", code) for code in codes)
    assert codes[0] == authenticity_code(b"k" * 32, "acc-0.notify.email.1")
    assert codes[0] != authenticity_code(b"x" * 32, "acc-0.notify.email.1")
    assert len(set(codes)) > 2_950
    first_digits = Counter(code[0] for code in codes)
    assert all(220 < n < 380 for n in first_digits.values())


def test_the_token_stands_in_the_fragment() -> None:
    assert f"https://accounts.example.com/enroll#t={TOKEN}" == LINK
    assert enrollment_link("https://a.example.com", TOKEN).startswith("https://a.example.com/#t=")
    assert enrollment_link("http://127.0.0.1:8080/enroll", TOKEN).endswith("/enroll#t=" + TOKEN)


@pytest.mark.parametrize(
    "address",
    [
        "http://accounts.example.com/enroll",
        "https://user:pw@accounts.example.com",
        "https://accounts.example.com/?t=1",
        "https://accounts.example.com/#x",
        "https:///enroll",
        "https://accounts.example.com/a b",
        'https://accounts.example.com/"onclick',
        "https://аccounts.example.com/",
        "javascript:alert(1)",
        "",
    ],
)
def test_an_address_that_is_not_ours_to_use(address: str) -> None:
    with pytest.raises(Misconfigured):
        enrollment_link(address, TOKEN)


@pytest.mark.parametrize("token", ["", "short", "a b" * 10, "x" * 20 + "\n", "x" * 20 + '"'])
def test_a_token_that_can_not_stand_in_a_link(token: str) -> None:
    with pytest.raises(ValueError, match="token") as refused:
        enrollment_link("https://accounts.example.com/", token)
    assert not token or token not in str(refused.value)


# --- the texts ---------------------------------------------------------------------------------


def fields_of(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_every_language_says_the_same_things() -> None:
    english = _catalog("en")
    for locale in LOCALES[1:]:
        catalog = _catalog(locale)
        assert set(catalog) == set(english)
        for key, text in english.items():
            if isinstance(text, str):
                assert fields_of(catalog[key]) == fields_of(text), (locale, key)
                continue
            assert set(catalog[key]) == set(text)
            for inner, words in text.items():
                assert fields_of(catalog[key][inner]) == fields_of(words), (locale, key, inner)


@pytest.mark.parametrize(
    ("locale", "language"),
    [("en", "en"), ("de-AT", "de"), ("fr_CA", "fr"), ("JA", "ja"), ("pt-BR", "en"), ("", "en")],
)
def test_which_language(locale: str, language: str) -> None:
    assert message_locale(locale) == language
    assert f'lang="{language}"' in email_text(locale, NoticeKind.LINK, policy(), INCIDENT).html


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("kind", list(NoticeKind))
def test_the_text_message_has_no_link_and_is_short(locale: str, kind: NoticeKind) -> None:
    who = account(locale=locale, handle="evil.example")
    sms = sms_copy(who, "n", kind=kind, policy=policy(), incident_id=INCIDENT, code="004217")
    assert INCIDENT in sms.body
    assert "004217" in sms.body
    assert not re.search(r"://|www\.|\w\.\w", sms.body)
    assert "evil" not in sms.body
    size = segments(sms.body)
    assert size.count <= (3 if locale == "es" else 2)
    if locale == "en":
        assert size.encoding == "GSM-7"
    assert timedelta(0) < sms.validity <= timedelta(seconds=36_000)
    assert sms.to not in repr(sms)


def fill(text: EmailText, copy: EmailCopy, order: list[str] | None = None) -> EmailText:
    """What a mail provider does with the tags, in the given order."""

    def filled(part: str) -> str:
        for tag in order or list(copy.values):
            part = part.replace(f"-{tag}-", copy.values[tag])
        return part

    return EmailText(filled(text.subject), filled(text.text), filled(text.html))


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("kind", list(NoticeKind))
def test_a_mail_is_whole(locale: str, kind: NoticeKind) -> None:
    text = email_text(locale, kind, policy(), INCIDENT)
    link = LINK if kind is NoticeKind.LINK else None
    mail = fill(text, email_copy(account(locale=locale), "n", kind=kind, code="004217", link=link))
    for part in (mail.text, mail.html):
        assert "-p:" not in part
        assert "{" not in re.sub(r"<style>.*</style>", "", part, flags=re.DOTALL)
        assert "004217" in part
        assert INCIDENT in part
        assert "accounts.example.com" in part
        assert "ana_k" in part
        assert (TOKEN in part) == (kind is NoticeKind.LINK)
    assert INCIDENT in mail.subject
    assert "ana" not in mail.subject
    assert ("href=" in mail.html) == (kind is NoticeKind.LINK)
    assert "\n\n\n" not in mail.text


def test_the_button_names_the_host_that_it_leads_to() -> None:
    copy = email_copy(
        account(),
        "n",
        kind=NoticeKind.LINK,
        code="004217",
        link=f"https://other.example.org/#t={TOKEN}",
    )
    mail = fill(email_text("en", NoticeKind.LINK, policy(), INCIDENT), copy)
    assert ">Set up sign-in at other.example.org</a>" in mail.html


def test_a_link_and_its_kind_belong_together() -> None:
    with pytest.raises(ValueError, match="kind LINK"):
        email_copy(account(), "n", kind=NoticeKind.MANUAL, code="004217", link=LINK)
    with pytest.raises(ValueError, match="kind LINK"):
        email_copy(account(), "n", kind=NoticeKind.LINK, code="004217")
    with pytest.raises(ValueError, match="six digits"):
        email_copy(account(), "n", kind=NoticeKind.MANUAL, code="4217")
    with pytest.raises(ValueError, match="address"):
        email_copy(account(email=None), "n", kind=NoticeKind.MANUAL, code="004217")
    with pytest.raises(ValueError, match="number"):
        sms_copy(
            account(phone=None),
            "n",
            kind=NoticeKind.LINK,
            policy=policy(),
            incident_id=INCIDENT,
            code="004217",
        )


def test_a_banner_holds_the_link_apart_from_its_text() -> None:
    banner = banner_copy(
        account(locale="de"),
        "acc-abc.notify.in_app.1",
        kind=NoticeKind.LINK,
        policy=policy(),
        incident_id=INCIDENT,
        code="004217",
        link=LINK,
    )
    assert (banner.account_id, banner.link, banner.code) == ("u-1", LINK, "004217")
    assert TOKEN not in banner.body
    assert "004217" in banner.body
    assert "004217" not in repr(banner)
    assert TOKEN not in repr(banner)


def test_an_international_domain_goes_out_in_its_ascii_form() -> None:
    copy = email_copy(account(email="ana@münchen.de"), "n", kind=NoticeKind.MANUAL, code="000001")
    assert copy.to == "ana@xn--mnchen-3ya.de"
    assert "xn--" not in repr(copy)


# --- hostile names -----------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "&lt;b&gt;",
    "-p:link-",
    "-link-",
    "x-p:code-y",
    "ana\nBcc: eve@example.org",
    "ana\r\n\r\nOpen https://evil.example",
    "https://evil.example/#t=abc",
    "www.evil.example",
    "evil.com",
    "call 1-800-555-0100",
    "1_800_555_0100",
    "\u202egnp.live",
    "a\u200bb",
    "раураl",
    "{organization}",
    "{0.__class__}",
    "%s%n",
    "a" * 500,
    "",
    "@",
    "=cmd|' /C calc'!A0",
]


class Shape(HTMLParser):
    """The skeleton of a page: its tags and their attributes, without the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "bdi":
            self.tags.append((tag, tuple(attrs)))


def bent(handle: str, order: list[str] | None = None) -> None:
    """Asserts that the handle changes nothing but the greeting."""
    text = email_text("en", NoticeKind.LINK, policy(), INCIDENT)
    plain = email_copy(account(handle="ana"), "n", kind=NoticeKind.LINK, code="004217", link=LINK)
    copy = email_copy(account(handle=handle), "n", kind=NoticeKind.LINK, code="004217", link=LINK)
    mail, usual = fill(text, copy, order), fill(text, plain)
    assert mail.subject == usual.subject
    assert Shape(mail.html).tags == Shape(usual.html).tags
    assert mail.text.splitlines()[1:] == usual.text.splitlines()[1:]
    greeting = mail.text.splitlines()[0]
    assert greeting.startswith("Hello")
    assert greeting.isprintable()
    assert not re.search(r"\w\.\w|[:/<>&{}]|\d{7}", greeting)
    assert mail.html.count(LINK) == 1
    assert mail.text.count("http") == 1


@pytest.mark.parametrize("handle", HOSTILE)
def test_hostile_handles(handle: str) -> None:
    for order in itertools.permutations(["p:hello", "p:hello_html", "p:link", "p:host", "p:code"]):
        bent(handle, list(order))


_pieces = st.sampled_from(
    [*HOSTILE, ".", "-", "_", "p:", "link", "ana", "http://", "\x00", "\x1b[2J", "é", "名前", "٣"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=30)
    | st.lists(_pieces, max_size=4).map("".join)
    | st.from_regex(r"[\w.-]{1,40}", fullmatch=True)
)
def test_any_handle(handle: str) -> None:
    bent(handle)
    name = shown_handle(handle)
    assert len(name) <= 120
    assert shown_handle("@" + handle) in (name, "") or handle.startswith("@")


def test_ordinary_handles_are_shown() -> None:
    for handle in ("ana_k", "Brand-DE", "münchen", "名前", "نادية"):
        assert shown_handle(handle) == handle
    assert shown_handle("@john.doe") == "john[.]doe"


def test_addresses_can_not_carry_headers() -> None:
    for email in (
        "ana@example.com\r\nBcc: eve@example.org",
        "a b@example.com",
        "ana@example.com\x00",
    ):
        with pytest.raises(ValueError, match="one line"):
            email_copy(account(email=email), "n", kind=NoticeKind.MANUAL, code="004217")


def test_what_the_runbook_says_is_escaped_too() -> None:
    text = email_text("en", NoticeKind.LINK, policy(organization="A & B <c>"), INCIDENT)
    assert "A &amp; B &lt;c&gt;" in text.html
    assert "A & B <c>" in text.text
    for bad in ({"organization": "A\nB"}, {"organization": "-p:link-"}, {"site": "a b"}):
        with pytest.raises(Misconfigured):
            email_text("en", NoticeKind.LINK, policy(**bad), INCIDENT)
    with pytest.raises(Misconfigured, match="incident id"):
        email_text("en", NoticeKind.LINK, policy(), "INC\nBcc")


# --- what is approved --------------------------------------------------------------------------


def test_the_preview_shows_every_text_of_both_kinds() -> None:
    shown = preview(policy(), INCIDENT)
    assert text_digest(policy()) in shown
    for kind in NoticeKind:
        words = sms_copy(
            account(), "n", kind=kind, policy=policy(), incident_id=INCIDENT, code="123456"
        )
        assert words.body in shown
    assert "-p:" not in shown
    assert "2 segments, GSM-7" in shown
    assert "ログイン" in preview(policy(), INCIDENT, locale="ja")


def test_the_digest_moves_with_the_words_alone() -> None:
    digest = text_digest(policy())
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert digest == text_digest(policy(max_messages=9, concurrency=3))
    assert digest != text_digest(policy(organization="Another"))
    assert digest != text_digest(policy(site="login.example.com"))


# --- segments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "encoding", "units", "count"),
    [
        ("", "GSM-7", 0, 0),
        ("a" * 160, "GSM-7", 160, 1),
        ("a" * 161, "GSM-7", 161, 2),
        ("a" * 306, "GSM-7", 306, 2),
        ("a" * 307, "GSM-7", 307, 3),
        ("€" * 80, "GSM-7", 160, 1),
        ("a" * 152 + "€" + "a" * 152, "GSM-7", 306, 3),  # the pair can't be split at 153
        ("ó" * 70, "UCS-2", 70, 1),
        ("ó" * 71, "UCS-2", 71, 2),
        ("😀" * 35, "UCS-2", 70, 1),
        ("😀" * 67, "UCS-2", 134, 3),  # 33 whole pairs fit into 67 units
    ],
)
def test_segments(body: str, encoding: str, units: int, count: int) -> None:
    size = segments(body)
    assert (size.encoding, size.units, size.count) == (encoding, units, count)
