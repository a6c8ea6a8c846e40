"""The one exception tree. Per-account trouble is a verdict; batch trouble is here.

RecoveryError
├── Misconfigured      the set-up is wrong: stop the run, name what to mend
├── Unreachable        certainly not done (no connection, refused before sending): retry
├── Outage             certainly not done, and the system has been away for long: stop the run
├── Unknown            maybe done (the answer never came): reconcile, never retry blindly
├── RateLimited        certainly not done, come back after `retry_after`
├── Refused            the other side decided: record it, asking again changes nothing
│   ├── Conflict       somebody else wrote first (check-and-set lost)
│   └── NotFound       the thing is not there
├── Stopped            somebody pulled the brake: what was under way is settled, nothing more begins
├── Busy               another run works on this incident: nothing was done
├── Incomplete         the answer is a part of the truth (partial shards, a cut page): never use it
└── Unverified         a token, code or signature did not verify
"""

from datetime import timedelta
from typing import Self


class RecoveryError(Exception):
    """Says what was attempted, on what, what came back and what to do next.

    `subject` is an opaque id. Never put a token, an address or a response body in here.
    """

    def __init__(
        self,
        attempted: str,
        *,
        subject: str = "",
        expected: str = "",
        got: str = "",
        advice: str = "",
    ) -> None:
        self.attempted = attempted
        self.subject = subject
        self.expected = expected
        self.got = got
        self.advice = advice
        super().__init__(attempted)

    def __str__(self) -> str:
        text = self.attempted
        if self.subject:
            text += f" ({self.subject})"
        if self.expected:
            text += f": expected {self.expected}"
            if self.got:
                text += f", got {self.got}"
        elif self.got:
            text += f": {self.got}"
        text += "."
        if self.advice:
            text += f" {self.advice}"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.__dict__.copy()))

    @classmethod
    def _from_state(cls, state: dict[str, object]) -> Self:
        error = cls.__new__(cls)
        Exception.__init__(error, state.get("attempted", ""))
        error.__dict__.update(state)
        return error


def _rebuild(cls: type[RecoveryError], state: dict[str, object]) -> RecoveryError:
    return cls._from_state(state)


class Misconfigured(RecoveryError):
    """A block, limit, runbook or permission is wrong; nothing can go on until a person mends it."""


class Unreachable(RecoveryError):
    """The request certainly had no effect: it never reached the other side, or it said so."""


class Unknown(RecoveryError):
    """The request may have had its effect; ask the other side before doing it again."""


class RateLimited(RecoveryError):
    """The other side did nothing and names a time to come back."""

    def __init__(
        self, attempted: str, *, retry_after: timedelta, subject: str = "", advice: str = ""
    ) -> None:
        super().__init__(
            attempted,
            subject=subject,
            got=f"rate limited for {retry_after.total_seconds():g} s",
            advice=advice,
        )
        self.retry_after = retry_after


class Outage(RecoveryError):
    """A system has not answered for so long that waiting on makes no sense; nothing was sent."""


class Refused(RecoveryError):
    """The other side understood and said no. `code` is its machine-readable reason."""

    def __init__(
        self,
        attempted: str,
        *,
        code: str = "",
        subject: str = "",
        expected: str = "",
        got: str = "",
        advice: str = "",
    ) -> None:
        super().__init__(
            attempted, subject=subject, expected=expected, got=got or code, advice=advice
        )
        self.code = code


class Conflict(Refused):
    """A check-and-set was lost: somebody else wrote in between."""


class TakenOver(Conflict):
    """Another run has this work now; this one begins nothing more of it."""


class NotFound(Refused):
    """The subject does not exist on the other side."""


class Stopped(RecoveryError):
    """The emergency stop, Cancel, or a lost lease: nothing more is begun. What was under way was
    let finish and is settled; a later run goes on from there."""


class Busy(RecoveryError):
    """Another run works on this incident. Says which one, and when it lets go."""


class Incomplete(RecoveryError):
    """Only a part of the answer came. A shorter list is worse than none."""


class Unverified(RecoveryError):
    """A token, code or signature was not accepted. The reason is for the log alone."""
