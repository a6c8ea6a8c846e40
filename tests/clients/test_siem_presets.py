"""Presets on documents in the shape of each integration, searched for real."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from clients.http import Wire
from clients.siem import ElasticsearchClient
from clients.siem_presets import PRESETS, chosen
from recovery.errors import Misconfigured
from rehearsal.world.serving import Loopback
from rehearsal.world.siem_app import Credential, SiemApp

NOW = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
READER = Credential("api_key", "reader", "read-secret")


def document(action: str, outcome: str | None = "success", **more: Any) -> dict[str, Any]:
    event: dict[str, Any] = {"action": action, "category": ["iam"]}
    if outcome is not None:
        event["outcome"] = outcome
    return {
        "@timestamp": (NOW - timedelta(minutes=5)).isoformat(),
        "data_stream": {"type": "logs", "dataset": "sample", "namespace": "default"},
        "event": event,
        **more,
    }


def entra(action: str, kind: str = "User", outcome: str = "success") -> dict[str, Any]:
    target = {"id": "00000000-aaaa", "type": kind, "user_principal_name": "a@x.example"}
    properties = {
        "target_resources": {"0": target},
        "initiated_by": {"user": {"id": "admin-id"}},
    }
    return document(action, outcome, azure={"auditlogs": {"properties": properties}})


async def found(preset: str, *documents: dict[str, Any]) -> tuple[set[str], int]:
    """(accounts sighted, resets without an account)"""
    app = SiemApp(lambda: NOW, documents, credentials=[READER])
    window = (NOW - timedelta(hours=1), NOW)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Loopback(app))
        wire = Wire("x", server.url, headers={"Authorization": READER.authorization})
        client = ElasticsearchClient(wire, index="logs-*", presets=chosen([preset]))
        await stack.enter_async_context(client)
        pages = [page async for page in client.sightings(*window)]
        nobody = await client.unattributed(*window)
    return {s.account_id for page in pages for s in page}, nobody[preset]


OKTA_ACTOR = {"user": {"id": "00u-admin", "target": {"id": "00u-person"}}}


@pytest.mark.parametrize(
    ("preset", "doc", "account"),
    [
        ("okta", document("user.account.reset_password", **OKTA_ACTOR), "00u-person"),
        ("entra", entra("Reset user password"), "00000000-aaaa"),
        ("entra", entra("Reset password (self-service)", outcome="Success"), "00000000-aaaa"),
        (
            "auth0",
            document("user-password-changed-successfully", user={"id": "auth0|5f7c"}),
            "auth0|5f7c",
        ),
        (
            "auth0",
            document(
                "Successfully changed password",
                auth0={"logs": {"data": {"user_id": "auth0|1"}}},
                user={"id": "auth0|1"},
            ),
            "auth0|1",
        ),
        (
            "google",
            document(
                "CHANGE_PASSWORD",
                None,
                source={"user": {"id": "1", "email": "admin@x.example"}},
                google_workspace={"admin": {"user": {"email": "p@x.example"}}},
            ),
            "p@x.example",
        ),
        (
            "google",
            document(
                "account_disabled_password_leak",
                None,
                google_workspace={"login": {"affected_email_address": "p@x.example"}},
            ),
            "p@x.example",
        ),
        ("ecs", document("user-password-reset", user={"id": "u-1"}), "u-1"),
    ],
)
async def test_the_affected_person_is_found(preset: str, doc: dict[str, Any], account: str) -> None:
    assert await found(preset, doc) == ({account}, 0)


@pytest.mark.parametrize(
    ("preset", "doc"),
    [
        # A person's own change, a failed try, another target than a person.
        ("okta", document("user.account.update_password", **OKTA_ACTOR)),
        ("okta", document("user.account.reset_password", "failure", **OKTA_ACTOR)),
        ("entra", entra("Change password (self-service)")),
        ("entra", entra("Reset user password", outcome="failure")),
        ("entra", entra("Reset user password", kind="ServicePrincipal")),
        ("auth0", document("failed-to-change-password", "failure", user={"id": "auth0|1"})),
        ("auth0", document("user-password-change-request-successful", user={"id": "auth0|1"})),
        ("google", document("2sv_disable", None, user={"id": "1"})),
        ("ecs", document("user-password-change", user={"id": "u-1"})),
        ("ecs", document("user.account.reset_password", **OKTA_ACTOR)),
    ],
)
async def test_what_is_no_reset_is_left_out(preset: str, doc: dict[str, Any]) -> None:
    assert await found(preset, doc) == (set(), 0)


@pytest.mark.parametrize(
    ("preset", "doc"),
    [
        # The actor alone is known: nobody is guessed to be the victim.
        ("okta", document("user.account.reset_password", user={"id": "00u-admin"})),
        ("google", document("CHANGE_PASSWORD", None, source={"user": {"id": "1"}})),
        ("ecs", document("user-password-reset", related={"user": ["ann"]})),
    ],
)
async def test_a_reset_without_a_person_is_counted(preset: str, doc: dict[str, Any]) -> None:
    assert await found(preset, doc) == (set(), 1)


async def test_two_fields_of_one_document_count_once() -> None:
    both = document(
        "CHANGE_PASSWORD",
        None,
        user={"target": {"id": "g-1", "email": "p@x.example"}},
        google_workspace={"admin": {"user": {"email": "p@x.example"}}},
    )
    assert await found("google", both) == ({"g-1"}, 0)


def test_keycloak_takes_an_admins_reset_by_its_path_alone() -> None:
    """ACTION-USER is every act of an administrator on a user. The rehearsal's server knows no
    wildcard query, so what is checked here is the query that is asked."""
    person, admin = PRESETS["keycloak"].rules
    assert person.accounts == ("user.id",)
    assert admin.accounts == ("user.target.id",)
    paths = [c["wildcard"] for c in admin.clauses() if "wildcard" in c]
    assert paths == [{"keycloak.admin.resource.path": "users/*/reset-password"}]
    assert all("outcome" not in str(clause) for clause in (*person.clauses(), *admin.clauses()))


def test_choosing() -> None:
    assert [p.name for p in chosen(["ecs", "okta", "ecs"])] == ["ecs", "okta"]
    [ecs] = chosen(["ecs"], ecs_actions=["forgot-password-done"])
    assert ecs.rules[0].actions == ("user-password-reset", "password-reset", "forgot-password-done")
    assert chosen(["okta"], ecs_actions=["x"]) == (PRESETS["okta"],)
    for wrong in (["splunk"], []):
        with pytest.raises(Misconfigured) as caught:
            chosen(wrong)
        assert "okta, entra, auth0, google, keycloak, ecs" in str(caught.value)
