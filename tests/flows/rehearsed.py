"""A small rehearsal that tests act on: real Prefect server and worker, Vault, portal, world."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from secrets import token_urlsafe
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml
from rich.console import Console

import rehearsal.world.world as world_module
from ledger import Ledger
from rehearsal.board import Board
from rehearsal.drive import Drive
from rehearsal.operator import Operator, Patient, ResumeForm, RunState
from rehearsal.prefect_server import ROOT
from rehearsal.stage import Stage
from rehearsal.world.platform_app import platform_app
from rehearsal.world.platform_quota import AdminToken
from rehearsal.world.scenarios import Scenario
from rehearsal.world.serving import Loopback
from rehearsal.world.siem_app import Credential, SiemApp
from rehearsal.world.world import World

RUNBOOKS = ROOT / "runbooks"
LATE = timedelta(minutes=20)
"""How long after the world's beginning the SIEM has ingested the last event of the burst. No first
look is so late; who wants to see late arrivals advances the world's clock."""
RUN_TIMEOUT = 300.0
POLL_SECONDS = 0.25
BUSY_TRIES = 20

Runbook = dict[str, Any]


@contextmanager
def runbook_file(document: Runbook) -> Iterator[str]:
    """A runbook of this test alone, in the folder where runs look for it; gives its name."""
    name = f"rehearsal-test-{uuid4().hex[:8]}"
    path = RUNBOOKS / f"{name}.yaml"
    try:
        path.write_text(yaml.safe_dump({**document, "name": name}), encoding="utf-8")
        yield name
    finally:
        path.unlink(missing_ok=True)


async def ask(api: httpx.AsyncClient, method: str, path: str, body: object = None) -> Any:
    """One call to Prefect's API, and again while its SQLite is locked by another write."""
    for _ in range(BUSY_TRIES):
        answer = await api.request(method, path, json=body)
        if answer.status_code != 503:
            break
        await asyncio.sleep(POLL_SECONDS)
    answer.raise_for_status()
    return answer.json() if answer.content else None


@dataclass(slots=True)
class Rehearsed:
    """One stage that is up, and what a test needs to play operator and approver on it."""

    stage: Stage
    runbook: Runbook
    operator: Operator
    api: httpx.AsyncClient
    ledger: Ledger
    codes: list[str] = field(default_factory=list)
    """Every one-time code that was typed into a form."""

    @property
    def world(self) -> World:
        return self.stage.world

    def changed(self, section: str, **fields: Any) -> Runbook:
        """The stage's runbook with other values in one section."""
        document = deepcopy(self.runbook)
        document.setdefault(section, {}).update(fields)
        return document

    async def start(self, incident_id: str, **more: Any) -> str:
        """Starts `respond` as its form does; returns the run's id."""
        given = {"incident_id": incident_id, "runbook": self.stage.scenario.runbook, **more}
        return await self.operator.start("respond/respond", given)

    async def respond(self, incident_id: str, **more: Any) -> RunState:
        """A run of `respond` to its end, or to its first gate."""
        run_id = await self.start(incident_id, **more)
        return await self.operator.follow(run_id, approve=None, timeout=RUN_TIMEOUT)

    async def answer(self, run: RunState, values: Mapping[str, Any]) -> RunState:
        """Sends the form of a suspended run; the run as it ended, or as it waits again."""
        said = await self.operator.resume(run.run_id, values)
        assert said.startswith("ACCEPT"), said
        async with asyncio.timeout(RUN_TIMEOUT):
            while True:
                now = await self.operator.look(run.run_id)
                if now.ended or (now.type == "PAUSED" and now.pause_key != run.pause_key):
                    return now
                await asyncio.sleep(POLL_SECONDS)

    async def fresh_code(self, approver: str) -> str:
        signer = self.world.approvers[approver]
        await asyncio.sleep(signer.seconds_until_fresh())
        self.codes.append(signer.code())
        return self.codes[-1]

    async def markdown(self, key: str) -> str:
        """The newest artifact of that key, as the UI shows it."""
        return str((await ask(self.api, "GET", f"/artifacts/{key}/latest"))["data"])

    def drive(self) -> "RecordingDrive":
        return RecordingDrive(self)


class RecordingDrive(Drive):
    """A whole rehearsal that lets the late events come while the first gate waits."""

    def __init__(self, rehearsed: Rehearsed) -> None:
        console = Console(file=io.StringIO(), highlight=False)
        super().__init__(rehearsed.stage, Board(console, "test"))
        self._rehearsed = rehearsed
        self.forms: list[ResumeForm] = []

    async def approve(self, form: ResumeForm) -> Mapping[str, Any]:
        if not self.forms:
            self._rehearsed.world.clock.advance(LATE)
        self.forms.append(form)
        answer = await super().approve(form)
        self._rehearsed.codes.append(str(answer["code"]))
        return answer


@asynccontextmanager
async def twin_world(rehearsed: Rehearsed, ahead: timedelta) -> AsyncIterator[str]:
    """A SIEM and a platform made once more from the stage's seed, at another time, with a ledger of
    another key; gives the runbook that works with them. The rest is the stage's own."""
    stage = rehearsed.stage
    clock_file, ledger_file = stage.folder / "twin-clock", stage.folder / "twin-ledger.db"
    clock_file.write_text(str(ahead.total_seconds()))
    world = World(
        seed=stage.seed,
        accounts=stage.accounts,
        scenario=stage.scenario,
        clock_file=clock_file,
        bao=stage.bao,
    )
    world.platform.admin.add(AdminToken("twin-admin", per_second=200.0))
    reader = Credential("api_key", "twin", "twin-reader")
    siem = SiemApp(world.clock.now, world.traffic.documents, credentials=[reader])
    ledger = {"url": f"sqlite:///{ledger_file}", "key": token_urlsafe(36)}
    with closing(Ledger(ledger["url"], key=ledger["key"].encode(), clock=world.clock.now)) as new:
        new.migrate()
    try:
        async with Loopback(platform_app(world.platform)) as platform, Loopback(siem) as search:
            changes: dict[str, dict[str, str | None]] = {
                "platform-admin": {
                    "address": platform.url,
                    "token": "twin-admin",
                    "lease_path": None,
                    "reader_lease_path": None,
                },
                "elasticsearch-siem": {
                    "address": search.url,
                    "api_key": reader.authorization.removeprefix("ApiKey "),
                },
                "recovery-ledger": {**ledger, "clock_offset_file": str(clock_file)},
            }
            for kind, fields in changes.items():
                await _other_block(rehearsed.api, kind, fields)
            runbook = rehearsed.changed(
                "systems",
                ledger="recovery-ledger/twin",
                siem="elasticsearch-siem/twin",
                platform="platform-admin/twin",
            )
            with runbook_file(runbook) as name:
                yield name
    finally:
        world.vault.close()


async def _other_block(api: httpx.AsyncClient, kind: str, fields: Mapping[str, str | None]) -> None:
    """A block document `twin` like `main`, with other fields."""
    main = await ask(api, "GET", f"/block_types/slug/{kind}/block_documents/name/main")
    kept = {name: main[name] for name in ("block_schema_id", "block_type_id")}
    document = {**kept, "name": "twin", "data": {**main["data"], **fields}}
    await ask(api, "POST", "/block_documents/", document)


@asynccontextmanager
async def rehearse(
    folder: Path, *, accounts: int, seed: int, change: Callable[[Runbook], None] | None = None
) -> AsyncIterator[Rehearsed]:
    """Brings a stage up in `folder` and takes it down, whatever happens. `change` edits the
    runbook before it is written."""
    document: Runbook = yaml.safe_load((RUNBOOKS / "rehearsal.yaml").read_text(encoding="utf-8"))
    document["report"] = {"directory": str(folder / "reports")}
    if change is not None:
        change(document)
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch, runbook_file(document) as name:
        # What the processes leave behind is found where it is looked for.
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(world_module, "LATE_BY", (LATE - timedelta(minutes=5), LATE))
        scenario = Scenario("test", "a small case", name, attacker_rate=20.0, traffic_scale=0.5)
        stage = Stage(folder / "stage", scenario=scenario, seed=seed, accounts=accounts)
        try:
            stage.prepare()
            await stage.up(lambda _: None)
            async with httpx.AsyncClient(
                base_url=stage.prefect.api, timeout=30, transport=Patient(stage.prefect.auth)
            ) as api:
                ledger, operator = (
                    stage.open_ledger(),
                    Operator(stage.prefect.api, stage.prefect.auth),
                )
                try:
                    yield Rehearsed(stage, document, operator, api, ledger)
                finally:
                    await operator.close()
                    ledger.close()
        finally:
            await stage.down()
