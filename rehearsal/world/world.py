"""The whole world in one process: every server on its own loopback port, the attacker, the apps.

Nothing here knows the recovery tool; whoever rehearses gets addresses and credentials from
`World.access` and puts them where production has them.
"""

import asyncio
import random
import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from rehearsal.world.attacker import Attacker
from rehearsal.world.auth_log import AuthLog
from rehearsal.world.ci_github import GitHubState, github_app
from rehearsal.world.ci_kubernetes import KubernetesState, kubernetes_app
from rehearsal.world.clock import WorldClock
from rehearsal.world.consumers import ConsumerFleet, ConsumerSpec, consumers_app
from rehearsal.world.credentials import CredentialKind
from rehearsal.world.jenkins_app import JenkinsState, jenkins_app
from rehearsal.world.mailbox import Mailboxes
from rehearsal.world.openbao import OpenBao
from rehearsal.world.openbao_contents import (
    ADMIN_LEASE,
    READER_LEASE,
    Approver,
    VaultContents,
)
from rehearsal.world.platform_app import platform_app
from rehearsal.world.platform_quota import AdminToken, Scope
from rehearsal.world.platform_state import PlatformState
from rehearsal.world.population import Population, populate
from rehearsal.world.registry import CI_NAMES, OWN_APP_ID, RESTART_JOB, RESTART_WORKFLOW
from rehearsal.world.scenarios import Scenario
from rehearsal.world.sendgrid_app import ApiKey, SendGridApp
from rehearsal.world.serving import Loopback
from rehearsal.world.siem_app import Credential as SiemCredential
from rehearsal.world.siem_app import SiemApp
from rehearsal.world.traffic import Traffic, generate
from rehearsal.world.turnstile import Turnstiles
from rehearsal.world.twilio_app import TwilioApp

BURST_AGO = timedelta(minutes=12)
LATE_BY = (timedelta(seconds=25), timedelta(seconds=60))
"""Late enough to be missed by the first look at the SIEM, early enough for the second."""
COUNTED = r"^(platform \w+ /admin/|siem |sendgrid |twilio |jenkins )"
"""What the recovery asks of the world; not what people, apps and the attacker do."""
SENDER = "security@accounts.example.com"
MESSAGING_SERVICE = "MG" + "5" * 32
SERVICE_NUMBER = "+15005550006"
JENKINS_USER = "recovery"
BROKER_USER = "vault"
GITHUB_REPOSITORY = "example-social/restarts"


@dataclass(frozen=True, slots=True)
class Access:
    """Addresses and credentials of the world's systems, as an operator would be given them."""

    platform: str
    siem: str
    sendgrid: str
    twilio: str
    jenkins: str
    github: str
    kubernetes: str
    vault: str
    platform_admin_lease: str
    """Path in Vault that leases a credential which may do everything under /admin."""
    platform_reader_lease: str
    platform_bind_token: str = field(repr=False)
    siem_api_key: str = field(repr=False)
    """Encoded, as Elasticsearch gives it out."""
    sendgrid_key: str = field(repr=False)
    twilio_sid: str
    twilio_token: str = field(repr=False)
    jenkins_token: str = field(repr=False)
    github_token: str = field(repr=False)
    kubernetes_token: str = field(repr=False)
    introspector_id: str
    introspector_secret: str = field(repr=False)


class World:
    """Made from a seed; `start` brings it up, `stop` takes it down. `bao` is started by the caller
    from the main thread, since it dies with the thread that started it."""

    def __init__(
        self, *, seed: int, accounts: int, scenario: Scenario, clock_file: Path, bao: OpenBao
    ) -> None:
        self.clock = WorldClock(clock_file)
        self.started_at: datetime = self.clock.now()
        self.scenario = scenario
        self.bao = bao
        self.population: Population = populate(
            seed,
            accounts=accounts,
            clients=scenario.clients,
            burst_at=self.started_at - BURST_AGO,
        )
        self.traffic: Traffic = self._make_traffic(random.Random(seed + 1))
        self._keys = {
            name: secrets.token_urlsafe(24)
            for name in (
                *("broker", "bind", "siem", "sendgrid", "twilio", "jenkins"),
                *CI_NAMES,
            )
        }
        self.platform = PlatformState(
            self.population,
            self.clock,
            admin_tokens=[
                AdminToken(self._keys["bind"], scopes=frozenset({Scope.BIND}), per_second=200.0),
            ],
        )
        self.platform.broker.open_for(
            BROKER_USER,
            self._keys["broker"],
            per_second=scenario.platform_per_second,
            concurrent=scenario.platform_concurrent,
        )
        self._siem_key = SiemCredential("api_key", "recovery-reader", self._keys["siem"])
        self.siem = SiemApp(self.clock.now, self.traffic.documents, credentials=[self._siem_key])
        self.platform.clients.listener = AuthLog(self.siem.append, self.clock.now)
        self.mailboxes = Mailboxes()
        self._twilio_sid = "AC" + secrets.token_hex(16)
        self.sendgrid = SendGridApp(
            self.clock.now,
            self.mailboxes,
            keys=[ApiKey(self._keys["sendgrid"])],
            verified_senders=[SENDER],
            seed=seed,
        )
        self.twilio = TwilioApp(
            self.clock.now,
            self.mailboxes,
            account_sid=self._twilio_sid,
            auth_token=self._keys["twilio"],
            services={MESSAGING_SERVICE: [SERVICE_NUMBER]},
            opted_out=[
                a.phone for a in self.population.accounts.values() if a.opted_out and a.phone
            ],
            seed=seed,
            per_second=scenario.sms_per_second,
        )
        self.jenkins = JenkinsState(user=JENKINS_USER, api_token=self._keys["jenkins"])
        self.turnstiles = Turnstiles(COUNTED)
        self.github = GitHubState(repository=GITHUB_REPOSITORY, token=self._keys["github"])
        self.kubernetes = KubernetesState(token=self._keys["kubernetes"])
        self.vault = VaultContents(bao)
        self.fleet: ConsumerFleet
        self.attacker: Attacker
        self.approvers: dict[str, Approver] = {}
        self._stack = AsyncExitStack()
        self.access: Access

    def _make_traffic(self, rng: random.Random) -> Traffic:
        people = self.population.accounts
        hit = [people[h.account_id] for h in self.population.burst]
        affected = {a.id for a in hit} | set(self.population.excluded_ids)
        ordinary = [a for a in people.values() if a.id not in affected]
        return generate(
            rng,
            self.started_at,
            [(a.id, a.handle, a.email) for a in hit],
            [(a.id, a.handle, a.email) for a in ordinary],
            burst_start=self.started_at - BURST_AGO,
            scale=self.scenario.traffic_scale,
            late_by=LATE_BY,
            hits={h.account_id: h.at for h in self.population.burst},
        )

    async def start(self, approvers: list[str]) -> None:
        """Vault is filled, the servers answer, the apps serve, the attacker is at work."""
        enter = self._stack.enter_async_context
        await asyncio.to_thread(self._fill_vault, approvers)
        behind = self.turnstiles.before
        platform = await enter(Loopback(behind("platform", platform_app(self.platform))))
        await asyncio.to_thread(
            self.vault.lease_platform, platform.url, BROKER_USER, self._keys["broker"]
        )
        siem = await enter(Loopback(behind("siem", self.siem)))
        sendgrid = await enter(Loopback(behind("sendgrid", self.sendgrid)))
        twilio = await enter(Loopback(behind("twilio", self.twilio)))
        jenkins = await enter(Loopback(behind("jenkins", jenkins_app(self.jenkins))))
        github = await enter(Loopback(github_app(self.github)))
        kubernetes = await enter(Loopback(kubernetes_app(self.kubernetes)))
        for closing in (
            self.jenkins.aclose,
            self.github.runs.aclose,
            self.kubernetes.aclose,
            self.sendgrid.aclose,
            self.twilio.aclose,
        ):
            self._stack.push_async_callback(closing)
        self.fleet = ConsumerFleet(
            await asyncio.to_thread(self._consumer_specs),
            platform_url=platform.url,
            vault_url=self.bao.address,
        )
        consumers = await enter(Loopback(consumers_app(self.fleet)))
        self.platform.consumers_url = consumers.url
        self._add_restarts()
        await enter(self.fleet)
        self.attacker = await enter(
            Attacker(platform.url, self.population.loot, self.clock, self.scenario.attacker_rate)
        )
        self.access = Access(
            platform=platform.url,
            siem=siem.url,
            sendgrid=sendgrid.url,
            twilio=twilio.url,
            jenkins=jenkins.url,
            github=github.url,
            kubernetes=kubernetes.url,
            vault=self.bao.address,
            platform_admin_lease=ADMIN_LEASE,
            platform_reader_lease=READER_LEASE,
            platform_bind_token=self._keys["bind"],
            siem_api_key=self._siem_key.authorization.removeprefix("ApiKey "),
            sendgrid_key=self._keys["sendgrid"],
            twilio_sid=self._twilio_sid,
            twilio_token=self._keys["twilio"],
            jenkins_token=self._keys["jenkins"],
            github_token=self._keys["github"],
            kubernetes_token=self._keys["kubernetes"],
            introspector_id=self.population.introspector.id,
            introspector_secret=self.population.introspector.secret,
        )

    def _add_restarts(self) -> None:
        """What restarts a consumer, at the CI that the registry names for it."""
        inputs = {"CONSUMER": "", "RECOVERY_RUN": ""}
        self.jenkins.add_job(RESTART_JOB, self.fleet.restart, inputs)
        self.github.add_workflow(
            RESTART_WORKFLOW, self.fleet.restart, {"CONSUMER": True, "RECOVERY_RUN": False}
        )
        for client in self.population.clients.values():
            for consumer in client.consumers:
                kind, _, name = consumer.ci_job.partition("deployment/")
                if kind.startswith(CI_NAMES[1]):
                    self.kubernetes.add("deployments", name, self.fleet.restart)

    async def stop(self) -> None:
        await self._stack.aclose()
        self.vault.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def delivered(self) -> None:
        """Returns when mail and SMS accepted so far are in the mailboxes."""
        await self.sendgrid.settled()
        await self.twilio.settled()

    def digest(self) -> str:
        """What a dry run must leave as it was: platform, Vault's client secrets, mailboxes."""
        return "\n".join(
            [
                self.platform.snapshot_digest(),
                self.vault.digest_of_apps(),
                self.mailboxes.digest(),
            ]
        )

    def _fill_vault(self, approvers: list[str]) -> None:
        self.vault.set_up(approvers)
        self.approvers = self.vault.approvers
        for client in self.population.clients.values():
            self.vault.put_client(
                client.id,
                client.secret_id,
                client.secret,
                owner=client.owner,
                consumers=[c.name for c in client.consumers],
                tries_both=[c.name for c in client.consumers if c.tries_both],
            )
        tokens = {
            c.account_id: c.value
            for c in self.population.credentials
            if c.kind is CredentialKind.REFRESH_TOKEN and c.client_id == OWN_APP_ID
        }
        self.vault.put(f"app-tokens/{OWN_APP_ID}", tokens)
        accounts = self.population.accounts
        self.vault.put(
            "recovery/probe-accounts",
            {account_id: accounts[account_id].password for account_id in self.probe_accounts},
        )

    @property
    def probe_accounts(self) -> list[str]:
        """The team's own test accounts among the affected; their old passwords are known."""
        people = [self.population.accounts[i] for i in self.population.affected_ids]
        return [a.id for a in people if a.role == "community_manager"][:3]

    def _consumer_specs(self) -> list[ConsumerSpec]:
        return [
            ConsumerSpec(
                consumer.name,
                client.id,
                self.vault.consumer_token(client.id),
                tries_both=consumer.tries_both,
            )
            for client in self.population.clients.values()
            for consumer in client.consumers
        ]
