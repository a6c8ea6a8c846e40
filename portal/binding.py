"""The one act of the portal: use the enrollment up, then bind the authenticator at the platform.

Intended before and settled after like every other act. The platform takes the enrollment's id as
its idempotency key, so pressing again after a lost answer binds nothing twice.
"""

import logging
from enum import StrEnum

from pydantic import SecretStr

from portal.door import Door, Visit, in_thread
from recovery.accounts import Act, Outcome, Stage, Verdict
from recovery.errors import Misconfigured, RecoveryError, Refused
from recovery.incident import Enrollment

BIND_STEP = "enroll.bind"
LABEL = "Authenticator app"

log = logging.getLogger("portal")


class Bound(StrEnum):
    DONE = "done"
    AGAIN = "again"
    """The platform's answer did not come; the same session may go on."""
    REFUSED = "refused"


async def bind(door: Door, visit: Visit, secret: SecretStr) -> Bound:
    """Raises Unverified unless this session is the one that wins the enrollment.

    The act carries the enrollment's generation: a fresh link is a fresh act.
    """
    session = visit.session
    enrollment = await in_thread(lambda: door.ledger.redeem(session.jti, session.session_hash))
    act = Act(session.ref, BIND_STEP, enrollment.generation)
    try:
        intention = await in_thread(lambda: door.ledger.intend(session.incident_id, [act]))
    except Refused as error:
        log.warning("binding %s was not allowed: %s", session.ref, error.code)
        return Bound.REFUSED
    if act in intention.refused:
        return Bound.REFUSED
    outcome = Outcome(act, Verdict.ALREADY)
    if act not in intention.settled:
        outcome = await _at_the_platform(door, visit, enrollment, act, secret)
        await in_thread(
            lambda: door.ledger.settle(session.incident_id, [outcome], advance=Stage.ENROLLED)
        )
    door.metrics.enrollment(outcome.verdict.value)
    match outcome.verdict:
        case Verdict.DONE | Verdict.ALREADY:
            await in_thread(lambda: door.ledger.complete(session.session_hash))
            return Bound.DONE
        case Verdict.REFUSED:
            return Bound.REFUSED
        case Verdict.UNKNOWN:
            return Bound.AGAIN


async def _at_the_platform(
    door: Door, visit: Visit, enrollment: Enrollment, act: Act, secret: SecretStr
) -> Outcome:
    try:
        receipt = await door.platform.bind_totp(
            visit.account.account_id, secret, key=enrollment.jti, label=LABEL
        )
    except Refused as error:
        log.warning("the platform refused an authenticator for %s: %s", act.subject, error.code)
        return Outcome(act, Verdict.REFUSED, error.code)
    except RecoveryError as error:
        level = logging.ERROR if isinstance(error, Misconfigured) else logging.WARNING
        log.log(level, "binding for %s was not answered: %s", act.subject, error)
        return Outcome(act, Verdict.UNKNOWN, type(error).__name__)
    return Outcome(act, Verdict.DONE, receipt=receipt)
