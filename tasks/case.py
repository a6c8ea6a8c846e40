"""The case a task works on: the incident, its runbook, the ledger and the systems' clients.

Loaded in a flow's first lines from Prefect blocks and passed down; never a flow parameter.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from prefect.blocks.core import Block

import blocks
from blocks.base import (
    CheckpointBlock,
    CiBlock,
    ClientSecretsBlock,
    EmailBlock,
    PlatformBlock,
    Rights,
    SecretsBlock,
    SiemBlock,
    SmsBlock,
)
from blocks.ledger import RecoveryLedger
from blocks.oauth import OAuthApp
from blocks.portal import EnrollmentPortal
from clients.courier import SecretCourier
from clients.health import HealthReport, probe_health
from clients.http import Wire
from clients.leases import LeasedBearer
from clients.secret_store import SecretStore
from ledger import Ledger
from recovery.errors import Misconfigured, NotFound
from recovery.policy import RecoveryPolicy, load_policy
from recovery.redaction import guard_logs
from tasks.brake import Brake
from tasks.breaker import Holding
from tasks.ci import CiByName
from tasks.leases import LeaseLog
from tasks.pace import QuotaPace, check_limit
from tasks.prefect_api import server_answers

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
        self.brake = Brake(ledger, incident_id)
        self.portal = portal
        self.siem = systems.siem
        self.platform = systems.platform
        self.oauth = systems.oauth
        self.secrets = systems.secrets
        self.client_secrets = systems.client_secrets
        self.ci = systems.ci
        self.email = systems.email
        self.sms = systems.sms
        self.checkpoints = systems.checkpoints
        self._consumers = systems.consumers
        self.inventory = systems.secrets.inventory()
        self.courier = SecretCourier(systems.platform, systems.client_secrets, systems.oauth)
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

    def __init__(
        self, stack: AsyncExitStack, policy: RecoveryPolicy, rights: Rights, log: LeaseLog
    ) -> None:
        self._stack = stack
        self._policy = policy
        self._rights = rights
        self._log = log

    async def open(self) -> None:
        names, quotas = self._policy.systems, self._policy.quotas

        def pace(system: str) -> QuotaPace:
            quota = getattr(self._policy.quotas, system)
            return QuotaPace(system, quota, Holding(system, self._policy.breaker.rule))

        platform = await load_block(names.platform, PlatformBlock)
        siem = await load_block(names.siem, SiemBlock)
        oauth = await load_block(names.oauth, OAuthApp)
        secrets = await load_block(names.secrets, SecretsBlock)
        cis = {n: await load_block(block, CiBlock) for n, block in names.ci_by_name.items()}
        email = await load_block(names.email, EmailBlock)
        sms = await load_block(names.sms, SmsBlock)
        self.checkpoints = [
            (await load_block(name, CheckpointBlock)).get_client() for name in names.checkpoints
        ]
        for system in type(quotas).model_fields:
            await check_limit(system, getattr(quotas, system))
        enter = self._stack.enter_async_context
        self.secrets = await enter(secrets.get_client())
        self.client_secrets = await self._client_secrets()
        terms, bearer = platform.lease_terms(self._rights), None
        if terms is not None:
            # Left before the login that it was taken with; taken at the first request.
            bearer = await enter(LeasedBearer(self.secrets, terms, self._log))
        self.platform = await enter(platform.get_client(pace("platform"), bearer))
        detect = self._policy.detect
        self.siem = await enter(
            siem.get_client(pace("siem"), presets=(detect.preset, *detect.also))
        )
        self.oauth = await enter(oauth.get_client())
        ci_pace = pace("ci")
        self.ci = CiByName({n: await enter(ci.get_client(ci_pace)) for n, ci in cis.items()})
        self.email = await enter(email.get_client(pace("email")))
        self.sms = await enter(sms.get_client(pace("sms")))
        self.consumers = await enter(Wire("the consumers", None))

    async def _client_secrets(self) -> SecretStore:
        names = self._policy.systems
        if names.client_secrets in ("", names.secrets):
            return self.secrets
        block = await load_block(names.client_secrets, ClientSecretsBlock)
        return await self._stack.enter_async_context(block.get_client())


@asynccontextmanager
async def open_case(
    incident_id: str, runbook: str, *, rights: Rights = Rights.READ
) -> AsyncIterator[Case]:
    """Reads the runbook, loads its blocks, checks the limits and the ledger, opens the clients.

    `rights` is what the phase may do at the platform: where that leases its credentials, one for
    just this is taken at the first request and revoked at the end.
    Raises Misconfigured or Unreachable with one sentence before anything is done.
    """
    guard_logs()
    await server_answers()
    policy, digest = load_policy(ROOT / "runbooks" / f"{runbook}.yaml")
    ledger_block = await load_block(policy.systems.ledger, RecoveryLedger)
    portal = await load_block(policy.systems.portal, EnrollmentPortal)
    ledger = ledger_block.get_client()
    try:
        await asyncio.to_thread(ledger.check)
        async with AsyncExitStack() as stack:
            systems = Systems(stack, policy, rights, LeaseLog(ledger, incident_id))
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


@asynccontextmanager
async def open_ledger(runbook: str) -> AsyncIterator[tuple[RecoveryPolicy, Ledger]]:
    """The runbook and its ledger alone: for what must work while every other system is down."""
    guard_logs()
    policy, _ = load_policy(ROOT / "runbooks" / f"{runbook}.yaml")
    ledger = (await load_block(policy.systems.ledger, RecoveryLedger)).get_client()
    try:
        await asyncio.to_thread(ledger.check)
        yield policy, ledger
    finally:
        ledger.close()


async def load_block(name: str, kind: type[AnyBlock]) -> AnyBlock:
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
    checks: list[Callable[[], Awaitable[None]]] = [case.secrets.check, case.platform.check]
    if case.client_secrets is not case.secrets:
        checks.insert(1, case.client_secrets.check)
    for check in checks:
        await check()


async def _git_commit() -> str:
    """The commit the runbook was read at: of the checkout, or as the image was built with it
    (RECOVERY_COMMIT); `unversioned` where neither tells."""
    built_from = os.environ.get("RECOVERY_COMMIT", "unversioned")
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
        return built_from
    out, _ = await process.communicate()
    return out.decode().strip() or built_from


__all__ = [
    "ROOT",
    "Case",
    "Rights",
    "blocks",
    "load_block",
    "open_case",
    "open_ledger",
    "preflight",
]
