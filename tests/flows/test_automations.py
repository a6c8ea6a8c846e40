"""Automations on a real Prefect server with its event services: alerts start dry runs and nothing
else, people are told of gates, silence and failures.

Slack's and SendGrid's own hosts are fixed in Prefect's blocks and can't be asked here. Prefect's
*Slack Webhook* block runs with an address that its library sends to loopback, and its *Custom
Webhook* block stands where the email block would.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from rehearsal.prefect_server import ROOT
from rehearsal.world.serving import Loopback
from tests.flows.receivers import Receiver
from tests.flows.rehearsed import Rehearsed, ask, rehearse, runbook_file

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

GUIDE = ROOT / "docs" / "operating.md"
SECONDS = 240.0
ALERTS = {
    "approvers": ["slack-webhook/recovery-approvers"],
    "escalation": ["custom-webhook/recovery-escalation"],
    "failures": ["custom-webhook/recovery-team"],
    "escalate_after": "15s",
}


@dataclass(frozen=True, slots=True)
class Automated:
    """A stage with its automations; `said` is what each run of the set-up printed."""

    rehearsed: Rehearsed
    runbook: str
    receiver: Receiver
    said: list[str]

    async def runs(self, requester: str) -> list[dict[str, Any]]:
        """Runs of `respond` that were requested so, the oldest first."""
        body = {"flows": {"name": {"any_": ["respond"]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found = await ask(self.rehearsed.api, "POST", "/flow_runs/filter", body)
        return [run for run in found if run["parameters"].get("requested_by") == requester]

    async def started_by(self, requester: str) -> dict[str, Any]:
        """The one run that an automation started, when it has ended."""
        async with asyncio.timeout(SECONDS):
            while not (runs := await self.runs(requester)):
                await asyncio.sleep(0.3)
            (run,) = runs
            await self.rehearsed.operator.follow(run["id"], approve=None, timeout=SECONDS)
        return dict(await ask(self.rehearsed.api, "GET", f"/flow_runs/{run['id']}"))


async def set_up(stage: Any, runbook: str) -> str:
    """`python -m flows.setup` as an operator runs it; what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "flows.setup", "--runbook", runbook),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=stage.prefect.environment,
        cwd=ROOT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def create_block(rehearsed: Rehearsed, kind: str, name: str, data: dict[str, Any]) -> None:
    """As the form under Blocks does."""
    api = rehearsed.api
    block_type = await ask(api, "GET", f"/block_types/slug/{kind}")
    wanted = {"block_schemas": {"block_type_id": {"any_": [block_type["id"]]}}}
    schema = (await ask(api, "POST", "/block_schemas/filter", wanted))[0]
    document = {"name": name, "data": data, "block_schema_id": schema["id"]}
    await ask(api, "POST", "/block_documents/", {**document, "block_type_id": block_type["id"]})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def automated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Automated]:
    folder = tmp_path_factory.mktemp("automations")
    receiver = Receiver()
    async with rehearse(folder, accounts=25, seed=5) as running, Loopback(receiver) as other_end:
        with runbook_file({**running.runbook, "alerts": ALERTS}) as name:
            before = await set_up(running.stage, name)
            to_slack = other_end.url.replace("http://", "json://")
            url = {"url": f"{to_slack}/slack"}
            await create_block(running, "slack-webhook", "recovery-approvers", url)
            for block in ("recovery-escalation", "recovery-team"):
                url = {"name": block, "url": f"{other_end.url}/{block}"}
                body = {"json_data": {"subject": "{{subject}}", "body": "{{body}}"}}
                await create_block(running, "custom-webhook", block, {**url, **body})
            said = [before, await set_up(running.stage, name), await set_up(running.stage, name)]
            yield Automated(running, name, receiver, said)


async def test_the_setup_says_what_it_cannot_make_yet_and_repeats_nothing(
    automated: Automated,
) -> None:
    before, then, again = automated.said
    assert "no block slack-webhook/recovery-approvers yet: create it" in before
    assert "'recovery: an alert of the SIEM plans a response'" in before
    assert "'recovery: a run waits for an approver'" not in before
    assert "'recovery: a run waits for an approver' created" in then
    assert "created" not in again
    rows = await ask(automated.rehearsed.api, "POST", "/automations/filter", {})
    ours = [row for row in rows if row["name"].startswith("recovery: ")]
    assert len(ours) == len({row["name"] for row in ours}) == 7
    assert all(row["description"] and row["enabled"] for row in ours)


async def test_one_that_is_switched_off_stays_off(automated: Automated) -> None:
    api = automated.rehearsed.api
    name = "recovery: nobody watches for bursts"
    rows = await ask(api, "POST", "/automations/filter", {})
    (row,) = [row for row in rows if row["name"] == name]
    await ask(api, "PATCH", f"/automations/{row['id']}", {"enabled": False})
    assert f"{name!r} is up to date, switched off" in await set_up(
        automated.rehearsed.stage, automated.runbook
    )
    row = await ask(api, "GET", f"/automations/{row['id']}")
    assert row["enabled"] is False


def curl_of_the_guide() -> str:
    """The command as it stands in the operator's guide."""
    (command,) = re.findall(r"<!-- curl: [^>]*-->\n```\n(.*?)\n```", GUIDE.read_text(), re.S)
    return str(command)


async def test_the_curl_of_the_guide_starts_a_dry_run(automated: Automated) -> None:
    stage = automated.rehearsed.stage
    before = automated.rehearsed.world.digest()
    environment = {
        "PATH": os.environ["PATH"],
        "PREFECT_API_URL": stage.prefect.api,
        "PREFECT_API_AUTH_STRING": stage.prefect.environment.get("PREFECT_API_AUTH_STRING", ""),
    }
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", curl_of_the_guide()),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"")
    run = await automated.started_by("siem-alert")
    given = run["parameters"]
    assert given["incident_id"] == "INC-2026-0142"
    assert given["dry_run"] is True
    assert given["runbook"] == automated.runbook
    assert when(given["window_start"]) == datetime(2026, 11, 24, 16, 0, tzinfo=UTC)
    assert when(given["window_end"]) == datetime(2026, 11, 24, 16, 20, tzinfo=UTC)
    assert run["name"] == "respond INC-2026-0142 (dry run)"
    assert run["state"]["type"] == "COMPLETED", run["state"]
    assert automated.rehearsed.world.digest() == before


def when(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_an_alert_can_start_nothing_but_a_dry_run(automated: Automated) -> None:
    """Whatever it claims: parameters of its own are not passed on, a bad id starts nothing."""
    api = automated.rehearsed.api
    known = {run["id"] for run in await automated.runs("siem-alert")}
    claims = {"dry_run": False, "requested_by": "maya", "runbook": "mass-password-reset"}
    await post_event(
        api, "recovery.siem.alert", "recovery.siem.x", {"incident_id": "x; rm", **claims}
    )
    await post_event(
        api, "recovery.siem.alert", "recovery.siem.x", {"incident_id": "INC-2026-0777", **claims}
    )
    async with asyncio.timeout(SECONDS):
        while not (new := [r for r in await automated.runs("siem-alert") if r["id"] not in known]):
            await asyncio.sleep(0.3)
    (run,) = new
    assert run["parameters"]["incident_id"] == "INC-2026-0777"
    assert run["parameters"]["dry_run"] is True
    assert run["parameters"]["runbook"] == automated.runbook
    assert run["parameters"]["window_start"] is None
    await automated.rehearsed.operator.follow(run["id"], approve=None, timeout=SECONDS)


async def post_event(api: Any, event: str, resource: str, payload: dict[str, Any]) -> None:
    stamp = datetime.now(UTC).isoformat()
    one = {"id": str(uuid4()), "occurred": stamp, "event": event, "payload": payload}
    resources = {"prefect.resource.id": resource, "prefect.resource.name": resource[-13:]}
    await ask(api, "POST", "/events", [{**one, "resource": resources}])


async def test_watch_tells_a_burst_once_and_a_dry_run_plans_it(automated: Automated) -> None:
    running = automated.rehearsed
    first = await watch_once(automated)
    assert first.startswith("A burst: "), first
    run = await automated.started_by("watch")
    assert run["parameters"]["dry_run"] is True
    truth = running.world.traffic.truth
    start, end = (when(run["parameters"][f"window_{edge}"]) for edge in ("start", "end"))
    assert start <= truth.burst_start < truth.burst_end <= end
    assert run["state"]["type"] == "COMPLETED", run["state"]
    assert "accounts would be contained" in run["state"]["message"]
    incident_id = run["parameters"]["incident_id"]
    assert first.endswith(f"Planned as {incident_id}.")
    assert f"told before as {incident_id}" in await watch_once(automated)
    events = {"filter": {"event": {"name": ["recovery.burst.detected"]}}}
    async with asyncio.timeout(SECONDS):
        while not (found := (await ask(running.api, "POST", "/events/filter", events))["events"]):
            await asyncio.sleep(0.5)
    (event,) = found
    assert event["resource"]["prefect.resource.id"] == f"recovery.watch.{automated.runbook}"
    assert "@" not in json.dumps(event["payload"])
    assert len(await automated.runs("watch")) == 1


async def watch_once(automated: Automated) -> str:
    """One run of `watch`; its message."""
    operator = automated.rehearsed.operator
    run_id = await operator.start("watch/watch", {"runbook": automated.runbook})
    run = await operator.follow(run_id, approve=None, timeout=SECONDS)
    assert run.type == "COMPLETED", run.message
    return run.message


async def test_a_gate_is_told_and_silence_is_escalated_and_approves_nothing(
    automated: Automated,
) -> None:
    running, receiver = automated.rehearsed, automated.receiver
    run = await running.respond(
        "INC-2026-0800", runbook=automated.runbook, dry_run=False, requested_by="oscar"
    )
    assert run.type == "PAUSED", run.message
    (told, *_) = await receiver.texts("/slack", 1, seconds=SECONDS) or [""]
    assert f"{running.stage.prefect.url}/runs/flow-run/{run.run_id}" in told
    assert "respond INC-2026-0800" in told
    (silence, *_) = await receiver.texts("/recovery-escalation", 1, seconds=SECONDS) or [""]
    assert "Nobody answers: respond INC-2026-0800" in silence
    payload = {"gate": "contain", "approvers": ["maya", "jonas"], "run": run.run_id}
    await post_event(
        running.api, "recovery.approval.overdue", "recovery.incident.INC-2026-0800", payload
    )
    texts = await receiver.texts("/recovery-escalation", 2, seconds=SECONDS)
    assert any("Call one of: maya, jonas." in text for text in texts)
    assert any("at the gate contain of INC-2026-0800" in text for text in texts)
    assert (await running.operator.look(run.run_id)).type == "PAUSED"
    # Whoever has seen the incident does not hear of its burst again.
    assert await watch_once(automated) == "Ordinary traffic."
    await running.operator.cancel(run.run_id)


async def test_a_run_that_failed_is_told_once_with_its_link(automated: Automated) -> None:
    running, receiver = automated.rehearsed, automated.receiver
    run = await running.respond("INC-2026-0801", runbook="no-such-runbook", dry_run=False)
    assert run.type == "FAILED"
    await receiver.texts("/recovery-team", 1, seconds=SECONDS)
    await asyncio.sleep(3)
    (text,) = [t for t in await receiver.texts("/recovery-team", 1, seconds=1) if run.run_id in t]
    assert "ended as Failed: Read the runbook" in text
