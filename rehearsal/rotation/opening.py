"""Opens a rotation's case on a world's systems, in this process or in a child that gets it by
standard input: a `Case` of the flows, without blocks and without a Prefect server."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from pydantic import SecretStr

from clients.http import Wire
from clients.jenkins import JenkinsClient
from clients.oauth import OAuthClient
from clients.platform import PlatformClient
from clients.siem import ElasticsearchClient
from clients.siem_presets import chosen
from clients.vault import VaultClient
from ledger import Ledger
from recovery.app_clients import DEFAULT_CI
from recovery.errors import NotFound
from recovery.policy import RecoveryPolicy, load_policy
from rehearsal.prefect_server import ROOT
from tasks.case import Case, Rights, Systems
from tasks.ci import CiByName
from tasks.leases import LeaseLog

INCIDENT = "INC-2026-0142"
RUNBOOK = "rehearsal"


@dataclass(frozen=True, slots=True)
class Door:
    """Addresses and credentials; JSON on its way to a child, never an argument."""

    platform: str
    siem: str
    jenkins: str
    vault: str
    ledger: str
    admin_token: str = field(repr=False)
    siem_key: str = field(repr=False)
    jenkins_token: str = field(repr=False)
    role_id: str
    secret_id: str = field(repr=False)
    ledger_key: str = field(repr=False)

    def told(self) -> dict[str, str]:
        return asdict(self)


def hurried() -> RecoveryPolicy:
    """The rehearsals' runbook with waits of fractions of a second. Failures hold nothing here:
    a fault for all clients would else leave most of them untouched and untested."""
    policy, _ = load_policy(ROOT / "runbooks" / f"{RUNBOOK}.yaml")
    short = timedelta(milliseconds=150)
    rotate = policy.rotate.model_copy(
        update={
            "waves": (1,),
            "at_once": 14,
            "soak": short,
            "watch": short,
            "siem_lag": timedelta(milliseconds=60),
            "ci_poll": timedelta(milliseconds=20),
            "ci_timeout": timedelta(seconds=5),
            "health_timeout": timedelta(seconds=5),
            "max_failures": 1000,
        }
    )
    return policy.model_copy(update={"rotate": rotate})


@asynccontextmanager
async def opened(door: Door, policy: RecoveryPolicy | None = None) -> AsyncIterator[Case]:
    """The case of the one incident, which is opened where it is not yet."""
    policy = policy or hurried()
    ledger = Ledger(door.ledger, key=door.ledger_key.encode(), clock=lambda: datetime.now(UTC))
    ledger.migrate()
    async with AsyncExitStack() as stack:
        stack.callback(ledger.close)
        enter = stack.enter_async_context
        systems = Systems(stack, policy, Rights.ACT, LeaseLog(ledger, INCIDENT))
        bearer = {"Authorization": f"Bearer {door.admin_token}"}
        systems.platform = await enter(
            PlatformClient(Wire("the platform", door.platform, headers=bearer))
        )
        systems.oauth = await enter(OAuthClient(Wire("OAuth", door.platform)))
        key = {"Authorization": f"ApiKey {door.siem_key}"}
        systems.siem = await enter(
            ElasticsearchClient(
                Wire("the SIEM", door.siem, headers=key), index="logs-*", presets=chosen(["ecs"])
            )
        )
        systems.secrets = await enter(
            VaultClient(door.vault, role_id=door.role_id, secret_id=SecretStr(door.secret_id))
        )
        systems.client_secrets = systems.secrets
        systems.checkpoints = []
        jenkins = Wire("Jenkins", door.jenkins, auth=("recovery", door.jenkins_token))
        systems.ci = CiByName({DEFAULT_CI: await enter(JenkinsClient(jenkins))})
        systems.consumers = await enter(Wire("the consumers", None))
        # No message is sent in a rotation.
        systems.email = systems.sms = cast(Any, None)
        case = Case(
            incident_id=INCIDENT,
            runbook=RUNBOOK,
            policy=policy,
            runbook_digest="0" * 64,
            runbook_commit="unversioned",
            ledger=ledger,
            portal=cast(Any, None),
            systems=systems,
        )
        _open(ledger)
        yield case


def _open(ledger: Ledger) -> None:
    try:
        ledger.incident(INCIDENT)
    except NotFound:
        now = ledger.now()
        ledger.open_incident(
            INCIDENT,
            window_start=now,
            window_end=now,
            runbook_digest="0" * 64,
            runbook_commit="unversioned",
            requested_by="rehearsal",
        )
