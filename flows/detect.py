"""Detect and scope: find the burst, stage and admit who is affected, export the canonical list."""

import asyncio
from datetime import datetime
from pathlib import Path

from flows.forms import operator_flow
from flows.parameters import (
    DEFAULT_RUNBOOK,
    IncidentId,
    Requester,
    RunbookName,
    ScopeFile,
    WindowEnd,
    WindowStart,
)
from flows.progress import show_markdown, show_table
from recovery.detect import burst_markdown
from recovery.errors import Misconfigured
from recovery.incident import Incident, Phase, ScopeCounts
from tasks import detect as tasks
from tasks.case import Case, open_case, preflight

FROM_FILE = "scope.from_file"
"""Marks an incident whose scope is a list, because the SIEM could not be asked."""


@operator_flow("detect")
async def detect(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    window_start: WindowStart = None,
    window_end: WindowEnd = None,
    scope_file: ScopeFile = None,
    requested_by: Requester = "operator",
) -> ScopeCounts:
    """Find the burst of password resets and write down who is affected.

    Reads the SIEM and the platform's roster, changes nothing there. Run it again to admit late
    arrivals: accounts that are in keep their wave and batch.
    """
    async with open_case(incident_id, runbook) as case:
        await preflight(case)
        return await scope(
            case,
            window=given_window(window_start, window_end),
            scope_file=Path(scope_file) if scope_file else None,
            requested_by=requested_by,
        )


async def scope(
    case: Case,
    *,
    window: tuple[datetime, datetime] | None,
    scope_file: Path | None,
    requested_by: str,
) -> ScopeCounts:
    """Opens the incident where it is new, then stages and admits; shows the counts."""
    if scope_file is None:
        await case.siem.check()
    began = case.ledger.now()
    incident = await _open(case, window, scope_file, requested_by, began)
    ledger, incident_id = case.ledger, case.incident_id
    await asyncio.to_thread(ledger.mark, incident_id, f"{Phase.DETECT}.started")
    if scope_file is not None:
        await asyncio.to_thread(ledger.mark, incident_id, FROM_FILE)
        await tasks.read_list(case, scope_file)
    else:
        await tasks.fetch_resets(case, start=incident.window_start, end=incident.window_end)
    counts = await tasks.admit_accounts(case)
    csv, json = await tasks.export_canonical(case)
    await asyncio.to_thread(ledger.mark, incident_id, f"{Phase.DETECT}.finished")
    await _show(case, counts, csv, json)
    return counts


async def _open(
    case: Case,
    window: tuple[datetime, datetime] | None,
    scope_file: Path | None,
    requested_by: str,
    began: datetime,
) -> Incident:
    """The incident as the ledger has it; its window is found in the SIEM where none is given."""
    known = {i.incident_id: i for i in await asyncio.to_thread(case.ledger.incidents)}
    if case.incident_id in known and window is None:
        return known[case.incident_id]
    if window is None and scope_file is not None:
        window = (began, began)
    if window is None:
        burst = await tasks.find_burst(case, now=began)
        window = tasks.window_of(burst)
        if burst is not None:
            await show_markdown(
                case, "burst", burst_markdown(burst), "The burst against its baseline"
            )
    start, end = window
    if case.incident_id in known:
        await asyncio.to_thread(case.ledger.set_window, case.incident_id, start, end)
        return await asyncio.to_thread(case.ledger.incident, case.incident_id)
    return await asyncio.to_thread(
        case.ledger.open_incident,
        case.incident_id,
        window_start=start,
        window_end=end,
        runbook_digest=case.runbook_digest,
        runbook_commit=case.runbook_commit,
        requested_by=requested_by,
    )


def given_window(start: datetime | None, end: datetime | None) -> tuple[datetime, datetime] | None:
    """The window as the form has it; raises Misconfigured where it is a half one."""
    if start is None and end is None:
        return None
    if start is None or end is None or start.tzinfo is None or end.tzinfo is None or start >= end:
        raise Misconfigured(
            "Read the window of the burst",
            expected="both a start and a later end, with time zones",
            got="something else",
            advice="Correct the window, or leave both empty to have it found in the SIEM.",
        )
    return start, end


async def _show(case: Case, counts: ScopeCounts, csv: Path, json: Path) -> None:
    rows: list[dict[str, str | int]] = [
        {"what": "accounts seen in the burst", "count": counts.sighted},
        {"what": "admitted", "count": counts.admitted},
        {"what": "of high priority", "count": counts.high_priority},
        {"what": "excluded (never touched)", "count": counts.excluded},
        {"what": "not in the roster (quarantined)", "count": counts.unrostered},
        {"what": "contact fields quarantined", "count": counts.quarantined_fields},
        {"what": "events without an account", "count": counts.unattributed_events},
    ]
    rows += [{"what": f"priority: {name}", "count": n} for name, n in counts.reasons.items()]
    title = f"Scope of {case.incident_id}. The list is at {csv} and {json.name} beside it."
    await show_table(case, "scope", rows, title)
