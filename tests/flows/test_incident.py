"""The incident end to end, on real parts: what the runs do to the world, to the ledger, to Prefect.

The tests stand in the order of an incident and share one stage: dry run, its twin, what stops a
run, approvals, the whole rehearsal, a second run, and at the end what was left behind where.
"""

import re
import stat
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyotp
import pytest
import pytest_asyncio

from recovery.accounts import Stage as AccountStage
from recovery.approvals import REFUSED_CODE
from recovery.canonical import read_canonical
from recovery.redaction import WITHHELD
from rehearsal.drive import INCIDENT, Finished
from rehearsal.operator import RunState
from rehearsal.world.platform_quota import Scope
from rehearsal.world.registry import RESTART_JOB
from rehearsal.world.wire_faults import PartialShards
from tests.flows.canaries import canaries_of
from tests.flows.leaks import (
    Canaries,
    Scanner,
    files_below,
    scan_all,
    shown,
    tables_of,
)
from tests.flows.rehearsed import (
    RecordingDrive,
    Rehearsed,
    Runbook,
    ask,
    rehearse,
    runbook_file,
    twin_world,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACCOUNTS = 60
SEED = 3
STOPPED = "INC-2026-0900"
REJECTED = "INC-2026-0901"
PLAN = f"dry-run-{INCIDENT.lower()}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rehearsed]:
    async with rehearse(
        tmp_path_factory.mktemp("incident"), accounts=ACCOUNTS, seed=SEED
    ) as running:
        yield running


@dataclass(frozen=True, slots=True)
class DryRun:
    run: RunState
    plan: str
    digests: tuple[str, str]
    """Of the world before and after."""
    incidents: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dry_run(rehearsed: Rehearsed) -> DryRun:
    """The first thing that happens in the fresh world."""
    before = rehearsed.world.digest()
    run = await rehearsed.respond(INCIDENT, dry_run=True, requested_by="oscar")
    plan = await rehearsed.markdown(PLAN) if run.type == "COMPLETED" else ""
    after = rehearsed.world.digest()
    return DryRun(run, plan, (before, after), len(rehearsed.ledger.incidents()))


@dataclass(frozen=True, slots=True)
class Whole:
    drive: RecordingDrive
    finished: Finished


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(rehearsed: Rehearsed, dry_run: DryRun) -> AsyncIterator[Whole]:
    """The incident from the first run to the report after 72 hours."""
    drive = rehearsed.drive()
    try:
        yield Whole(drive, await drive.whole())
    finally:
        await drive.close()


async def test_the_same_seed_gives_the_same_counts(rehearsed: Rehearsed, dry_run: DryRun) -> None:
    """Another day, another process, another ledger key: the same world, the same plan."""
    async with twin_world(rehearsed, ahead=timedelta(days=2, hours=7)) as runbook:
        run = await rehearsed.respond(INCIDENT, runbook=runbook, dry_run=True)
        assert run.type == "COMPLETED", run.message
        twin = await rehearsed.markdown(PLAN)
    assert counts_of(twin) == counts_of(dry_run.plan)


def counts_of(plan: str) -> list[str]:
    """The parts of a plan without its time and without the digest of the runbook's file; reasons
    stand in the order in which accounts had them, and that follows the ledger's key."""
    lines = [x for x in plan.splitlines() if not x.startswith(("| Burst |", "| Runbook |"))]
    return sorted(
        part for line in lines for part in re.split(r" \| |[,;] (?:skipped )?", line.strip("| "))
    )


# ---------------------------------------------------------------- a dry run changes nothing


async def test_a_dry_run_leaves_the_world_as_it_was(rehearsed: Rehearsed, dry_run: DryRun) -> None:
    assert dry_run.run.type == "COMPLETED", dry_run.run.message
    assert dry_run.run.message.startswith("Dry run, nothing was changed.")
    before, after = dry_run.digests
    assert before == after
    assert dry_run.incidents == 0


async def test_a_dry_run_shows_the_plan_with_its_counts(
    rehearsed: Rehearsed, dry_run: DryRun
) -> None:
    truth, population = rehearsed.world.traffic.truth, rehearsed.world.population
    known = truth.accounts(rehearsed.world.started_at)
    admitted = known - set(population.excluded_ids)
    assert len(truth.accounts()) > len(known), "nobody is late in this world"
    assert f"{len(known)} seen = {len(admitted)} admitted + 1 excluded" in dry_run.plan
    assert f"| contain | {len(admitted)} accounts: revoke refresh tokens" in dry_run.plan
    assert f"| Accounts | {len(admitted)} |" in dry_run.plan
    for phase in ("enroll", "notify", "rotate", "validate"):
        assert f"| {phase} |" in dry_run.plan


async def test_a_dry_run_restarts_nothing_and_tells_nobody(
    rehearsed: Rehearsed, dry_run: DryRun
) -> None:
    """Holds until the rehearsal begins: nothing before it may act."""
    assert rehearsed.world.jenkins.builds_of(RESTART_JOB) == []
    assert rehearsed.world.mailboxes.everything() == ()
    assert not rehearsed.world.platform.all_effects()


# ---------------------------------------------------------------- what stops a run


@pytest.fixture
def untouched(rehearsed: Rehearsed) -> Iterator[None]:
    """The world and the ledger are afterwards as they were before."""
    before = rehearsed.world.digest(), rehearsed.ledger.audit_head()
    yield
    assert (rehearsed.world.digest(), rehearsed.ledger.audit_head()) == before


async def stopped(rehearsed: Rehearsed, runbook: Runbook | None = None, **more: Any) -> str:
    """The one sentence with which a run ends that can't even begin."""
    with runbook_file(runbook or rehearsed.runbook) as name:
        run = await rehearsed.respond(
            STOPPED, runbook=name, dry_run=False, requested_by="oscar", **more
        )
    assert (run.type, run.state) == ("FAILED", "Failed")
    assert "\n" not in run.message
    assert "Traceback" not in run.message
    assert "exception" not in run.message.lower()
    assert run.message.endswith(".")
    assert len(run.message) < 500
    return run.message


@pytest.mark.usefixtures("untouched")
async def test_a_mistyped_runbook_stops_the_run(rehearsed: Rehearsed) -> None:
    message = await stopped(rehearsed, rehearsed.changed("waves", canarry=10, batch="many"))
    assert message.startswith("Read the runbook ")
    assert "waves.canarry: no such field" in message
    assert "waves.batch: input should be a valid integer" in message
    assert "not 'many'" in message


@pytest.mark.usefixtures("untouched")
async def test_a_missing_block_stops_the_run(rehearsed: Rehearsed) -> None:
    runbook = rehearsed.changed("systems", email="recovery-sendgrid/nowhere")
    assert await stopped(rehearsed, runbook) == (
        "Load a block (recovery-sendgrid/nowhere): expected a block document of that name, got "
        "none. Create it in the UI (Blocks) or correct `systems` in the runbook."
    )


@pytest.mark.usefixtures("untouched")
async def test_a_missing_limit_stops_the_run(rehearsed: Rehearsed) -> None:
    path = "/v2/concurrency_limits/"
    limit = await ask(rehearsed.api, "GET", f"{path}recovery-sms")
    await ask(rehearsed.api, "DELETE", f"{path}{limit['id']}")
    try:
        message = await stopped(rehearsed)
    finally:
        kept = ("name", "limit", "active", "slot_decay_per_second")
        await ask(rehearsed.api, "POST", path, {name: limit[name] for name in kept})
    assert message.startswith(
        "Look up a global limit (recovery-sms): expected it to exist, got none of that name. "
        "Create the limits with `python -m flows.setup"
    )


@pytest.mark.usefixtures("untouched")
async def test_a_siem_with_partial_shards_stops_the_run(rehearsed: Rehearsed) -> None:
    fault = rehearsed.world.siem.faults.inject(PartialShards(1), "_search", times=None)
    try:
        message = await stopped(rehearsed)
    finally:
        rehearsed.world.siem.faults.clear()
    assert fault.hits > 0
    assert "shard" in message


@pytest.mark.usefixtures("untouched")
async def test_a_sealed_vault_stops_the_run(rehearsed: Rehearsed) -> None:
    before = rehearsed.world.digest()
    rehearsed.world.bao.seal()
    try:
        message = await stopped(rehearsed)
    finally:
        rehearsed.world.bao.unseal()
    assert rehearsed.world.digest() == before
    assert "sealed" in message


# ---------------------------------------------------------------- approvals


@dataclass(frozen=True, slots=True)
class Refusals:
    """What came back for each answer that does not count, and the end of the run."""

    schema: str
    forms: dict[str, str]
    """By what was wrong with the answer: the Markdown of the form that came after it."""
    end: RunState
    gate: str
    effects: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def refusals(rehearsed: Rehearsed, dry_run: DryRun) -> Refusals:
    """One gate, asked for by maya, answered wrongly in every way, then rejected by jonas."""
    run = await rehearsed.respond(REJECTED, dry_run=False, requested_by="maya")
    assert run.type == "PAUSED", run.message
    digest = (await rehearsed.operator.form(run)).defaults["digest"]
    good = {"approver": "jonas", "decision": "approve", "reason": "read it", "digest": digest}
    schema = await rehearsed.operator.resume(run.run_id, {**good, "decision": "yes", "code": "1"})
    forms: dict[str, str] = {}

    async def answer(what: str, code: str, **wrong: str) -> None:
        nonlocal run
        run = await rehearsed.answer(run, {**good, "code": code, **wrong})
        assert run.type == "PAUSED", f"{what}: {run.state} {run.message}"
        forms[what] = (await rehearsed.operator.form(run)).description

    await answer("unknown approver", "000000", approver="mallory")
    await answer("self-approval", "000000", approver="maya")
    await answer("wrong digest", "000000", digest="0" * 64)
    await answer("wrong code", wrong_code(rehearsed, "jonas"))
    code = await rehearsed.fresh_code("jonas")
    await answer("hold", code, decision="hold", reason="asking legal first")
    await answer("replayed code", code)
    no = {"decision": "reject", "reason": "false alarm"}
    code = await rehearsed.fresh_code("jonas")
    end = await rehearsed.answer(run, {**good, "code": code, **no})
    effects = rehearsed.world.platform.all_effects().total()
    return Refusals(schema, forms, end, run.gate, effects)


def wrong_code(rehearsed: Rehearsed, approver: str) -> str:
    """Six digits that are none of the codes of these minutes."""
    totp = pyotp.parse_uri(rehearsed.world.approvers[approver].otpauth_url)
    assert isinstance(totp, pyotp.TOTP)
    now = int(rehearsed.world.started_at.timestamp())
    right = {totp.at(now + 30 * step) for step in range(-4, 40)}
    return next(
        code
        for code in ("111111", "222222", "333333", *map(str, range(444444, 444999)))
        if code not in right
    )


async def test_a_value_that_is_no_decision_is_refused_by_the_schema(refusals: Refusals) -> None:
    assert refusals.schema.startswith("REJECT")
    assert "'yes' is not one of" in refusals.schema


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("unknown approver", "this approver is not in the runbook's list for this gate"),
        ("self-approval", "the requester can't approve his own run"),
        ("wrong digest", "the plan has changed since this form was shown"),
        ("wrong code", REFUSED_CODE),
        ("replayed code", REFUSED_CODE),
    ],
)
async def test_an_answer_that_does_not_count_is_told_in_the_next_form(
    refusals: Refusals, what: str, reason: str
) -> None:
    assert f"> **The last answer was refused:** {reason}." in refusals.forms[what]


async def test_a_hold_waits_with_its_reason(refusals: Refusals) -> None:
    assert "> **On hold:** asking legal first." in refusals.forms["hold"]


async def test_a_rejection_cancels_the_run_before_anything_is_done(
    rehearsed: Rehearsed, refusals: Refusals
) -> None:
    assert (refusals.end.type, refusals.end.state) == ("CANCELLED", "Cancelled")
    assert refusals.end.message.startswith("Pass the gate contain (INC-2026-0901)")
    assert "got a rejection" in refusals.end.message
    assert refusals.effects == 0
    tally = rehearsed.ledger.tally(REJECTED)
    assert sum(tally.stages.values()) == tally.in_stage(AccountStage.SCOPED, AccountStage.EXCLUDED)


async def test_every_attempt_is_an_audit_entry(rehearsed: Rehearsed, refusals: Refusals) -> None:
    attempts = rehearsed.ledger.approvals(REJECTED, "contain")
    assert [a.attempt for a in attempts] == list(range(1, len(refusals.forms) + 2))
    assert [a.decision for a in attempts[-3:]] == ["hold", "approve", "reject"]
    assert [bool(a.refusal) for a in attempts] == [True] * 4 + [False, True, False]
    logged = [e for e in rehearsed.ledger.audit(REJECTED) if e.event == "approval"]
    assert [e.actor for e in logged] == [a.approver for a in attempts]
    rehearsed.ledger.verify_audit()


# ---------------------------------------------------------------- the whole incident


async def test_the_whole_incident_is_recovered_in_the_eyes_of_the_world(whole: Whole) -> None:
    run = whole.finished.run
    assert run.type == "COMPLETED", run.message
    assert "accounts contained" in run.message
    failed = [f"{c.name}: {c.found}" for c in whole.finished.checks if not c.passed]
    assert failed == []
    assert len(whole.finished.checks) >= 10


async def test_every_gate_asked_and_the_right_code_passed(
    rehearsed: Rehearsed, whole: Whole
) -> None:
    gates = [form.gate for form in whole.drive.forms]
    assert gates[0] == "contain"
    assert gates[-3:] == ["notify", "retire", "retire"]
    for gate, people in (
        ("contain", ["maya"]),
        ("notify", ["legal"]),
        ("retire", ["maya", "jonas"]),
    ):
        attempts = rehearsed.ledger.approvals(INCIDENT, gate)
        assert [a.approver for a in attempts] == people
        assert {(a.decision, a.refusal) for a in attempts} == {("approve", "")}


async def test_admin_credentials_were_leased_after_the_approval_and_given_back(
    rehearsed: Rehearsed, whole: Whole
) -> None:
    log = list(rehearsed.ledger.audit(INCIDENT))
    leases = [e for e in log if e.event.startswith("platform.lease.")]
    acting = [e for e in leases if e.facts["purpose"] == "act"]
    assert {e.facts["path"] for e in acting} == {rehearsed.world.access.platform_admin_lease}
    approved = next(e.seq for e in log if e.event == "approval")
    assert min(e.seq for e in acting) > approved
    taken = Counter(e.facts["lease"] for e in leases if e.event.endswith(".taken"))
    given_back = Counter(e.facts["lease"] for e in leases if e.event.endswith(".revoked"))
    assert taken == given_back
    assert len([e for e in acting if e.event.endswith(".taken")]) >= 5
    broker = rehearsed.world.platform.broker
    assert broker.made
    assert broker.living(Scope.ADMIN) == []


async def test_late_arrivals_are_admitted_and_contained_by_the_same_run(
    rehearsed: Rehearsed, whole: Whole
) -> None:
    world = rehearsed.world
    truth = world.traffic.truth
    late = truth.accounts() - truth.accounts(world.started_at) - set(world.population.excluded_ids)
    accounts = {a.account_id: a for a in rehearsed.ledger.accounts(INCIDENT)}
    assert late
    for account_id in late:
        assert accounts[account_id].stage not in (AccountStage.SCOPED, AccountStage.EXCLUDED)
    first = {a.wave for i, a in accounts.items() if i not in late}
    assert {accounts[i].wave for i in late}.isdisjoint(first)
    assert rehearsed.ledger.scope(INCIDENT).sighted == len(truth.accounts())


async def test_the_report_is_there_for_its_owner_alone(rehearsed: Rehearsed, whole: Whole) -> None:
    directory = rehearsed.stage.reports / INCIDENT
    names = {"report.html", "report.md", "audit.jsonl", "canonical.csv", "canonical.json"}
    assert names <= {path.name for path in directory.iterdir()}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
        assert path.stat().st_size > 0, path.name
    assert str(directory) in whole.finished.run.message


@pytest.mark.parametrize("name", ["canonical.csv", "canonical.json"])
async def test_the_canonical_list_can_be_read_again(
    rehearsed: Rehearsed, whole: Whole, name: str
) -> None:
    entries, sightings, quarantined = read_canonical(rehearsed.stage.reports / INCIDENT / name)
    written = list(rehearsed.ledger.accounts(INCIDENT))
    kept = {a.account_id: a for a in written if not a.excluded}
    assert {e.account_id for e in entries} >= set(kept)
    assert {s.account_id: s.resets for s in sightings} == {i: a.resets for i, a in kept.items()}
    for entry in entries:
        if entry.account_id in kept:
            account = kept[entry.account_id]
            assert (entry.handle, entry.email, entry.phone) == (
                account.handle,
                account.email,
                account.phone,
            )
    assert len(quarantined) == len(written) - len(kept)


@dataclass(frozen=True, slots=True)
class Effects:
    """What a run that does nothing leaves as it was."""

    digest: str
    effects: Counter[str]
    messages: int
    acts: Counter[str]
    """Settled acts by step, those of validation apart: they only look."""
    written: Counter[tuple[str, int]]
    """Requests to the platform's admin API that are no reading."""


async def effects_of(rehearsed: Rehearsed) -> Effects:
    world = rehearsed.world
    await world.delivered()
    acts: Counter[str] = Counter()
    for (step, _, verdict), count in rehearsed.ledger.tally(INCIDENT).verdicts.items():
        if verdict is not None and not step.startswith("validate."):
            acts[step] += count
    answers = world.platform.admin_answers.items()
    return Effects(
        world.digest(),
        world.platform.all_effects(),
        len(world.mailboxes.everything()),
        acts,
        Counter({k: n for k, n in answers if not k[0].startswith(("GET ", "POST query"))}),
    )


async def test_a_second_run_does_nothing_more_and_says_so(
    rehearsed: Rehearsed, whole: Whole
) -> None:
    before = await effects_of(rehearsed)
    run = await rehearsed.respond(INCIDENT, dry_run=False, requested_by="oscar")
    assert run.type == "COMPLETED", run.message
    contained = len([a for a in rehearsed.ledger.accounts(INCIDENT) if not a.excluded])
    assert run.message.startswith(
        f"Nothing was left to do: {contained} accounts were contained before."
    )
    assert await effects_of(rehearsed) == before


# ---------------------------------------------------------------- what is left behind


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def canaries(rehearsed: Rehearsed, refusals: Refusals, whole: Whole) -> Canaries:
    return await canaries_of(rehearsed)


@pytest.fixture(scope="module")
def scanner(canaries: Canaries) -> Scanner:
    assert len(canaries) > 2000
    labels = set(canaries.values.values())
    assert {"an address", "a link", "an authenticator", "a client's secret"} <= labels
    assert {"block.secret_id of Vault Secrets", "block.key of Recovery Ledger"} <= labels
    assert len(canaries.bounded) >= 6
    return Scanner(canaries)


async def test_the_search_sees_what_is_there(rehearsed: Rehearsed, scanner: Scanner) -> None:
    """The canonical list is the one place where contacts may stand, and the ledger remembers
    them: a search that finds nothing there is blind."""
    folder = rehearsed.stage.reports / INCIDENT
    for name in ("canonical.csv", "canonical.json"):
        found = {leak.label for leak in scanner.scan(name, (folder / name).read_bytes())}
        assert found == {"an address", "a phone", "a handle"}
    in_ledger = scan_all(scanner, tables_of(rehearsed.stage.folder / "ledger.db"))
    assert {leak.label for leak in in_ledger} == {"an address", "a phone", "a handle"}


async def test_prefects_database_holds_nothing_personal_or_secret(
    rehearsed: Rehearsed, scanner: Scanner
) -> None:
    home = rehearsed.stage.folder / "prefect"
    tables = dict(tables_of(home / "prefect.db"))
    for name in ("flow_run", "flow_run_input", "artifact", "log", "block_document", "events"):
        assert tables[name], f"the table {name} is empty: nothing was looked at"
    assert shown(scan_all(scanner, tables.items())) == ""


async def test_prefects_files_hold_nothing_personal_or_secret(
    rehearsed: Rehearsed, scanner: Scanner
) -> None:
    """Pages that SQLite gave up are looked at too; a spent code may stand there for a while."""
    leaks = scan_all(scanner, files_below(rehearsed.stage.folder / "prefect"))
    assert shown(leak for leak in leaks if leak.label != "an approver's code") == ""


async def test_logs_hold_nothing_personal_or_secret(rehearsed: Rehearsed, scanner: Scanner) -> None:
    logs = dict(files_below(rehearsed.stage.folder / "logs"))
    assert {"portal.log", "prefect-server.log", "prefect-worker.log"} <= set(logs)
    assert b"contain" in logs["prefect-worker.log"]
    assert b"enroll" in logs["portal.log"]
    assert shown(scan_all(scanner, logs.items())) == ""
    caught = [name for name, text in logs.items() if WITHHELD.encode() in text]
    assert not caught, "the last net had to take something out: mend what logged it"


async def test_reports_hold_nothing_personal_or_secret(
    rehearsed: Rehearsed, scanner: Scanner
) -> None:
    files = {
        name: data
        for name, data in files_below(rehearsed.stage.reports)
        if Path(name).name not in ("canonical.csv", "canonical.json")
    }
    assert {f"{INCIDENT}/{name}" for name in ("report.html", "report.md", "audit.jsonl")} <= set(
        files
    )
    assert shown(scan_all(scanner, files.items())) == ""


async def test_nothing_is_left_in_temporary_files(rehearsed: Rehearsed, scanner: Scanner) -> None:
    """A dry run works on a ledger and a list that are thrown away."""
    temporary = rehearsed.stage.folder.parent / "tmp"
    assert list(temporary.glob("recovery-dry-run-*")) == []
    assert shown(scan_all(scanner, files_below(temporary))) == ""
