"""The platform's credential just in time, leased by a real OpenBao from the rehearsal's platform:
taken at the first use, kept alive, taken anew, given back, and dead by itself after a crash."""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import hvac
import pytest
from pydantic import SecretStr

from blocks.base import Rights
from blocks.platform import PlatformAdmin
from clients.leases import LeasedBearer, LeaseTerms
from clients.platform import PlatformClient
from clients.vault import VaultClient
from ledger import Ledger
from recovery.contain import CredentialKind
from recovery.errors import Misconfigured, Unreachable
from rehearsal.world.openbao_contents import ADMIN_LEASE, READER_LEASE
from rehearsal.world.platform_quota import Scope
from tasks.leases import LeaseLog

ROOT = Path(__file__).resolve().parents[2]
SHORT, LONG = timedelta(seconds=2), timedelta(seconds=60)


@dataclass(slots=True)
class Notes:
    """What a phase would write into the audit log."""

    entries: list[tuple[str, Mapping[str, str | int]]] = field(default_factory=list)

    async def __call__(self, what: str, facts: Mapping[str, str | int]) -> None:
        self.entries.append((what, facts))

    @property
    def words(self) -> list[str]:
        return [what for what, _ in self.entries]


@dataclass(frozen=True, slots=True)
class Phase:
    platform: PlatformClient
    leases: LeasedBearer
    notes: Notes


def vault_of(leased: Any, role: str = "recovery-flows") -> VaultClient:
    login = leased.bao.contents.issue(role)
    return VaultClient(
        leased.bao.address, role_id=login.role_id, secret_id=SecretStr(login.secret_id)
    )


def block_of(leased: Any) -> PlatformAdmin:
    return PlatformAdmin(
        address=leased.address, lease_path=ADMIN_LEASE, reader_lease_path=READER_LEASE
    )


@contextlib.asynccontextmanager
async def phase(leased: Any, rights: Rights, vault: VaultClient) -> AsyncIterator[Phase]:
    """As `tasks.case.open_case` opens the platform."""
    block, notes = block_of(leased), Notes()
    terms = block.lease_terms(rights)
    assert terms is not None
    async with (
        LeasedBearer(vault, terms, notes) as leases,
        block.get_client(None, leases) as platform,
    ):
        yield Phase(platform, leases, notes)


@pytest.fixture
async def vault(leased_platform: Any) -> AsyncIterator[VaultClient]:
    async with vault_of(leased_platform) as client:
        yield client


@pytest.fixture
def root(bao: Any) -> Iterator[hvac.Client]:
    client = bao.server.root()
    with closing(client.adapter):
        yield client


def some_account(leased: Any) -> str:
    return next(iter(leased.state.accounts))


async def until(true: Any, limit: float = 15.0) -> None:
    ends = time.monotonic() + limit
    while not true():
        assert time.monotonic() < ends, "it did not come about in time"
        await asyncio.sleep(0.05)


async def test_a_credential_lives_from_the_first_request_to_the_end_of_the_phase(
    leased_platform: Any, vault: VaultClient
) -> None:
    broker = leased_platform.state.broker
    async with phase(leased_platform, Rights.ACT, vault) as acting:
        assert broker.made == [], "nothing is leased by opening"
        await acting.platform.check()
        assert len(broker.living(Scope.ADMIN)) == 1
        await acting.platform.revoke(some_account(leased_platform), CredentialKind.SESSIONS)
        await asyncio.gather(*(acting.platform.check() for _ in range(20)))
        assert len(broker.made) == 1
        assert acting.notes.words == ["taken"]
    assert broker.living(Scope.ADMIN) == []
    assert acting.notes.words == ["taken", "revoked"]
    assert leased_platform.state.all_effects()["sessions.delete"] == 1


async def test_a_reader_can_not_act(leased_platform: Any, vault: VaultClient) -> None:
    async with phase(leased_platform, Rights.READ, vault) as reading:
        await reading.platform.check()
        account = some_account(leased_platform)
        assert await reading.platform.live(account)
        await reading.platform.roster([account])
        for client in await reading.platform.app_clients():
            await reading.platform.client_secrets(client.client_id)
        with pytest.raises(Misconfigured, match="insufficient_scope"):
            await reading.platform.revoke(account, CredentialKind.SESSIONS)
        with pytest.raises(Misconfigured, match="insufficient_scope"):
            await reading.platform.force_password_reset(account)
        assert leased_platform.state.broker.living(Scope.ADMIN) == []
    assert leased_platform.state.broker.living(Scope.READ) == []


async def test_an_error_and_a_cancelled_run_give_it_back(
    leased_platform: Any, vault: VaultClient
) -> None:
    broker = leased_platform.state.broker

    async def fail() -> None:
        async with phase(leased_platform, Rights.ACT, vault) as acting:
            await acting.platform.check()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert broker.living(Scope.ADMIN) == []

    begun = asyncio.Event()

    async def run() -> None:
        async with phase(leased_platform, Rights.ACT, vault) as acting:
            await acting.platform.check()
            begun.set()
            await asyncio.sleep(60)

    running = asyncio.create_task(run())
    await begun.wait()
    assert len(broker.living(Scope.ADMIN)) == 1
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: broker.living(Scope.ADMIN) == [])


async def test_it_is_renewed_while_the_phase_waits(
    leased_platform: Any, vault: VaultClient
) -> None:
    leased_platform.bao.contents.set_lease_times(SHORT, LONG)
    async with phase(leased_platform, Rights.ACT, vault) as acting:
        await acting.platform.check()
        await asyncio.sleep(SHORT.total_seconds() * 2)
        await acting.platform.check()
        assert len(leased_platform.state.broker.made) == 1
    assert acting.notes.words == ["taken", "revoked"]


async def test_what_can_not_be_renewed_any_more_is_replaced_before_it_ends(
    leased_platform: Any, vault: VaultClient
) -> None:
    leased_platform.bao.contents.set_lease_times(SHORT, timedelta(seconds=4))
    async with phase(leased_platform, Rights.ACT, vault) as acting:
        ends = time.monotonic() + 7
        while time.monotonic() < ends:
            await acting.platform.check()
            await asyncio.sleep(0.1)
        assert len(leased_platform.state.broker.living(Scope.ADMIN)) == 1
    assert 2 <= len(leased_platform.state.broker.made) <= 5
    assert leased_platform.state.broker.living(Scope.ADMIN) == []
    assert acting.notes.words.count("taken") == len(leased_platform.state.broker.made)


async def test_a_credential_that_dies_on_the_way_is_taken_anew(
    leased_platform: Any, vault: VaultClient
) -> None:
    async with phase(leased_platform, Rights.ACT, vault) as acting:
        await acting.platform.check()
        await asyncio.to_thread(leased_platform.bao.contents.end_leases)
        accounts = list(leased_platform.state.accounts)[:10]
        kind = CredentialKind.REFRESH_TOKENS
        await asyncio.gather(*(acting.platform.revoke(a, kind) for a in accounts))
        assert len(leased_platform.state.broker.made) == 2, "one for all who were refused"
        client = (await acting.platform.app_clients())[0].client_id
        await asyncio.to_thread(leased_platform.bao.contents.end_leases)
        await acting.platform.create_secret(client, "INC-A")
    assert leased_platform.state.all_effects()["secrets.create"] == 1
    assert leased_platform.state.broker.living(Scope.ADMIN) == []


async def test_a_platform_that_refuses_a_living_lease_is_tried_once_more(
    leased_platform: Any, vault: VaultClient
) -> None:
    """It forgot the user, which Vault does not know: one fresh lease, then its word stands."""
    state = leased_platform.state
    async with phase(leased_platform, Rights.ACT, vault) as acting:
        await acting.platform.check()
        state.admin.withdraw(state.broker.living(Scope.ADMIN)[0])
        await acting.platform.check()
        assert len(state.broker.made) == 2
        for token in state.broker.living(Scope.ADMIN):
            state.admin.withdraw(token)
        for _ in range(3):
            with pytest.raises(Misconfigured, match="admin token"):
                await acting.platform.check()
        assert len(state.broker.made) == 2


@pytest.mark.parametrize(
    ("path", "got", "advice"),
    [
        ("platform/creds/not-granted", "a refusal by Vault's policy", "Add this path"),
        ("secret/data/recovery/probe-accounts", "an answer without it", "lease_path"),
    ],
)
async def test_a_denied_lease_is_a_clear_stop(
    leased_platform: Any, vault: VaultClient, path: str, got: str, advice: str
) -> None:
    leased_platform.bao.contents.put("recovery/probe-accounts", {"password": "not-a-lease"})
    notes = Notes()
    block = block_of(leased_platform)
    async with (
        LeasedBearer(vault, LeaseTerms(path, "password", "act"), notes) as leases,
        block.get_client(None, leases) as platform,
    ):
        with pytest.raises(Misconfigured) as caught:
            await platform.check()
    assert caught.value.subject == path
    assert caught.value.got == got
    assert advice in caught.value.advice
    assert notes.entries == []
    assert leased_platform.state.broker.made == []


async def test_a_field_that_the_engine_does_not_give(
    leased_platform: Any, vault: VaultClient
) -> None:
    with pytest.raises(Misconfigured, match="a lease with the field token"):
        await vault.take_lease(ADMIN_LEASE, "token")
    with pytest.raises(Misconfigured, match="the engine to make a credential"):
        async with VaultClient(
            leased_platform.bao.address, token=SecretStr(leased_platform.bao.server.root_token)
        ) as root:
            await root.take_lease("platform/creds/no-such-role", "password")


async def test_a_sealed_vault_at_the_end_leaves_the_lease_to_its_time(
    leased_platform: Any, vault: VaultClient, caplog: pytest.LogCaptureFixture
) -> None:
    leased_platform.bao.contents.set_lease_times(SHORT, LONG)
    server = leased_platform.bao.server
    async with phase(leased_platform, Rights.ACT, vault) as acting:
        await acting.platform.check()
        await asyncio.to_thread(server.seal)
    assert acting.notes.words == ["taken", "left"]
    assert "ends by itself" in caplog.text
    await asyncio.to_thread(server.unseal)
    await until(lambda: leased_platform.state.broker.living(Scope.ADMIN) == [])


async def test_a_sealed_vault_takes_nothing(leased_platform: Any, vault: VaultClient) -> None:
    server = leased_platform.bao.server
    await asyncio.to_thread(server.seal)
    try:
        async with phase(leased_platform, Rights.ACT, vault) as acting:
            with pytest.raises(Unreachable, match="unseal it"):
                await acting.platform.check()
    finally:
        await asyncio.to_thread(server.unseal)
    assert acting.notes.entries == []


CRASHING = """
import asyncio, os, sys
from pydantic import SecretStr
from clients.leases import LeasedBearer, LeaseTerms
from clients.vault import VaultClient

async def note(what, facts): pass

async def main():
    address, role_id, secret_id, path = sys.stdin.read().split()
    vault = VaultClient(address, role_id=role_id, secret_id=SecretStr(secret_id))
    leases = LeasedBearer(vault, LeaseTerms(path, "password", "act"), note)
    await leases.bearer()
    print("taken", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_after_a_crash_it_dies_by_itself(leased_platform: Any) -> None:
    leased_platform.bao.contents.set_lease_times(SHORT, LONG)
    login = leased_platform.bao.contents.issue("recovery-flows")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CRASHING,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    given = (leased_platform.bao.address, login.role_id, login.secret_id, ADMIN_LEASE)
    process.stdin.write(" ".join(given).encode())
    process.stdin.close()
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"taken\n"
        (token,) = leased_platform.state.broker.living(Scope.ADMIN)
        await asyncio.sleep(SHORT.total_seconds() * 1.5)
        assert leased_platform.state.broker.living(Scope.ADMIN) == [token], "it keeps its lease"
    finally:
        process.kill()
        await process.wait()
    await until(lambda: leased_platform.state.broker.living(Scope.ADMIN) == [])


async def test_the_audit_log_knows_every_lease_and_no_credential(
    leased_platform: Any, vault: VaultClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    clock = leased_platform.state.clock.now
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", key=b"k" * 32, clock=clock)
    with closing(ledger):
        await asyncio.to_thread(ledger.migrate)
        block, log = block_of(leased_platform), LeaseLog(ledger, "INC-2026-0142")
        terms = block.lease_terms(Rights.ACT)
        assert terms is not None
        async with (
            LeasedBearer(vault, terms, log) as leases,
            block.get_client(None, leases) as platform,
        ):
            await platform.check()
            # The incident is opened after the first look at the platform.
            now = ledger.now()
            ledger.open_incident(
                "INC-2026-0142",
                window_start=now,
                window_end=now,
                runbook_digest="d" * 64,
                runbook_commit="unversioned",
                requested_by="oscar",
            )
        entries = [e for e in ledger.audit("INC-2026-0142") if e.event.startswith("platform")]
        assert [e.event for e in entries] == ["platform.lease.taken", "platform.lease.revoked"]
        assert len({e.facts["lease"] for e in entries}) == 1
        assert entries[0].facts["path"] == ADMIN_LEASE
        assert entries[0].facts["purpose"] == "act"
        assert entries[0].facts["ttl_seconds"] == 120
        ledger.verify_audit()
        written = (tmp_path / "ledger.db").read_bytes() + repr(entries).encode()
    ((_, token),) = leased_platform.state.broker.made
    assert token.encode() not in written
    assert token not in caplog.text
    assert token not in repr((leases, platform))


def test_a_block_has_one_credential_for_each_right() -> None:
    static = PlatformAdmin(address="https://x.example", token="t")
    assert static.lease_terms(Rights.ACT) is None
    assert static.lease_terms(Rights.READ) is None
    mixed = PlatformAdmin(address="https://x.example", token="reader", lease_path=ADMIN_LEASE)
    assert mixed.lease_terms(Rights.READ) is None
    assert mixed.lease_terms(Rights.ACT) == LeaseTerms(ADMIN_LEASE, "password", "act")
    for wrong in (
        {},
        {"lease_path": "a/b"},
        {"reader_lease_path": "a/b"},
        {"token": "t", "reader_lease_path": "a/b"},
        {"token": "t", "lease_path": "a/b", "reader_lease_path": "c/d"},
    ):
        with pytest.raises(ValueError, match="give either"):
            PlatformAdmin(address="https://x.example", **wrong)
