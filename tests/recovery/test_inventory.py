"""The inventory: two sources laid over each other, what is old, what is left to a person; the
record of a scheduled rotation; the approval's plan that names clients."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from recovery.app_clients import AppClient, ClientSecret, Consumer, Lift, untouched_reason
from recovery.hygiene import in_the_way, is_scheduled, scheduled_id, unfinished
from recovery.incident import Incident
from recovery.inventory import StoredEntry, merged, row, shown, too_old, without_client
from recovery.plans import lift_plan
from recovery.refusals import AuthCounts, complaint, still_wanted

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
API = Consumer("api", "https://api.example/health", "restart")
CLIENT = AppClient("app-1", "planner", "team-ads", "low", 12, 2, (API,))


def secret(secret_id: str, days: int, *, active: bool = True) -> ClientSecret:
    return ClientSecret(secret_id, NOW - timedelta(days=days), active, None, None)


def entry(name: str = "app-1", **more: object) -> StoredEntry:
    plain = StoredEntry(f"apps/{name}", name, "team-old", ("api",), frozenset(), NOW, NOW, 0)
    return replace(plain, **more)  # type: ignore[arg-type]


def test_the_store_adds_what_the_platform_does_not_know() -> None:
    assert merged(CLIENT, None) == CLIENT
    assert merged(CLIENT, entry()) == CLIENT, "the platform's owner comes first"
    assert merged(replace(CLIENT, owner=""), entry()).owner == "team-old"
    prepared = merged(CLIENT, entry(tries_both=frozenset({"api"})))
    assert prepared.consumers[0].tries_both


def test_a_consumer_that_the_store_alone_names_leaves_the_client_to_a_person() -> None:
    found = merged(CLIENT, entry(consumers=("api", "batch")))
    assert [c.name for c in found.consumers] == ["api", "batch"]
    assert "no CI job" in untouched_reason(found)


def test_a_row_tells_who_owns_reads_and_how_old() -> None:
    secrets = [secret("a", 400), secret("b", 900, active=False)]
    made = row(CLIENT, secrets, path="apps/app-1", stored=True, approved=False, now=NOW)
    assert shown([made]) == [
        {
            "client": "app-1",
            "name": "planner",
            "kind": "oauth_client",
            "owner": "team-ads",
            "risk": "low",
            "accounts": 12,
            "secrets": 2,
            "age in days": 400,
            "read from": "apps/app-1",
            "consumers": "api (CI restart, health page)",
            "plan": "rotate",
        }
    ]


def test_what_has_no_known_consumer_is_listed_with_the_approval_that_would_do() -> None:
    nobody = replace(CLIENT, consumers=())
    left = row(nobody, [], path="apps/app-1", stored=False, approved=False, now=NOW)
    (told,) = shown([left])
    assert told["consumers"] == "none known"
    assert str(told["plan"]).startswith("left to a person: no known consumer")
    assert str(told["plan"]).endswith("(approval rotate.unknown)")
    assert told["read from"] == "apps/app-1 (not there)"
    yes = row(nobody, [], path="apps/app-1", stored=True, approved=True, now=NOW)
    assert yes.plan.startswith("rotate, as approved, although: no known consumer")


def test_entries_that_no_client_has() -> None:
    assert without_client([entry("app-1"), entry("app-9")], {"app-1"}) == [entry("app-9")]


def test_old_is_what_the_newest_active_secret_is() -> None:
    held = {
        "old": [secret("a", 91)],
        "renewed": [secret("b", 400), secret("c", 3)],
        "dead": [secret("d", 400, active=False)],
        "switched": [secret("e", 400), secret("f", 3, active=False)],
    }
    assert too_old(held, NOW, timedelta(days=90)) == ["old", "switched"]


# The record of a scheduled rotation.


def record(record_id: str, *, closed: bool = False) -> Incident:
    return Incident(record_id, NOW, NOW, NOW, "", "", "schedule", NOW if closed else None)


def test_a_day_has_its_own_id() -> None:
    assert scheduled_id(NOW, ()) == "ROT-2026-1124"
    assert scheduled_id(NOW, {"ROT-2026-1124"}) == "ROT-2026-11241"
    assert is_scheduled("ROT-2026-1124")
    assert not is_scheduled("INC-2026-1124")


def test_an_unfinished_rotation_comes_before_a_new_one() -> None:
    assert unfinished([record("ROT-2026-1117", closed=True), record("INC-2026-0001")]) == ""
    assert unfinished([record("ROT-2026-1117"), record("INC-2026-0001")]) == "ROT-2026-1117"


def test_an_incident_that_is_rotating_is_in_the_way() -> None:
    both = [record("INC-2026-0001", closed=True), record("INC-2026-0002"), record("ROT-2026-1117")]
    assert in_the_way(both, {"INC-2026-0001", "ROT-2026-1117"}) == ""
    assert in_the_way(both, {"INC-2026-0002"}) == "INC-2026-0002"


# The approval, and the SIEM's word.


def test_the_plan_names_each_client_and_its_gap() -> None:
    prepared = replace(CLIENT, client_id="app-2", consumers=(replace(API, tries_both=True),))
    plan = lift_plan("INC-2026-0142", Lift.GAP, [CLIENT, prepared])
    assert plan.gate == "rotate.gap"
    assert plan.facts["Clients"] == "2: app-1, app-2"
    assert "api: from the rotation until its restart is done" in plan.detail
    assert "none: every consumer tries both secrets" in plan.detail
    fewer = lift_plan("INC-2026-0142", Lift.GAP, [CLIENT])
    assert fewer.digest != plan.digest, "an approval is for exactly these clients"
    unknown = lift_plan("INC-2026-0142", Lift.UNKNOWN, [replace(CLIENT, consumers=())])
    assert (unknown.gate, "app-1" in unknown.detail) == ("rotate.unknown", True)


def test_what_the_siem_says_of_a_new_secret() -> None:
    assert complaint(AuthCounts(1, 100), max_share=0.02, need_traffic=True) == ""
    assert "3 of 100" in complaint(AuthCounts(3, 100), max_share=0.02, need_traffic=False)
    assert complaint(AuthCounts(), max_share=0.02, need_traffic=False) == ""
    assert "nobody" in complaint(AuthCounts(), max_share=0.02, need_traffic=True)
    assert still_wanted(AuthCounts(1, 9), usual=0)
    assert not still_wanted(AuthCounts(1, 9), usual=1)
