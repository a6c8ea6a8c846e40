"""The catalog: every language says everything, in time and in few enough characters."""

import re

import pyotp
import pytest

from portal.pages import HERE
from portal.texts import catalog, choose, places
from recovery.sms_segments import segments
from tests.portal.world import PortalWorld

LANGUAGES = ("en", "de", "es", "fr", "ja")
ENGLISH = catalog()["en"].sentences


def test_the_languages() -> None:
    assert set(catalog()) == set(LANGUAGES)


@pytest.mark.parametrize("tag", LANGUAGES)
def test_every_language_says_everything(tag: str) -> None:
    sentences = catalog()[tag].sentences
    assert set(sentences) == set(ENGLISH)
    for key, sentence in sentences.items():
        assert sentence.strip() == sentence != "", key
        assert places(sentence) == places(ENGLISH[key]), key


@pytest.mark.parametrize("tag", [tag for tag in LANGUAGES if tag != "en"])
def test_nothing_was_left_in_english(tag: str) -> None:
    sentences = catalog()[tag].sentences
    same = {key for key in ENGLISH if sentences[key] == ENGLISH[key] and len(ENGLISH[key]) > 6}
    assert not same


def test_every_sentence_is_said_somewhere() -> None:
    """Keys stand in templates and handlers, some of them in two parts."""
    files = [*(HERE / "templates").glob("*.html"), *HERE.glob("*.py")]
    source = "\n".join(path.read_text() for path in files)
    named = set(re.findall(r"""["']([a-z_]+(?:\.[a-z_]+)+)["']""", source))
    begun = ("step.", "check.channel.")
    ended = {f"{about}{end}" for about in _abouts(source) for end in (".title", ".text", ".next")}
    unsaid = {key for key in ENGLISH if key not in named | ended and not key.startswith(begun)}
    unsaid -= {"skip", "area", "dir"}
    assert not unsaid


def _abouts(source: str) -> set[str]:
    return set(re.findall(r"""["']([a-z]+(?:\.[a-z]+)?)["']""", source))


@pytest.mark.parametrize(
    ("asked", "tag"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("sv, fr;q=0.5, en;q=0.4", "fr"),
        ("en;q=0.1, ja;q=0.9", "ja"),
        ("ES-mx", "es"),
        ("de;q=0, fr", "fr"),
        ("*", "en"),
        ("sv,*;q=0.5,de;q=0.1", "en"),
        ("xx", "en"),
        ("de;q=nonsense", "en"),
        (";;;,,,q=1", "en"),
        (",".join(["xx"] * 500 + ["de"]), "en"),
    ],
)
def test_which_language(asked: str, tag: str) -> None:
    assert choose(asked).tag == tag


@pytest.mark.parametrize("tag", LANGUAGES)
def test_the_text_message_is_short(tag: str) -> None:
    said = catalog()[tag]("sms.code", organization="Example Social", code="123456", minutes=10)
    body = f"{said}\n\n@accounts.example.com #123456"
    assert segments(body).count <= (2 if tag == "ja" else 1)
    assert "://" not in said


@pytest.mark.parametrize("tag", LANGUAGES)
async def test_the_whole_way_in_every_language(world: PortalWorld, person: str, tag: str) -> None:
    browser = world.browser(tag)
    seen = [
        await browser.open(path) for path in ("/", "/check", "/fresh-link", "/nothing", "/advice")
    ]
    seen.append(await browser.send(seen[1].forms["/check"], identifier="a", code="000000"))
    seen.append(await browser.send(seen[1].forms["/check"], identifier="", code="1"))
    seen.append(await browser.send(seen[2].forms["/fresh-link"], identifier=""))
    seen.append(await browser.send(seen[2].forms["/fresh-link"], identifier="a"))
    seen.append(await browser.open("/enroll/code"))
    link = world.invite(person)
    seen.append(await browser.open(link))
    seen.append(await world.begin(browser, link))
    seen.append(await browser.send(seen[-1].forms["/enroll/code/send"]))
    seen.append(await browser.send(seen[-1].forms["/enroll/code"], code="1"))
    code = await world.sms_code(person)
    wrong = f"{(int(code) + 1) % 10**6:06}"
    seen.append(await browser.send(seen[-1].forms["/enroll/code"], code=wrong))
    seen.append(await browser.send(seen[-1].forms["/enroll/code"], code=code))
    seen.append(await browser.send(seen[-1].forms["/enroll/passkey"], credential="{}"))
    seen.append(await browser.open("/enroll/authenticator"))
    form = seen[-1].forms["/enroll/authenticator"]
    totp = pyotp.TOTP(seen[-1].by_id["secret"].replace(" ", ""))
    seen.append(await browser.send(form, code="000000"))
    seen.append(await browser.send(form, code=totp.at(world.clock.now())))
    assert seen[-1].path == "/enroll/done"
    for page in seen:
        assert page.language == tag
        assert page.status < 500
        assert not re.search(r"[{}]", page.text)
    sent = world.mailboxes.of(world.population.accounts[person].phone or "")[-1]
    values = {"organization": "Example Social", "code": code, "minutes": 10}
    assert (sent.text or "").startswith(catalog()[tag]("sms.code", **values))
