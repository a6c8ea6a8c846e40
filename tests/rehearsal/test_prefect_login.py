"""Prefect's server as docs/hardening.md wants it: a password for all but the probes, a token for
each change, and a UI in which a person still logs in, starts a run and answers a gate."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, async_playwright, expect

from rehearsal.operator import Operator, Patient
from rehearsal.prefect_server import ROOT, WORK_POOL, PrefectServer

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 180_000  # ms for a page on a busy machine
ENDS = 400.0


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    try:
        server.start_server()
        server.wait_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
async def anonymous(prefect: PrefectServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=prefect.api, timeout=60) as client:
        yield client


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_probes_need_no_password(anonymous: httpx.AsyncClient, path: str) -> None:
    assert (await anonymous.get(path)).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/admin/version",
        "/admin/settings",
        "/csrf-token?client=somebody",
        "/block_types/slug/secret",
        "/collections/views/aggregate-worker-metadata",
        "/deployments/name/respond/respond",
    ],
)
async def test_reading_needs_the_password(
    anonymous: httpx.AsyncClient, prefect: PrefectServer, path: str
) -> None:
    assert (await anonymous.get(path)).status_code == 401
    wrong = ("operator", "password")
    assert (await anonymous.get(path, auth=wrong)).status_code == 401
    shouted = {"Authorization": f"Bearer {prefect.auth}"}
    assert (await anonymous.get(path, headers=shouted)).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/flow_runs/filter"),
        ("POST", "/work_pools/"),
        ("POST", "/deployments/00000000-0000-0000-0000-000000000000/create_flow_run"),
        ("DELETE", "/v2/concurrency_limits/recovery-platform"),
        ("PATCH", "/work_pools/recovery"),
    ],
)
async def test_changing_needs_the_password_and_a_token(
    anonymous: httpx.AsyncClient, prefect: PrefectServer, method: str, path: str
) -> None:
    user, _, password = prefect.auth.partition(":")
    nobody = await anonymous.request(method, path, json={})
    assert nobody.status_code in (401, 403)
    forged = await anonymous.request(method, path, json={}, auth=(user, password))
    assert (forged.status_code, forged.json()["detail"]) == (403, "Missing CSRF token.")
    other = {"Prefect-Csrf-Token": "0" * 64, "Prefect-Csrf-Client": "somebody"}
    guessed = await anonymous.request(method, path, json={}, auth=(user, password), headers=other)
    assert guessed.status_code == 403


async def test_a_token_alone_is_no_password(
    anonymous: httpx.AsyncClient, prefect: PrefectServer
) -> None:
    user, _, password = prefect.auth.partition(":")
    given = await anonymous.get("/csrf-token", params={"client": "me"}, auth=(user, password))
    headers = {"Prefect-Csrf-Token": given.json()["token"], "Prefect-Csrf-Client": "me"}
    refused = await anonymous.post("/flow_runs/filter", json={}, headers=headers)
    assert refused.status_code == 401


async def test_our_own_client_gets_through_and_renews_its_token(prefect: PrefectServer) -> None:
    transport = Patient(prefect.auth)
    async with httpx.AsyncClient(base_url=prefect.api, timeout=60, transport=transport) as client:
        assert (await client.post("/flow_runs/filter", json={})).status_code == 200
        transport._token = "one that has ended"
        assert (await client.post("/flow_runs/filter", json={})).status_code == 200


def test_the_password_is_kept_from_the_processes_that_do_not_need_it(
    prefect: PrefectServer,
) -> None:
    assert "PREFECT_SERVER_API_AUTH_STRING" not in prefect.environment
    assert prefect.auth not in " ".join(prefect.server.process.args)  # type: ignore[union-attr]


async def _deployment(operator: Operator) -> str:
    with suppress(httpx.HTTPStatusError):  # the worker may have made it
        await operator.create_pool(WORK_POOL)
    flow = await operator._post("/flows/", {"name": "asks-first"})
    made = await operator._post(
        "/deployments/",
        {
            "name": "asks-first",
            "flow_id": flow["id"],
            "entrypoint": "tests.rehearsal.asks_first.asks_first",
            "work_pool_name": WORK_POOL,
            "pull_steps": [
                {"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}
            ],
            "parameter_openapi_schema": {
                "type": "object",
                "title": "Parameters",
                "required": ["incident_id"],
                "properties": {
                    "incident_id": {"title": "Incident", "type": "string", "position": 0}
                },
            },
        },
    )
    return str(made["id"])


async def _log_in(page: Page, prefect: PrefectServer) -> None:
    await page.goto(prefect.url)
    await expect(page.get_by_text("Login").first).to_be_visible()
    await page.locator("input").first.fill("operator:a-wrong-one")
    await page.get_by_role("button", name="Login").click()
    await expect(page.get_by_text("Invalid credentials")).to_be_visible()
    await page.locator("input").first.fill(prefect.auth)
    await page.get_by_role("button", name="Login").click()
    await page.wait_for_url("**/dashboard**")


@pytest.fixture(scope="module")
def with_worker(prefect: PrefectServer) -> PrefectServer:
    prefect.start_worker()
    return prefect


@pytest.mark.skipif(not CHROMIUM.exists(), reason="/usr/bin/chromium is missing")
@pytest.mark.parametrize("newer", [False, True], ids=["classic", "newer"])
async def test_a_person_logs_in_starts_a_run_and_answers_its_gate(
    with_worker: PrefectServer, tmp_path: Path, newer: bool
) -> None:
    prefect, base = with_worker, f"{with_worker.url}{'/v2' if newer else ''}"
    operator = Operator(prefect.api, prefect.auth)
    deployment = await _deployment(operator)
    seen = {run["id"] for run in await operator._post("/flow_runs/filter", {})}
    refused: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox"]
        )
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        await _log_in(page, prefect)
        page.on("response", lambda r: refused.append(r.url) if r.status in (401, 403) else None)

        await page.goto(f"{base}/deployments/deployment/{deployment}/run")
        await page.locator("textarea").first.fill("INC-2026-0142")
        await page.get_by_role("button", name="Submit").click()

        run_id = await _new_run(operator, seen)
        await _until(operator, run_id, "PAUSED")
        await page.goto(f"{base}/runs/flow-run/{run_id}")
        if newer:
            await page.get_by_role("button", name="Open menu").first.click()
            await page.get_by_role("menuitem", name="Resume").click()
        else:
            await page.get_by_role("button", name="Resume").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog.get_by_text("go on?")).to_be_visible()
        fields = dialog.locator("textarea, input[type=text]")
        await fields.nth(0).fill("approve")
        await fields.nth(1).fill("read the plan")
        await page.screenshot(path=str(tmp_path / "resume.png"))
        await dialog.get_by_role("button", name="Resume" if newer else "Submit").click()
        await _until(operator, run_id, "COMPLETED")
        await browser.close()
    assert refused == []
    await operator.close()


async def _new_run(operator: Operator, seen: set[str]) -> str:
    async with asyncio.timeout(ENDS):
        while True:
            found = await operator._post("/flow_runs/filter", {})
            if new := {str(run["id"]) for run in found} - seen:
                return new.pop()
            await asyncio.sleep(0.5)


async def _until(operator: Operator, run_id: str, state: str) -> None:
    async with asyncio.timeout(ENDS):
        while True:
            run = await operator.look(run_id)
            if run.type == state:
                return
            assert run.type not in ("FAILED", "CRASHED", "CANCELLED"), run.message
            await asyncio.sleep(0.5)
