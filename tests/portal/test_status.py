"""The status page: nothing before the gate, the approved words after it, in three forms."""

import json
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as Xml

import pytest

from portal import status as status_module
from recovery.status import PublicStep, StatusText
from tests.portal.world import INCIDENT, PortalWorld

ATOM = "{http://www.w3.org/2005/Atom}"
PATHS = ("/status", "/status.json", "/status.atom")
TEXTS = {
    tag: StatusText(
        f"Incident <b>{tag}</b> & more", f"Body {tag}", {s: f"{s} in {tag}" for s in PublicStep}
    )
    for tag in ("en", "de", "ja")
}


@pytest.fixture(autouse=True)
def _asked_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "_KEPT_SECONDS", 0.0)


async def get(world: PortalWorld, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    async with world.http.get(world.url + path, headers=given) as response:
        shown = {name.lower(): value for name, value in response.headers.items()}
        return response.status, await response.text(), shown


def publish(world: PortalWorld) -> None:
    world.ledger.mark(INCIDENT, "contain.finished")
    world.ledger.publish_status(INCIDENT, TEXTS, digest="d1")
    world.ledger.mark(INCIDENT, "notify.started")


async def test_before_the_gate_nothing_is_known(world: PortalWorld) -> None:
    """There is an incident, and it has been contained: nobody is told before the text stands."""
    world.ledger.mark(INCIDENT, "contain.finished")
    status, body, _ = await get(world, "/status")
    assert status == 200
    assert "Nothing is known" in body
    assert INCIDENT not in body
    assert json.loads((await get(world, "/status.json"))[1]) == {"incidents": []}
    feed = Xml.fromstring((await get(world, "/status.atom"))[1])
    assert feed.findall(f"{ATOM}entry") == []


async def test_the_approved_words_and_no_more(world: PortalWorld) -> None:
    publish(world)
    world.ledger.mark(INCIDENT, "gate.retire.waiting")
    world.ledger.mark(INCIDENT, "rotate.started")
    _, body, _ = await get(world, "/status", accept_language="en")
    assert "Incident &lt;b&gt;en&lt;/b&gt; &amp; more" in body
    assert "Body en" in body
    assert "protected in en" in body
    assert "writing in en" in body
    assert "written in en" not in body
    _, told, _ = await get(world, "/status.json")
    _, feed, _ = await get(world, "/status.atom")
    account = next(iter(world.population.accounts.values()))
    for said in (body, told, feed):
        for secret in ("rotate", "retire", "maya", account.handle, "acc-"):
            assert secret not in said
    [incident] = json.loads(told)["incidents"]
    assert set(incident["texts"]) == set(TEXTS)
    assert [step["step"] for step in incident["steps"]] == ["protected", "writing"]
    for step in incident["steps"]:
        assert step["at"].endswith(":00:00Z"), "by the hour"


@pytest.mark.parametrize(
    ("asked", "tag", "said"), [("de", "de", "Stand des Vorfalls"), ("ja", "ja", "Body ja")]
)
async def test_in_the_persons_language(world: PortalWorld, asked: str, tag: str, said: str) -> None:
    publish(world)
    _, body, headers = await get(world, "/status", accept_language=asked)
    assert said in body
    assert f"Body {tag}" in body
    assert headers["content-language"] == tag
    assert headers["vary"] == "Accept-Language"
    _, body, _ = await get(world, "/status", accept_language="fr")
    assert "Body en" in body, "what was not approved in French is said in English"


async def test_the_feed_is_valid_atom(world: PortalWorld) -> None:
    """RFC 4287: what a feed and an entry must have, once each; dates of RFC 3339; absolute ids."""
    for known in (False, True):
        if known:
            publish(world)
        _, body, headers = await get(world, "/status.atom")
        assert headers["content-type"].startswith("application/atom+xml")
        feed = Xml.fromstring(body)
        assert feed.tag == f"{ATOM}feed"
        for part in ("id", "title", "updated"):
            assert len(feed.findall(f"{ATOM}{part}")) == 1
        assert feed.findtext(f"{ATOM}author/{ATOM}name") == "Example Social"
        relations = {link.get("rel"): link.get("href") for link in feed.findall(f"{ATOM}link")}
        assert relations == {
            "self": f"{world.url}/status.atom",
            "alternate": f"{world.url}/status",
        }
        entries = feed.findall(f"{ATOM}entry")
        assert len(entries) == (3 if known else 0)
        ids = [entry.findtext(f"{ATOM}id") or "" for entry in entries]
        assert len(set(ids)) == len(ids)
        dates = [moment.text or "" for moment in feed.iter(f"{ATOM}updated")]
        for date in dates:
            assert datetime.strptime(date, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        for entry in entries:
            assert len(entry.findall(f"{ATOM}title")) == 1
            assert len(entry.findall(f"{ATOM}content")) == 1
            assert entry.find(f"{ATOM}link[@rel='alternate']") is not None
        assert feed.findtext(f"{ATOM}updated") == max(dates)


@pytest.mark.parametrize("path", PATHS)
async def test_it_is_kept_until_it_changes(world: PortalWorld, path: str) -> None:
    publish(world)
    _, body, headers = await get(world, path)
    assert headers["cache-control"] == "public, max-age=30"
    etag = headers["etag"]
    for asked in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        status, nothing, again = await get(world, path, if_none_match=asked)
        assert (status, nothing) == (304, "")
        assert again["etag"] == etag
    world.ledger.mark(INCIDENT, "notify.finished")
    status, changed, headers = await get(world, path, if_none_match=etag)
    assert status == 200
    assert changed != body
    assert headers["etag"] != etag


async def test_a_ledger_that_is_away_does_not_take_the_page_away(world: PortalWorld) -> None:
    publish(world)
    _, body, _ = await get(world, "/status")
    world.ledger.close()
    database = world.folder / "ledger" / "ledger.db"
    database.rename(database.with_suffix(".away"))
    try:
        status, again, _ = await get(world, "/status")
        assert (status, again) == (200, body)
    finally:
        database.with_suffix(".away").rename(database)


async def test_a_closed_incident_says_so(world: PortalWorld) -> None:
    publish(world)
    world.ledger.close_incident(INCIDENT)
    world.clock.advance(timedelta(hours=2))
    _, body, _ = await get(world, "/status")
    assert "closed in en" in body
    [incident] = json.loads((await get(world, "/status.json"))[1])["incidents"]
    assert incident["closed"] is True


async def test_asking_has_no_effect_and_costs_the_ledger_little(
    world: PortalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(world)
    monkeypatch.setattr(status_module, "_KEPT_SECONDS", 60.0)
    asked = 0
    read = world.ledger.public_statuses

    def counted() -> object:
        nonlocal asked
        asked += 1
        return read()

    monkeypatch.setattr(world.ledger, "public_statuses", counted)
    before = world.ledger_digest()
    for _ in range(5):
        for path in PATHS:
            assert (await get(world, path))[0] == 200
    assert asked == 1
    assert world.ledger_digest() == before
