"""Everything a rehearsal needs, brought up on loopback and taken down again: the world, Prefect's
server and worker, the set-up as production would have it, the portal."""

import asyncio
import json
import os
import random
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from cryptography.fernet import Fernet

from ledger import Ledger
from recovery.enroll import Issuer, jwks, new_signing_key
from recovery.files import write_private
from recovery.policy import RecoveryPolicy, load_policy
from rehearsal.operator import Operator
from rehearsal.postgres import PostgreSQL
from rehearsal.prefect_server import ROOT, WORK_POOL, PrefectServer, free_port
from rehearsal.processes import Child, memory_of_groups, start
from rehearsal.world.cast import AccountSeed, Behaviour
from rehearsal.world.openbao import OpenBao
from rehearsal.world.people import People
from rehearsal.world.people_notices import Counterfeiter, MailGateway, forger_of
from rehearsal.world.people_strangers import MailScanner, Phisher
from rehearsal.world.scenarios import Scenario
from rehearsal.world.world import (
    GITHUB_REPOSITORY,
    JENKINS_USER,
    LATE_BY,
    MESSAGING_SERVICE,
    SENDER,
    World,
)

SETUP_TIMEOUT = 300.0
PORTAL_TIMEOUT = 30.0
MISLED = 6
"""People in whose app forged banners stand beside ours."""
ISSUER = "https://recovery.example.com"
REQUESTER = "oscar"
Say = Callable[[str], None]
Database = Literal["sqlite", "postgres"]


class Stage:
    """One rehearsal's processes and files below `folder`. `up`, then `down`, whatever happened."""

    def __init__(
        self,
        folder: Path,
        *,
        scenario: Scenario,
        seed: int,
        accounts: int,
        database: Database = "sqlite",
    ) -> None:
        self.folder = folder
        self.scenario = scenario
        self.seed = seed
        self.accounts = accounts
        self.policy, _ = load_policy(ROOT / "runbooks" / f"{scenario.runbook}.yaml")
        self.bao = OpenBao()
        self.world: World
        self.people: People
        self.phisher: Phisher
        self.gateway: MailGateway
        self.counterfeiter: Counterfeiter
        self._stack = AsyncExitStack()
        self.prefect: PrefectServer
        self.portal: Child | None = None
        self.portal_url = ""
        self._seal_key = Fernet.generate_key().decode()
        self._key_set: Mapping[str, Any] = {}
        self.ledger_key = secrets.token_urlsafe(36)
        self.code_key = secrets.token_urlsafe(36)
        self.ledger_url = self.portal_ledger_url = f"sqlite:///{folder}/ledger.db"
        self.postgres = PostgreSQL(folder / "postgres") if database == "postgres" else None
        self.clock_file = folder / "clock-offset"

    @property
    def late(self) -> timedelta:
        """After so much of the world's time the SIEM has ingested the last event of the burst."""
        return LATE_BY[1]

    @property
    def reports(self) -> Path:
        return ROOT / self.policy.report.directory

    @property
    def auth_file(self) -> Path:
        """What the UI's login asks for, readable by its owner alone."""
        return self.folder / "prefect-login"

    def prepare(self, *, ui_port: int | None = None) -> None:
        """Empties the folder and starts what takes longest. Blocking; from the main thread."""
        for directory in (self.folder, self.reports):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True, mode=0o700)
        self.clock_file.write_text("0")
        prefect_database = None
        if self.postgres is not None:
            self.postgres.start()
            prefect_database = self.postgres.prefect_url
            self.ledger_url = self.postgres.ledger_url
            self.portal_ledger_url = self.postgres.portal_ledger_url
        self.prefect = PrefectServer(self.folder, port=ui_port, database_url=prefect_database)
        write_private(self.auth_file, f"{self.prefect.auth}\n")
        self.prefect.start_server()
        self.bao.start()

    async def up(self, say: Say) -> None:
        """Returns when a run can be started. RuntimeError with the reason if something fails."""
        self.world = World(
            seed=self.seed,
            accounts=self.accounts,
            scenario=self.scenario,
            clock_file=self.clock_file,
            bao=self.bao,
        )
        await self.world.start(_approvers(self.policy))
        say(
            f"world up: {len(self.world.population.affected_ids)} affected accounts, "
            f"{len(self.world.population.clients)} client secrets, "
            f"{len(self.world.traffic.documents):,} events over {self.policy.detect.baseline.days}"
            " days, Vault is OpenBao"
        )
        # A name, because browsers make passkeys for names alone.
        self.portal_url = f"http://localhost:{free_port()}"
        signing_key, pem = new_signing_key("rehearsal-1")
        await asyncio.to_thread(
            self.world.vault.put,
            "recovery/enrollment-signing-key",
            {"kid": signing_key.kid, "private_pem": pem},
        )
        notice_key, pem = new_signing_key("rehearsal-notices-1")
        await asyncio.to_thread(
            self.world.vault.put,
            "recovery/notice-signing-key",
            {"kid": notice_key.kid, "private_pem": pem},
        )
        await asyncio.to_thread(self.prefect.wait_ready)
        say(f"Prefect up: {self.prefect.url}")
        await self._set_up()
        self._key_set, self._notice_keys = jwks([signing_key]), jwks([notice_key])
        self.start_portal()
        await self.portal_ready()
        # As an operator enters it in SendGrid's settings.
        self.world.sendgrid.webhook.url = f"{self.portal_url}/hooks/sendgrid"
        say(f"portal up: {self.portal_url}")
        await self._people_arrive()

    async def _people_arrive(self) -> None:
        """Everybody who reads the mail: its owners, a scanner before them, a phisher beside."""
        mailboxes, population = self.world.mailboxes, self.world.population
        enter = self._stack.enter_async_context
        await enter(MailScanner(mailboxes, [self.portal_url]))
        victims = [population.accounts[i].email or "" for i in population.affected_ids[-5:]]
        self.phisher = await enter(
            Phisher(self.portal_url, mailboxes, victims, random.Random(self.seed + 2))
        )
        self.gateway = await enter(MailGateway(self.portal_url, mailboxes))
        self.counterfeiter = await enter(
            Counterfeiter(
                mailboxes,
                {account.email: account.id for account in self._prompt()[:MISLED] if account.email},
                forger_of(self.world.platform.put_banner),
            )
        )
        self.people = await enter(
            People(
                self.portal_url,
                self.world.access.platform.replace("127.0.0.1", "localhost"),
                mailboxes,
                population,
                self.world.clock,
                random.Random(self.seed + 3),
            )
        )

    def _prompt(self) -> list[AccountSeed]:
        """Affected people who act at once, with contacts that are good and theirs alone."""
        population, dirt = self.world.population, self.world.population.dirt
        unusable = {*dirt.malformed_phone, *dirt.no_phone, *dirt.shared_mailbox, *dirt.opted_out}
        affected = [population.accounts[i] for i in population.affected_ids if i not in unusable]
        return [account for account in affected if account.behaviour is Behaviour.PROMPT]

    async def down(self) -> None:
        """Ends every process and server; safe to call at any point of `up`."""
        await self._stack.aclose()
        if self.portal is not None:
            await asyncio.to_thread(self.portal.stop)
        if hasattr(self, "world"):
            await self.world.stop()
        self.release()

    def release(self) -> None:
        """The blocking rest of `down`; enough where `up` was never begun."""
        if hasattr(self, "prefect"):
            self.prefect.stop()
        self.bao.stop()
        if self.postgres is not None:
            self.postgres.stop()

    def open_ledger(self) -> Ledger:
        """The ledger as an onlooker; close it when done."""
        return Ledger(self.ledger_url, key=self.ledger_key.encode(), clock=self.world.clock.now)

    def resident_bytes(self) -> int:
        """Memory of all processes of the rehearsal (PSS), this one included."""
        children = [self.prefect.server, self.prefect.worker, self.portal]
        groups = [c.process.pid for c in children if c is not None]
        return memory_of_groups([*groups, os.getpgid(0)])

    async def _set_up(self) -> None:
        """Blocks, limits, work pool, ledger, deployments: in processes of their own, so that
        Prefect's memory is given back. Secrets go through standard input."""
        documents = json.dumps(self._blocks()).encode()
        setup = [sys.executable, "-m", "rehearsal.setup", "--runbook", self.scenario.runbook]
        deploy = [sys.executable, "-m", "prefect", "deploy", "--all", "--no-prompt"]
        operator = Operator(self.prefect.api, self.prefect.auth)
        try:
            # The pool first: the deployments are made side by side with all the rest.
            await operator.create_pool(WORK_POOL)
        finally:
            await operator.close()
        self.prefect.start_worker()
        await asyncio.gather(
            self._finish("set-up", setup, documents), self._finish("prefect deploy", deploy, b"")
        )

    async def _finish(self, name: str, command: list[str], given: bytes) -> None:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self.prefect.environment,
            cwd=ROOT,
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(given), SETUP_TIMEOUT)
        except (TimeoutError, asyncio.CancelledError):
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            end = "\n".join(out.decode(errors="replace").splitlines()[-15:])
            raise RuntimeError(f"{name} failed with status {process.returncode}:\n{end}")

    def _blocks(self) -> list[dict[str, Any]]:
        """Block documents, all named `main`, as an operator would fill them in the UI."""
        access = self.world.access
        login = self.world.vault.issue("recovery-flows")
        return [
            _document(
                "RecoveryLedger",
                url=self.ledger_url,
                key=self.ledger_key,
                clock_offset_file=str(self.clock_file),
            ),
            _document(
                "ElasticsearchSiem",
                address=access.siem,
                api_key=access.siem_api_key,
                index="logs-*",
            ),
            _document(
                "PlatformAdmin",
                address=access.platform,
                lease_path=access.platform_admin_lease,
                reader_lease_path=access.platform_reader_lease,
            ),
            _document("OAuthApp", address=access.platform),
            _document(
                "VaultSecrets",
                address=access.vault,
                role_id=login.role_id,
                secret_id=login.secret_id,
            ),
            _document(
                "JenkinsCi",
                address=access.jenkins,
                user=JENKINS_USER,
                api_token=access.jenkins_token,
            ),
            _document(
                "GitHubActionsCi",
                address=access.github,
                repository=GITHUB_REPOSITORY,
                token=access.github_token,
            ),
            _document(
                "KubernetesCi",
                address=access.kubernetes,
                token=access.kubernetes_token,
                ca_file=None,
            ),
            _document(
                "SendGridEmail",
                address=access.sendgrid,
                api_key=access.sendgrid_key,
                sender_email=SENDER,
                sender_name=self.policy.notify.organization,
            ),
            _document(
                "TwilioSms",
                address=access.twilio,
                account_sid=access.twilio_sid,
                secret=access.twilio_token,
                messaging_service_sid=MESSAGING_SERVICE,
                status_callback=f"{self.portal_url}/hooks/twilio/status",
            ),
            _document("CheckpointFolder", folder=str(self.folder / "checkpoints")),
            _document(
                "EnrollmentPortal",
                address=self.portal_url,
                issuer=ISSUER,
                code_key=self.code_key,
            ),
        ]

    def start_portal(self) -> None:
        """Its process; also once more, after it was killed."""
        key_set = self._key_set
        access = self.world.access
        config = {
            "portal": {
                "public_url": self.portal_url,
                "organization": self.policy.notify.organization,
                "site": self.policy.notify.site,
                "issuer": asdict(Issuer(ISSUER, self.portal_url)),
                "jwks_file": str(self._publish(key_set)),
                "notice_jwks": self._notice_keys,
                "webhooks": {
                    "sendgrid_key": self.world.sendgrid.webhook.public_key,
                    "twilio_auth_token": access.twilio_token,
                },
                "seal_key": self._seal_key,
                "code_key": self.code_key,
                "enroll": self.policy.enroll.model_dump(mode="json"),
                # Hundreds of people act within seconds here, one after the other.
                "answer_floor": "30ms",
            },
            "ledger": {"url": self.portal_ledger_url, "key": self.ledger_key},
            "platform": {"base_url": access.platform, "token": access.platform_bind_token},
            "sms": {
                "base_url": access.twilio,
                "account_sid": access.twilio_sid,
                "user": access.twilio_sid,
                "secret": access.twilio_token,
                "messaging_service_sid": MESSAGING_SERVICE,
                "status_callback": f"{self.portal_url}/hooks/twilio/status",
            },
            "clock_offset_file": str(self.clock_file),
        }
        path = self.folder / "portal.json"
        write_private(path, json.dumps(config, indent=2))
        port = self.portal_url.rsplit(":", 1)[1]
        self.portal = start(
            "portal",
            [sys.executable, "-m", "portal", "--config", str(path), "--port", port],
            log=self.folder / "logs" / "portal.log",
            environment={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT)},
            folder=self.folder,
        )

    def _publish(self, key_set: Mapping[str, Any]) -> Path:
        path = self.folder / "jwks.json"
        path.write_text(json.dumps(key_set), encoding="utf-8")
        return path

    async def portal_ready(self) -> None:
        assert self.portal is not None
        host, port = self.portal_url.removeprefix("http://").split(":")
        deadline = asyncio.get_running_loop().time() + PORTAL_TIMEOUT
        while self.portal.running and asyncio.get_running_loop().time() < deadline:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.close()
            return
        raise RuntimeError(f"The portal did not start. Its log ends:\n{self.portal.tail()}")


def _document(kind: str, **values: Any) -> dict[str, Any]:
    return {"kind": kind, "name": "main", "values": values}


def _approvers(policy: RecoveryPolicy) -> list[str]:
    approvals = policy.approvals
    gates = (approvals.contain, approvals.notify, approvals.retire, approvals.hold)
    return sorted({name for gate in gates for name in gate.approvers})
