"""The pure decision between waves: promote, or hold and say why. No evidence holds."""

from dataclasses import dataclass

from recovery.accounts import Verdict
from recovery.incident import Tally
from recovery.policy import GatePolicy


@dataclass(frozen=True, slots=True)
class Promote:
    """The next wave may go."""

    evidence: str


@dataclass(frozen=True, slots=True)
class Hold:
    """The next wave waits for a person. `reason` is one sentence for the approval form."""

    reason: str


Decision = Promote | Hold


def gate(tally: Tally, policy: GatePolicy, *, step: str, wave: int, expected: int) -> Decision:
    """Looks at one wave's outcomes of `step` (and what begins with it).

    `expected` is the number of acts that the wave should have had; 0 promotes (nothing to do).
    """
    if expected == 0:
        return Promote("nothing was due")
    well = tally.of_verdict(step, Verdict.DONE, Verdict.ALREADY, wave=wave)
    refused = tally.of_verdict(step, Verdict.REFUSED, wave=wave)
    unknown = tally.of_verdict(step, Verdict.UNKNOWN, None, wave=wave)
    settled = well + refused
    evidence = f"{well} done, {refused} refused, {unknown} unknown of {expected}"
    if settled == 0:
        return Hold(f"no evidence: none of {expected} has an outcome")
    if unknown / expected > policy.max_unknown:
        return Hold(f"too many unknown outcomes: {evidence}")
    if refused / expected > policy.max_refused:
        return Hold(f"too many refused: {evidence}")
    if settled / expected < policy.min_settled:
        return Hold(f"too few outcomes: {evidence}")
    return Promote(evidence)


def smoke_gate(passed: int, failed: int, *, min_passed: float, what: str) -> Decision:
    """Promotes where at least `min_passed` of the probes passed; no probe at all holds."""
    total = passed + failed
    if total == 0:
        return Hold(f"no evidence: no {what} was probed")
    if passed / total < min_passed:
        return Hold(f"{failed} of {total} {what} failed")
    return Promote(f"{passed} of {total} {what} passed")
