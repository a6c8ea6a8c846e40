"""Validate: our own accounts first, then a sample, then every client; a failed smoke test holds."""

import asyncio

from flows.forms import operator_flow
from flows.parameters import DEFAULT_RUNBOOK, IncidentId, RunbookName
from flows.progress import show_table
from flows.settle import settling
from flows.waves import PhaseResult, hold_gate, overruled
from recovery.gates import Decision, Hold, Promote, smoke_gate
from recovery.incident import Phase
from tasks import validate as tasks
from tasks.case import Case, open_case, preflight
from tasks.validate import Findings


@operator_flow("validate")
async def validate(incident_id: IncidentId, runbook: RunbookName = DEFAULT_RUNBOOK) -> PhaseResult:
    """Prove that the recovery is real: nothing stolen lives, old passwords fail, new secrets serve.

    Reads and logs in with our own test accounts; changes nothing but the stage VALIDATED.
    """
    async with open_case(incident_id, runbook) as case:
        await preflight(case)
        await asyncio.to_thread(case.ledger.mark, incident_id, f"{Phase.VALIDATE}.started")
        with settling():
            counts = await tasks.probe_enrolled(case)
            found = [
                await tasks.try_old_passwords(case),
                await tasks.probe_contained(case),
                await tasks.probe_clients(case),
            ]
        await _write_down(case, found)
        decision = _decide(found, case.policy.validation.min_passed)
        held = hold_gate(Phase.VALIDATE, 0)
        if isinstance(decision, Hold) and not await overruled(case, held, decision):
            return PhaseResult(Phase.VALIDATE, counts, held, decision.reason)
        await asyncio.to_thread(case.ledger.mark, incident_id, f"{Phase.VALIDATE}.finished")
        summary = "; ".join(str(f) for f in found if f.total)
        return PhaseResult(Phase.VALIDATE, counts, reason=summary)


def _decide(found: list[Findings], min_passed: float) -> Decision:
    """Holds where a kind of probe failed too often, or where nothing at all was probed."""
    if not any(findings.total for findings in found):
        return Hold("no evidence: nothing was probed")
    decision: Decision = Promote("nothing to probe")
    for findings in (f for f in found if f.total):
        decision = smoke_gate(
            findings.passed, findings.failed, min_passed=min_passed, what=findings.what
        )
        if isinstance(decision, Hold):
            return decision
    return decision


async def _write_down(case: Case, found: list[Findings]) -> None:
    for findings in found:
        await asyncio.to_thread(
            case.ledger.note,
            case.incident_id,
            "validate.probed",
            actor="recovery",
            facts={"what": findings.what, "passed": findings.passed, "failed": findings.failed},
        )
    rows: list[dict[str, str | int]] = [
        {
            "probe": f.what,
            "passed": f.passed,
            "failed": f.failed,
            "why": "; ".join(f.reasons) or "-",
        }
        for f in found
    ]
    await show_table(case, "validate", rows, f"Probes of {case.incident_id}")
