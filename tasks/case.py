"""The case a task works on: the incident, its runbook, the ledger and the systems' clients.

Loaded in a flow's first lines from Prefect blocks and passed down; never a flow parameter.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from prefect.blocks.core import Block

import blocks
from blocks.base import CiBlock, EmailBlock, PlatformBlock, SecretsBlock, SiemBlock, SmsBlock
from blocks.ledger import RecoveryLedger
from blocks.oauth import OAuthApp
from blocks.portal import EnrollmentPortal
from clients.courier import SecretCourier
from clients.health import HealthReport, probe_health
from clients.http import Wire
from ledger import Ledger
from recovery.errors import Misconfigured, NotFound
from recovery.policy import RecoveryPolicy, load_policy
from tasks.pace import QuotaPace, check_limit

ROOT = Path(__file__).resolve().parent.parent
BATCHES_AT_ONCE = 4
"""Batches of one wave side by side; they share the quotas."""
AnyBlock = TypeVar("AnyBlock", bound=Block)


class Case:
    """Everything a task needs. A plain class, so that Prefect does not look inside arguments."""

    def __init__(
        self,
        *,
        incident_id: str,
        runbook: str,
        policy: RecoveryPolicy,
        runbook_digest: str,
        runbook_commit: str,
        ledger: Ledger,
        portal: EnrollmentPortal,
        systems: "Systems",
    ) -> None:
        self.incident_id = incident_id
        self.runbook = runbook
        self.policy = policy
        self.runbook_digest = runbook_digest
        self.runbook_commit = runbook_commit
        self.ledger = ledger
        self.portal = portal
        self.siem = systems.siem
        self.platform = systems.platform
        self.oauth = systems.oauth
        self.secrets = systems.secrets
        self.ci = systems.ci
        self.email = systems.email
        self.sms = systems.sms
        self._consumers = systems.consumers
        self.inventory = systems.secrets.inventory()
        self.courier = SecretCourier(systems.platform, systems.secrets, systems.oauth)
        self._marked: set[str] = set()
        self.directory = ROOT / policy.report.directory / incident_id
        """Where this incident's exports and reports are written (owner-only files)."""

    def __repr__(self) -> str:
        return f"Case({self.incident_id!r}, {self.runbook!r})"

    def width(self, wanted: int, system: str) -> int:
        """How many requests one batch may have under way: the runbook's number, and never more
        than its share of the system's limit on concurrent requests."""
        concurrent: int = getattr(self.policy.quotas, system).concurrent
        return max(1, min(wanted, concurrent // BATCHES_AT_ONCE))

    async def health(self, url: str) -> HealthReport:
        """How a consumer of a client secret is; not healthy is a value."""
        return await probe_health(self._consumers, url)

    async def marked(self, name: str) -> bool:
        """True where the incident is open and has a stamp of that name."""
        try:
            marks = await asyncio.to_thread(self.ledger.marks, self.incident_id)
        except NotFound:
            return False
        return any(mark.name == name for mark in marks)

    async def mark_once(self, name: str) -> None:
        """Stamps the first time of `name` in the ledger; asks the ledger once per process."""
        if name not in self._marked:
            self._marked.add(name)
            await asyncio.to_thread(self.ledger.mark, self.incident_id, name)

    def sketched(self, ledger: Ledger, directory: Path) -> "Case":
        """The same case on a ledger and in a folder that are thrown away after a dry run."""
        twin = object.__new__(Case)
        twin.__dict__.update(self.__dict__)
        twin.ledger = ledger
        twin.directory = directory
        return twin


class Systems:
    """The open clients of one case."""

    def __init__(self, stack: AsyncExitStack, policy: RecoveryPolicy) -> None:
        self._stack = stack
        self._policy = policy

    async def open(self) -> None:
        names, quotas = self._policy.systems, self._policy.quotas
        platform = await _load(names.platform, PlatformBlock)
        siem = await _load(names.siem, SiemBlock)
        oauth = await _load(names.oauth, OAuthApp)
        secrets = await _load(names.secrets, SecretsBlock)
        ci = await _load(names.ci, CiBlock)
        email = await _load(names.email, EmailBlock)
        sms = await _load(names.sms, SmsBlock)
        for system in type(quotas).model_fields:
            await check_limit(system, getattr(quotas, system))
        enter = self._stack.enter_async_context
        self.platform = await enter(platform.get_client(QuotaPace("platform", quotas.platform)))
        detect = self._policy.detect
        self.siem = await enter(
            siem.get_client(QuotaPace("siem", quotas.siem), presets=(detect.preset, *detect.also))
        )
        self.oauth = await enter(oauth.get_client())
        self.secrets = await enter(secrets.get_client())
        self.ci = await enter(ci.get_client(QuotaPace("ci", quotas.ci)))
        self.email = await enter(email.get_client(QuotaPace("email", quotas.email)))
        self.sms = await enter(sms.get_client(QuotaPace("sms", quotas.sms)))
        self.consumers = await enter(Wire("the consumers", None))


@asynccontextmanager
async def open_case(incident_id: str, runbook: str) -> AsyncIterator[Case]:
    """Reads the runbook, loads its blocks, checks the limits and the ledger, opens the clients.

    Raises Misconfigured or Unreachable with one sentence before anything is done.
    """
    policy, digest = load_policy(ROOT / "runbooks" / f"{runbook}.yaml")
    ledger_block = await _load(policy.systems.ledger, RecoveryLedger)
    portal = await _load(policy.systems.portal, EnrollmentPortal)
    ledger = ledger_block.get_client()
    try:
        await asyncio.to_thread(ledger.check)
        async with AsyncExitStack() as stack:
            systems = Systems(stack, policy)
            await systems.open()
            yield Case(
                incident_id=incident_id,
                runbook=runbook,
                policy=policy,
                runbook_digest=digest,
                runbook_commit=await _git_commit(),
                ledger=ledger,
                portal=portal,
                systems=systems,
            )
    finally:
        ledger.close()


async def _load(name: str, kind: type[AnyBlock]) -> AnyBlock:
    """The block document `type-slug/name`, checked to be of the kind the runbook needs it for."""
    advice = "Create it in the UI (Blocks) or correct `systems` in the runbook."
    try:
        block = await Block.aload(name)
    except (ValueError, KeyError) as error:
        raise Misconfigured(
            "Load a block",
            subject=name,
            expected="a block document of that name",
            got="none" if isinstance(error, ValueError) else "an unknown block type",
            advice=advice,
        ) from None
    if not isinstance(block, kind):
        raise Misconfigured(
            "Load a block",
            subject=name,
            expected=f"a {kind.__name__}",
            got=type(block).__name__,
            advice=advice,
        )
    return block


async def preflight(case: Case) -> None:
    """Asks the systems that every phase depends on whether they answer, before the first act.
    Only scoping needs the SIEM, and asks it itself."""
    checks: tuple[Callable[[], Awaitable[None]], ...] = (
        case.secrets.check,
        case.platform.check,
    )
    for check in checks:
        await check()


async def _git_commit() -> str:
    """The commit the runbook was read at, or `unversioned` outside a checkout."""
    try:
        process = await asyncio.create_subprocess_exec(
            "git",
            "-C",
            str(ROOT),
            "rev-parse",
            "HEAD",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return "unversioned"
    out, _ = await process.communicate()
    return out.decode().strip() or "unversioned"


__all__ = ["ROOT", "Case", "blocks", "open_case", "preflight"]
