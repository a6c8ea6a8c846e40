"""Asks an app instance whether it works, and with which client secret (our health document).

The addresses come from the platform's registry of clients, so the wire for them carries no
credentials: `Wire("the consumers", None)`.
"""

from dataclasses import dataclass

from pydantic import BaseModel, NonNegativeInt

from clients.http import Wire
from recovery.errors import Incomplete, RateLimited, Refused, Unknown, Unreachable


@dataclass(frozen=True, slots=True)
class HealthReport:
    """`secret_id` is the secret it runs on, by the platform's id; None where it does not tell.

    `requests` and `failures` count since its start; both are 0 where nobody answered.
    """

    ok: bool
    secret_id: str | None = None
    requests: int = 0
    failures: int = 0


class _Health(BaseModel):
    status: str
    secret_id: str | None = None
    requests: NonNegativeInt = 0
    failures: NonNegativeInt = 0


async def probe_health(wire: Wire, url: str) -> HealthReport:
    """Not ok is a value: no answer, an error and an answer that nobody understands count as that.

    Raises Misconfigured alone (a certificate, a login page).
    """
    try:
        response = await wire.request(
            "GET", url, attempted="Ask a consumer for its health", ok=(200, 503), repeatable=True
        )
        health = wire.read(response, _Health)
    except (Unreachable, Unknown, RateLimited, Refused, Incomplete):
        return HealthReport(ok=False)
    return HealthReport(
        ok=response.status_code == 200 and health.status == "ok",
        secret_id=health.secret_id,
        requests=health.requests,
        failures=health.failures,
    )
