"""The audit log as evidence: checkpoints in a second place, and the log proven against them."""

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.forms import operator_flow
from flows.parameters import DEFAULT_RUNBOOK, Export, RunbookName
from recovery.audit import Tampered
from recovery.errors import RecoveryError
from tasks import audit


@operator_flow("checkpoint")
async def checkpoint(runbook: RunbookName = DEFAULT_RUNBOOK) -> State[object]:
    """Keep a signed checkpoint of the audit log in the runbook's second places.

    The log is proven against the checkpoints of before first; a log that does not hold is never
    signed. Nothing is written where nothing was added. Switch its schedule on for incident days.
    """
    try:
        async with audit.open_desk(runbook) as desk:
            covered = await audit.keep_checkpoint(desk)
            return Completed(message=f"{covered} audit entries are covered.")
    except RecoveryError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error))


@operator_flow("verify-audit")
async def verify_audit(
    runbook: RunbookName = DEFAULT_RUNBOOK, export: Export = False
) -> State[object]:
    """Prove the audit log: the chain, its end, and its past against every kept checkpoint.

    Ends as Failed with the first bad entry where anything was edited, deleted, inserted, swapped,
    cut or replaced. Changes nothing. With *Export* on, the log goes to the report's folder as JSON
    Lines with the public keys beside it; `python -m clients.exported_log` proves it anywhere.
    """
    try:
        async with audit.open_desk(runbook) as desk:
            held = await audit.verify_log(desk)
            if export:
                await audit.export_log(desk)
            return Completed(
                message=f"{held.head.seq} audit entries hold against {held.checkpoints} "
                f"checkpoints; {held.covered} are covered by the newest."
            )
    except Tampered as tampered:
        get_run_logger().error("%s", tampered)
        return Failed(message=f"The first bad entry is {tampered.seq}: {tampered}")
    except RecoveryError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error))
