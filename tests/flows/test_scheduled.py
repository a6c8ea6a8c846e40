"""Rotations on a real Prefect server: clients that need a word of a person inside an incident, the
scheduled rotation of what is old, and a search for secrets while it runs and afterwards."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import rehearsal.world.world as world_module
from recovery.hygiene import is_scheduled
from rehearsal.drive import INCIDENT
from rehearsal.operator import ResumeForm, RunState
from rehearsal.world.population import Population, populate
from tests.flows.leaks import Canaries, Leak, Scanner, files_below, scan_all, shown, tables_of
from tests.flows.rehearsed import RecordingDrive, Rehearsed, ask, rehearse

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

ACCOUNTS = 60
SEED = 3
TIMEOUT = 400.0


def peopled(*given: Any, **more: Any) -> Population:
    """The stage's population, with one client that nobody is known to use and one whose platform
    holds one secret; its consumers try both."""
    population = populate(*given, **more)
    accounts = (population.accounts[i] for i in population.affected_ids)
    linked = sorted({app for account in accounts for app in account.linked_apps})
    unknown, single = linked[-2:]
    clients = population.clients
    clients[unknown] = replace(clients[unknown], consumers=())
    consumers = tuple(replace(c, tries_both=True) for c in clients[single].consumers)
    clients[single] = replace(clients[single], max_secrets=1, consumers=consumers)
    return population


@dataclass(slots=True)
class Arguments:
    """Every argument of every process of this machine, looked at again and again, for every
    client secret that there is at that moment or was before."""

    rehearsed: Rehearsed
    canaries: Canaries = field(default_factory=Canaries)
    looks: int = 0
    leaks: set[str] = field(default_factory=set)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Arguments":
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            found = await asyncio.to_thread(self._look)
            self.leaks |= {leak.label for leak in found}
            self.looks += 1
            await asyncio.sleep(0.5)

    def _look(self) -> set[Leak]:
        self.canaries.values.update(secrets_of(self.rehearsed).values)
        return ours(scan_all(Scanner(self.canaries), _arguments()))


def ours(leaks: Iterable[Leak]) -> set[Leak]:
    """Client secrets alone: other processes may have tokens of their own in their arguments."""
    return {leak for leak in leaks if leak.label.startswith("a client's")}


def _arguments() -> list[tuple[str, bytes]]:
    read = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            read.append((path.parent.name, path.read_bytes().replace(b"\0", b" ")))
    return read


def secrets_of(rehearsed: Rehearsed) -> Canaries:
    """Every client secret there is or was, at the platform and in Vault."""
    world, known = rehearsed.world, Canaries()
    for client in world.population.clients.values():
        known.add("a client's first secret", client.secret)
        known.add("a client's secret", *(s.value for s in world.platform.secrets_of(client.id)))
        entry = world.vault.read(f"apps/{client.id}")
        values = [v for name, v in entry.items() if name.endswith("client_secret")]
        known.add("a client's secret in Vault", *values)
    return known


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rehearsed]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world_module, "populate", peopled)
        folder = tmp_path_factory.mktemp("scheduled")
        async with rehearse(folder, accounts=ACCOUNTS, seed=SEED) as running:
            yield running


@dataclass(frozen=True, slots=True)
class Turned:
    run: RunState
    gates: list[str]
    forms: dict[str, ResumeForm]
    failures: int
    arguments: Arguments


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def incident(rehearsed: Rehearsed) -> AsyncIterator[Turned]:
    """An incident from its first run to the retired secrets; every gate is approved."""
    yield await _turned(
        rehearsed,
        "respond/respond",
        {"incident_id": INCIDENT, "dry_run": False, "requested_by": "oscar"},
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scheduled(rehearsed: Rehearsed, incident: Turned) -> AsyncIterator[Turned]:
    """A hundred days later every secret is too old again."""
    assert incident.run.type == "COMPLETED", incident.run.message
    rehearsed.world.clock.advance(timedelta(days=100))
    yield await _turned(rehearsed, "rotate-scheduled/rotate-scheduled", {"requested_by": "oscar"})


async def _turned(rehearsed: Rehearsed, deployment: str, given: dict[str, Any]) -> Turned:
    drive: RecordingDrive = rehearsed.drive()
    fleet = rehearsed.world.fleet
    failures = fleet.failures
    try:
        runbook = rehearsed.stage.scenario.runbook
        run_id = await rehearsed.operator.start(deployment, {"runbook": runbook, **given})
        async with Arguments(rehearsed) as arguments:
            run = await rehearsed.operator.follow(run_id, approve=drive.approve, timeout=TIMEOUT)
    finally:
        await drive.close()
    gates = [form.gate for form in drive.forms]
    forms = {form.gate: form for form in drive.forms}
    return Turned(run, gates, forms, fleet.failures - failures, arguments)


def special(rehearsed: Rehearsed) -> tuple[str, str]:
    """The client without consumers, and the one with one secret."""
    clients = rehearsed.world.population.clients.values()
    (unknown,) = [c.id for c in clients if not c.consumers]
    (single,) = [c.id for c in clients if c.max_secrets == 1]
    return unknown, single


async def test_what_nobody_is_known_to_use_is_asked_about_by_name(
    rehearsed: Rehearsed, incident: Turned
) -> None:
    assert incident.run.type == "COMPLETED", incident.run.message
    assert incident.gates == ["contain", "notify", "rotate-unknown", "rotate-gap", "retire"]
    unknown, single = special(rehearsed)
    assert unknown in incident.forms["rotate-unknown"].description
    gap = incident.forms["rotate-gap"].description
    assert single in gap
    assert "none: every consumer tries both secrets" in gap


async def test_everything_linked_is_rotated_and_nobody_noticed(
    rehearsed: Rehearsed, incident: Turned
) -> None:
    platform, population = rehearsed.world.platform, rehearsed.world.population
    accounts = [population.accounts[i] for i in population.affected_ids]
    for client_id in {app for account in accounts for app in account.linked_apps}:
        (held,) = platform.secrets_of(client_id)
        assert held.id != population.clients[client_id].secret_id
    assert incident.failures == 0


async def test_the_inventory_is_a_table_of_who_reads_what(
    rehearsed: Rehearsed, incident: Turned
) -> None:
    unknown, single = special(rehearsed)
    table = await rehearsed.markdown(f"inventory-{INCIDENT.lower()}")
    for client in rehearsed.ledger.clients(INCIDENT):
        assert client.client_id in table
        assert f"apps/{client.client_id}" in table
    assert "none known" in table
    assert "tries both secrets" in table
    assert "rotate, as approved, although: no known consumer" in table
    assert "age in days" in table
    assert {unknown, single} <= {c.client_id for c in rehearsed.ledger.clients(INCIDENT)}


async def test_a_scheduled_rotation_turns_over_what_is_old(
    rehearsed: Rehearsed, scheduled: Turned
) -> None:
    assert scheduled.run.type == "COMPLETED", scheduled.run.message
    assert scheduled.gates == ["retire"]
    (record,) = [i for i in rehearsed.ledger.incidents() if is_scheduled(i.incident_id)]
    assert record.closed_at is not None
    clients = rehearsed.ledger.clients(record.incident_id)
    assert len(clients) == len(rehearsed.world.population.clients)
    left = {c.client_id for c in clients if c.untouched_reason}
    assert left == set(special(rehearsed)), "no word of a person, no rotation"
    for client in clients:
        ids = {s.id for s in rehearsed.world.platform.secrets_of(client.client_id)}
        first = rehearsed.world.population.clients[client.client_id].secret_id
        assert len(ids) == 1
        assert first not in ids or client.client_id in left
    assert scheduled.failures == 0
    rehearsed.ledger.verify_audit()


async def test_a_second_scheduled_run_finds_nothing_but_what_is_left_to_a_person(
    rehearsed: Rehearsed, scheduled: Turned
) -> None:
    given = {"runbook": rehearsed.stage.scenario.runbook, "dry_run": True}
    run_id = await rehearsed.operator.start("rotate-scheduled/rotate-scheduled", given)
    run = await rehearsed.operator.follow(run_id, approve=None, timeout=TIMEOUT)
    assert run.type == "COMPLETED"
    assert run.message.startswith("2 client secrets are older than 90 days")


# A search for every value that ever was a client's secret.


@pytest.fixture(scope="module")
def scanner(rehearsed: Rehearsed, incident: Turned, scheduled: Turned) -> Scanner:
    known = secrets_of(rehearsed)
    for turned in (incident, scheduled):
        known.values.update(turned.arguments.canaries.values)
    assert len(known) >= 3 * len(rehearsed.world.population.clients) - 4
    return Scanner(known)


async def test_no_secret_is_in_any_process_arguments(incident: Turned, scheduled: Turned) -> None:
    for turned in (incident, scheduled):
        assert turned.arguments.looks > 3
        assert turned.arguments.leaks == set()


async def test_no_secret_is_anywhere_but_in_vault_and_the_platform(
    rehearsed: Rehearsed, scanner: Scanner
) -> None:
    stage = rehearsed.stage
    places = {
        "ledger": tables_of(stage.folder / "ledger.db"),
        "prefect": tables_of(stage.folder / "prefect" / "prefect.db"),
        "files": files_below(stage.folder),
        "reports": files_below(stage.reports),
        "temporary": files_below(stage.folder.parent / "tmp"),
    }
    for name, found in places.items():
        looked = list(found)
        assert looked or name == "temporary", f"{name}: nothing was looked at"
        assert shown(ours(scan_all(scanner, looked))) == "", name


async def test_the_deployment_has_its_schedule(rehearsed: Rehearsed) -> None:
    found = await ask(rehearsed.api, "GET", "/deployments/name/rotate-scheduled/rotate-scheduled")
    (schedule,) = found["schedules"]
    assert schedule["schedule"]["cron"] == "0 9 * * 2"
    assert found["concurrency_limit"] == 1 or found["global_concurrency_limit"]["limit"] == 1
