"""The fields of the run forms, with the bounds and descriptions that the Prefect UI shows."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

IncidentId = Annotated[
    str,
    Field(
        description="The incident's id, such as INC-2026-0142. The same id goes on where an "
        "earlier run stopped.",
        pattern=r"^INC-[0-9]{4}-[0-9]{4,8}$",
        examples=["INC-2026-0142"],
    ),
]
RunbookName = Annotated[
    str,
    Field(
        description="A file in runbooks/, without .yaml. It holds every number and choice.",
        pattern=r"^[a-z0-9][a-z0-9-]{2,60}$",
    ),
]
DryRun = Annotated[
    bool,
    Field(
        description="On: print the plan with its counts and change nothing anywhere.",
    ),
]
Requester = Annotated[
    str,
    Field(
        description="Your own approver name: a run that acts refuses `operator`. Whoever requested "
        "any run on this incident can't approve its gates (four eyes).",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
    ),
]
AskAgain = Annotated[
    bool,
    Field(
        description="On: where an approver rejected this very plan, ask once more. The earlier "
        "rejection stays in the audit log and is shown in the form.",
    ),
]
WindowStart = Annotated[
    datetime | None,
    Field(
        description="Start of the burst, with time zone. Empty: found in the SIEM.",
    ),
]
WindowEnd = Annotated[
    datetime | None,
    Field(description="End of the burst, with time zone. Empty: found."),
]
ScopeFile = Annotated[
    str | None,
    Field(
        description="A canonical list (CSV or JSON) on the worker, for the day on which the SIEM "
        "is down. Empty: ask the SIEM.",
        max_length=1000,
    ),
]
References = Annotated[
    list[str] | None,
    Field(
        description="Opaque account references (acc-…) whose identity a person has proofed.",
        max_length=10_000,
    ),
]
Remind = Annotated[
    bool,
    Field(
        description="On: everybody who was told and has not enrolled gets a fresh link.",
    ),
]
Export = Annotated[
    bool,
    Field(description="On: write the whole audit log and the public keys for auditors."),
]
DEFAULT_RUNBOOK = "mass-password-reset"
