"""What is special to one CI: GitHub's two kinds of limits and its apps, GitLab's statuses, the
webhook's signature and its own host, Kubernetes' kinds of workloads."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from clients.ci import shown_link
from clients.github_actions import GitHubActionsClient
from clients.github_app import AccessToken, AppInstallation, GitHubLogin
from clients.gitlab import GitLabClient
from clients.http import Wire
from clients.kubernetes import ANNOTATION, KubernetesClient, token_in_file
from clients.webhook_ci import WebhookCiClient
from recovery.errors import Misconfigured, Refused, Unknown
from rehearsal.world.ci_github import App, GitHubState, github_app
from rehearsal.world.ci_gitlab import GitLabState, Token, gitlab_app
from rehearsal.world.ci_kubernetes import KubernetesState, kubernetes_app
from rehearsal.world.ci_webhook import WebhookState, webhook_app
from rehearsal.world.faults import CloseAfter, Status
from rehearsal.world.serving import Loopback

TOKEN = "a-token-of-these-tests"
GIVEN = {"CONSUMER": "crm-sync-api"}
RUN_ID = "recovery-abcdefghijklmnop"
POLL = timedelta(milliseconds=20)
QUICK: dict[str, Any] = {"poll": POLL, "timeout": timedelta(seconds=5)}
SOON = timedelta(milliseconds=300)


async def green(_: Mapping[str, str]) -> None:
    await asyncio.sleep(0.02)


async def red(_: Mapping[str, str]) -> None:
    raise RuntimeError("it did not come up")


async def hang(_: Mapping[str, str]) -> None:
    await asyncio.Event().wait()


# GitHub


@asynccontextmanager
async def github(
    state: GitHubState, login: GitHubLogin | None = None, **more: Any
) -> AsyncIterator[GitHubActionsClient]:
    async with Loopback(github_app(state)) as loopback:
        given = {**QUICK, "appears_within": SOON, **more}
        async with GitHubActionsClient(
            Wire("GitHub", loopback.url, credential="token"),
            login or AccessToken(SecretStr(TOKEN)),
            "acme/restarts",
            **given,
        ) as client:
            yield client
    await state.runs.aclose()


def repository(**more: Any) -> GitHubState:
    state = GitHubState(repository="acme/restarts", token=TOKEN, **more)
    state.add_workflow("restart.yml", green, {"CONSUMER": True, "RECOVERY_RUN": False})
    return state


async def test_an_older_github_is_asked_once_for_what_it_does_not_know() -> None:
    state = repository(modern=False)
    refused = state.faults.inject(Status(500), "nothing")
    async with github(state) as client:
        first = await client.run("restart.yml", GIVEN)
        second = await client.run("restart.yml", GIVEN)
    assert first.number != second.number
    assert len(state.runs.newest_first()) == 2
    assert refused.hits == 0


async def test_a_used_up_limit_is_no_missing_permission() -> None:
    state = repository(hourly_calls=1, window_seconds=1.5)
    async with github(state) as client:
        build = await client.run("restart.yml", GIVEN)
    assert build.result == "success"
    assert len(state.runs.newest_first()) == 1


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"CONSUMER": True}, "undeclared_input"),
        ({"CONSUMER": True, "RECOVERY_RUN": False, "REGION": True}, "missing_input"),
    ],
)
async def test_inputs_that_the_workflow_does_not_take(inputs: dict[str, bool], code: str) -> None:
    state = repository()
    state.add_workflow("other.yml", green, inputs)
    async with github(state) as client:
        with pytest.raises(Refused, match="RECOVERY_RUN") as caught:
            await client.run("other.yml", GIVEN)
    assert caught.value.code == code
    assert "crm-sync" not in str(caught.value)


async def test_a_branch_without_the_workflow_and_a_workflow_without_the_trigger() -> None:
    state = repository()
    state.add_workflow("push-only.yml", green, {}, dispatchable=False)
    async with github(state) as client:
        with pytest.raises(Refused) as no_branch:
            await client.run("restart.yml@release-1", GIVEN)
        with pytest.raises(Refused) as no_trigger:
            await client.run("push-only.yml", GIVEN)
    assert no_branch.value.code == "unknown_ref"
    assert no_trigger.value.code == "no_dispatch_trigger"


async def test_a_workflow_whose_title_hides_our_id_is_never_started_twice() -> None:
    state = repository(modern=False)
    state.add_workflow("hidden.yml", green, {"CONSUMER": True, "RECOVERY_RUN": False}, titled=False)
    async with github(state, names_runs=False) as client:
        with pytest.raises(Unknown, match="RECOVERY_RUN"):
            await client.run("hidden.yml", GIVEN)
        state.faults.inject(CloseAfter(), "POST .*/dispatches")
        with pytest.raises(Unknown):
            await client.run("hidden.yml", GIVEN)
    assert len(state.runs.newest_first("hidden.yml")) == 2


async def test_a_start_that_certainly_left_nothing_is_repeated() -> None:
    """Other runs show that this workflow puts our id into its title, and none holds this one."""
    state = repository()
    async with github(state) as client:
        await client.run("restart.yml", GIVEN)
        lost = state.faults.inject(Status(502), "POST .*/dispatches")
        await client.run("restart.yml", GIVEN, run_id=RUN_ID)
    assert lost.hits == 1
    assert len(state.runs.newest_first()) == 2


async def test_a_run_among_hundreds_is_found_on_a_later_page() -> None:
    state = repository(modern=False)
    workflow = state.workflow("restart.yml")
    assert workflow is not None
    for number in range(150):
        state.dispatched(workflow, {"CONSUMER": f"c{number}", "RECOVERY_RUN": ""})
    wanted = state.runs.newest_first()[-1]
    wanted.parameters["RECOVERY_RUN"] = RUN_ID
    await asyncio.sleep(0.1)
    async with github(state) as client:
        build = await client.run("restart.yml", GIVEN, run_id=RUN_ID)
    assert build.number == wanted.number
    assert len(state.runs.newest_first()) == 150


async def test_the_link_of_a_red_run_is_that_of_the_failed_job() -> None:
    state = repository()
    state.add_workflow("red.yml", red, {"CONSUMER": True, "RECOVERY_RUN": False})
    async with github(state) as client:
        with pytest.raises(Refused, match=r"/actions/runs/\d+/job/\d+1 ") as caught:
            await client.run("red.yml", GIVEN)
    assert caught.value.code == "build_failure"


@pytest.fixture(scope="module")
def app_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()


def _public(key: rsa.RSAPrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


async def test_a_github_app_trades_its_key_for_a_token_and_keeps_it(
    app_key: rsa.RSAPrivateKey,
) -> None:
    state = repository(app=App("Iv1.abc", _public(app_key)))
    now = datetime.now(UTC)
    moments = [now]
    login = AppInstallation(
        "Iv1.abc", "41", SecretStr(_pem(app_key)), "acme/restarts", lambda: moments[-1]
    )
    traded = state.faults.inject(Status(502), "POST /app/installations/41/access_tokens")
    async with github(state, login) as client:
        await client.run("restart.yml", GIVEN)
        before = dict(state._tokens)
        await client.run("restart.yml", GIVEN)
        assert state._tokens == before
    assert traded.hits == 1
    assert "ghs_" not in repr(login)
    assert "PRIVATE" not in repr(login)


@pytest.mark.parametrize("key", ["", "not a key", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n"])
async def test_a_github_app_with_a_broken_key(key: str) -> None:
    login = AppInstallation("1", "41", SecretStr(key), "acme/restarts")
    async with github(repository(), login) as client:
        with pytest.raises(Misconfigured, match="PEM") as caught:
            await client.run("restart.yml", GIVEN)
    assert "AAAA" not in str(caught.value)


# GitLab


@asynccontextmanager
async def gitlab(state: GitLabState, token: str = TOKEN) -> AsyncIterator[GitLabClient]:
    async with Loopback(gitlab_app(state)) as loopback:
        wire = Wire("GitLab", loopback.url, headers={"PRIVATE-TOKEN": token}, credential="token")
        async with GitLabClient(wire, appears_within=SOON, **QUICK) as client:
            yield client
    await state.runs.aclose()


@pytest.mark.parametrize(
    ("status", "code"), [("skipped", "build_skipped"), ("canceled", "cancelled")]
)
async def test_pipelines_that_end_without_success(status: str, code: str) -> None:
    state = GitLabState(token=TOKEN)
    state.add_project("ops/restarts", green)
    state.odd_status[5001] = status
    async with gitlab(state) as client:
        with pytest.raises(Refused, match=status) as caught:
            await client.run("ops/restarts", GIVEN)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("manual", "waiting for a person to start a manual job"),
        ("waiting_for_resource", "resource group"),
        ("scheduled", "delayed job"),
        ("canceling", "still running"),
    ],
)
async def test_pipelines_that_wait_say_for_what(status: str, text: str) -> None:
    state = GitLabState(token=TOKEN)
    state.add_project("ops/restarts", green)
    state.odd_status[5001] = status
    async with gitlab(state) as client:
        with pytest.raises(Unknown, match=text) as caught:
            await client.run("ops/restarts", GIVEN, timeout=timedelta(milliseconds=200))
    assert "/-/pipelines/5001" in str(caught.value)


async def test_a_manual_job_that_somebody_starts_goes_on() -> None:
    state = GitLabState(token=TOKEN)
    state.add_project("ops/restarts", green)
    state.odd_status[5001] = "manual"
    async with gitlab(state) as client:
        running = asyncio.create_task(client.run("ops/restarts", GIVEN))
        await asyncio.sleep(0.2)
        del state.odd_status[5001]
        assert (await running).result == "success"


async def test_a_red_pipeline_links_the_trace_of_its_job() -> None:
    state = GitLabState(token=TOKEN)
    state.add_project("ops/restarts", red)
    async with gitlab(state) as client:
        with pytest.raises(Refused, match="/-/jobs/50010"):
            await client.run("101", GIVEN)


async def test_a_branch_that_is_not_there_and_a_role_that_is_too_low() -> None:
    state = GitLabState(token=TOKEN)
    state.add_project("ops/restarts", green)
    state.add_token("reporter-token", Token("rep", role="reporter"))
    async with gitlab(state) as client:
        with pytest.raises(Refused) as caught:
            await client.run("ops/restarts@gone", GIVEN)
    assert caught.value.code == "unknown_ref"
    async with gitlab(state, "reporter-token") as client:
        with pytest.raises(Misconfigured, match="403"):
            await client.run("ops/restarts", GIVEN)
    assert state.runs.newest_first() == []


async def test_gitlabs_limit_is_waited_out() -> None:
    state = GitLabState(token=TOKEN, calls=2, window_seconds=1.2)
    state.add_project("ops/restarts", green)
    async with gitlab(state) as client:
        await client.run("ops/restarts", GIVEN, timeout=timedelta(seconds=15))
    assert len(state.runs.newest_first()) == 1


# The webhook


@asynccontextmanager
async def webhook(
    state: WebhookState, *, secret: str = TOKEN, **more: Any
) -> AsyncIterator[WebhookCiClient]:
    async with Loopback(webhook_app(state)) as loopback:
        wire = Wire("the CI webhook", loopback.url)
        given = {**QUICK, **more}
        async with WebhookCiClient(wire, SecretStr(secret), **given) as client:
            yield client
    await state.runs.aclose()


@pytest.mark.parametrize(
    "elsewhere",
    [
        "http://169.254.169.254",
        "https://evil.example",
        "//evil.example",
        "http://127.0.0.1:1",
        "http://user:pass@127.0.0.1",
        "file://",
        "http://[",
    ],
)
async def test_a_status_address_on_another_host_is_not_asked(elsewhere: str) -> None:
    state = WebhookState(secret=TOKEN)
    state.add_job("restart", green)
    state.status_base = elsewhere
    async with webhook(state) as client:
        with pytest.raises(Misconfigured, match="another host"):
            await client.run("restart", GIVEN)


async def test_a_status_address_in_full_on_the_same_host_is_fine() -> None:
    state = WebhookState(secret=TOKEN)
    state.add_job("restart", green)
    async with Loopback(webhook_app(state)) as loopback:
        state.status_base = loopback.url
        wire = Wire("the CI webhook", loopback.url)
        async with WebhookCiClient(wire, SecretStr(TOKEN), **QUICK) as client:
            build = await client.run("restart", GIVEN)
    assert build.url == "https://ci.example/jobs/1/log"
    await state.runs.aclose()


async def test_a_signature_of_another_day_is_refused() -> None:
    state = WebhookState(secret=TOKEN)
    state.add_job("restart", green)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    async with webhook(state, clock=lambda: yesterday) as client:
        with pytest.raises(Misconfigured, match="stale"):
            await client.run("restart", GIVEN)


async def test_a_key_used_for_something_else_is_refused() -> None:
    state = WebhookState(secret=TOKEN)
    state.add_job("restart", green)
    async with webhook(state) as client:
        await client.run("restart", GIVEN, run_id=RUN_ID)
    async with webhook(state) as client:
        with pytest.raises(Refused) as caught:
            await client.run("restart", {"CONSUMER": "other"}, run_id=RUN_ID)
    assert caught.value.code == "idempotency_key_reused"
    assert len(state.runs.newest_first()) == 1


# Kubernetes


@asynccontextmanager
async def cluster(state: KubernetesState, **more: Any) -> AsyncIterator[KubernetesClient]:
    async with Loopback(kubernetes_app(state)) as loopback:
        wire = Wire("Kubernetes", loopback.url)
        given = {"token": lambda: SecretStr(TOKEN), **QUICK, **more}
        async with KubernetesClient(wire, **given) as client:
            yield client
    await state.aclose()


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("deployments", "deployment"),
        ("statefulsets", "statefulset"),
        ("daemonsets", "daemonset"),
    ],
)
async def test_each_kind_of_workload_restarts_once(plural: str, singular: str) -> None:
    state = KubernetesState(token=TOKEN)
    state.add(plural, "web", green)
    async with cluster(state) as client:
        for _ in range(2):
            build = await client.run(f"{singular}/web", GIVEN, run_id=RUN_ID)
    assert build.result == "rolled out"
    assert state.restarts_of("web") == 1
    workload = state.find(plural, "default", "web")
    assert workload is not None
    assert workload.spec["template"]["metadata"]["annotations"] == {ANNOTATION: RUN_ID}


@pytest.mark.parametrize(
    ("plural", "job", "spec", "text"),
    [
        ("deployments", "deployment/web", {"paused": True}, "paused"),
        (
            "statefulsets",
            "statefulset/web",
            {"updateStrategy": {"type": "OnDelete"}},
            "OnDelete",
        ),
        (
            "statefulsets",
            "statefulset/web",
            {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}},
            "partition of 2",
        ),
        ("daemonsets", "daemonset/web", {"updateStrategy": {"type": "OnDelete"}}, "OnDelete"),
    ],
)
async def test_workloads_that_would_never_restart_are_told_at_once(
    plural: str, job: str, spec: dict[str, Any], text: str
) -> None:
    state = KubernetesState(token=TOKEN)
    state.add(plural, "web", green, spec=spec)
    async with cluster(state) as client:
        with pytest.raises(Refused, match=text) as caught:
            await client.run(job, GIVEN)
    assert caught.value.code == "no_rollout"


async def test_pods_that_do_not_come_up_end_at_the_deployments_deadline() -> None:
    state = KubernetesState(token=TOKEN)
    state.add("deployments", "web", red, deadline=timedelta(milliseconds=50))
    async with cluster(state) as client:
        with pytest.raises(Refused, match="progress deadline exceeded"):
            await client.run("deployment/web", GIVEN)


async def test_a_statefulset_knows_no_deadline() -> None:
    state = KubernetesState(token=TOKEN)
    state.add("statefulsets", "web", red)
    async with cluster(state) as client:
        with pytest.raises(Unknown, match="still running"):
            await client.run("statefulset/web", GIVEN, timeout=SOON)


async def test_another_namespace_and_a_page_for_people() -> None:
    state = KubernetesState(token=TOKEN)
    state.add("deployments", "web", green, namespace="shop")
    page = "https://console.example/{namespace}/{kind}/{name}"
    async with cluster(state, console_url=page) as client:
        build = await client.run("shop/deployment/web", GIVEN)
    assert build.url == "https://console.example/shop/deployment/web"


async def test_a_mounted_token_is_read_anew(tmp_path: Path) -> None:
    mounted = tmp_path / "token"
    mounted.write_text("an-old-token\n")
    state = KubernetesState(token=TOKEN)
    state.add("deployments", "web", green)
    async with cluster(state, token=token_in_file(str(mounted))) as client:
        with pytest.raises(Misconfigured, match="401"):
            await client.run("deployment/web", GIVEN)
        mounted.write_text(f"{TOKEN}\n")
        await client.run("deployment/web", GIVEN)
        mounted.unlink()
        with pytest.raises(Misconfigured, match="token"):
            await client.run("deployment/web", GIVEN)


# Links


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://ci.example/a/1?token=x#y", "https://ci.example/a/1"),
        ("https://user:pass@ci.example/a", ""),
        ("javascript:alert(1)", ""),
        ("https://ci.example/\x1b[31m", ""),
        ("", ""),
        ("http://[", ""),
    ],
)
def test_links_that_people_are_shown(given: str, shown: str) -> None:
    assert shown_link(given) == shown
