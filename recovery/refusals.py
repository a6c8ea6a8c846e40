"""What the SIEM's count of a client's authentications says of its secret."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AuthCounts:
    """One client's authentications in a stretch of time; `total` takes in the refused ones."""

    refused: int = 0
    total: int = 0


def complaint(counts: AuthCounts, *, max_share: float, need_traffic: bool) -> str:
    """Why the test of a new secret does not pass, or empty.

    No document at all is no evidence; whether that is enough is the runbook's choice.
    """
    if counts.total == 0:
        return "the SIEM saw nobody authenticate" if need_traffic else ""
    if counts.refused / counts.total > max_share:
        return f"{counts.refused} of {counts.total} authentications were refused"
    return ""


def still_wanted(counts: AuthCounts, usual: int) -> bool:
    """More refusals since an old secret was switched off than there were before: it is used.

    `usual` is what the same client was refused in a stretch of the same length before.
    """
    return counts.refused > usual
