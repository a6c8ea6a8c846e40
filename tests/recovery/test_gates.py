"""The gate holds on too many refused or unknown, on no evidence, and promotes otherwise."""

import pytest

from recovery.accounts import Verdict
from recovery.gates import Hold, Promote, gate, smoke_gate
from recovery.incident import Tally
from recovery.policy import GatePolicy

POLICY = GatePolicy(max_refused=0.02, max_unknown=0.01, min_settled=0.98)


def tally(**counts: int) -> Tally:
    names = {"done": Verdict.DONE, "already": Verdict.ALREADY, "refused": Verdict.REFUSED}
    names |= {"unknown": Verdict.UNKNOWN}
    verdicts = {("contain.account", 1, names[k]): n for k, n in counts.items() if k in names}
    verdicts[("contain.account", 1, None)] = counts.get("pending", 0)
    verdicts[("contain.account", 0, Verdict.REFUSED)] = 50  # another wave's trouble
    return Tally({}, verdicts)


@pytest.mark.parametrize(
    ("counts", "expected", "held"),
    [
        ({"done": 100}, 100, ""),
        ({"already": 100}, 100, ""),
        ({"done": 98, "refused": 2}, 100, ""),
        ({"done": 97, "refused": 3}, 100, "too many refused"),
        ({"done": 99, "unknown": 1}, 100, ""),
        ({"done": 98, "unknown": 2}, 100, "too many unknown"),
        ({"done": 98, "pending": 2}, 100, "too many unknown"),
        ({"done": 97}, 100, "too few outcomes"),
        ({}, 100, "no evidence"),
        ({"unknown": 100}, 100, "no evidence"),
        ({}, 0, ""),
    ],
)
def test_gate(counts: dict[str, int], expected: int, held: str) -> None:
    decision = gate(tally(**counts), POLICY, step="contain", wave=1, expected=expected)
    if held:
        assert isinstance(decision, Hold)
        assert held in decision.reason
    else:
        assert isinstance(decision, Promote)


def test_smoke_gate_needs_evidence() -> None:
    assert isinstance(smoke_gate(0, 0, min_passed=1.0, what="clients"), Hold)
    assert isinstance(smoke_gate(9, 1, min_passed=1.0, what="clients"), Hold)
    assert isinstance(smoke_gate(10, 0, min_passed=1.0, what="clients"), Promote)
