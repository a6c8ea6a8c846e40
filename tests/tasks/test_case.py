"""`open_case` on a real Prefect server, a real Vault and the rehearsal's platform: which store
holds client secrets, and which credential a phase works with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.testing.utilities import prefect_test_harness
from pydantic import SecretStr

import blocks
from clients.aws_secrets import AwsSecretsClient
from clients.vault import VaultClient
from flows.setup import set_up
from recovery.errors import Misconfigured
from recovery.policy import load_policy
from rehearsal.world.openbao_contents import ADMIN_LEASE, READER_LEASE
from rehearsal.world.platform_quota import Scope
from tasks.case import ROOT, Rights, open_case, preflight
from tests.flows.rehearsed import RUNBOOKS, runbook_file

INCIDENT = "INC-2026-0142"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
async def filled(prefect: None, leased_platform: Any, tmp_path: Path) -> Any:
    """Every block document that the rehearsal's runbook names; those not asked lead nowhere."""
    login = leased_platform.bao.contents.issue("recovery-flows")
    documents = [
        blocks.RecoveryLedger(url=f"sqlite:///{tmp_path}/ledger.db", key="k" * 32),
        blocks.ElasticsearchSiem(address=NOWHERE, api_key="k"),
        blocks.PlatformAdmin(
            address=leased_platform.address,
            lease_path=ADMIN_LEASE,
            reader_lease_path=READER_LEASE,
        ),
        blocks.OAuthApp(address=leased_platform.address),
        blocks.VaultSecrets(
            address=leased_platform.bao.address,
            role_id=login.role_id,
            secret_id=login.secret_id,
        ),
        blocks.AwsSecrets(
            region="eu-central-1", endpoint=NOWHERE, access_key_id="k", secret_access_key="s"
        ),
        blocks.JenkinsCi(address=NOWHERE, user="u", api_token="t"),
        blocks.GitHubActionsCi(address=NOWHERE, repository="a/b", token="t"),
        blocks.KubernetesCi(address=NOWHERE, token="t"),
        blocks.CheckpointFolder(folder=str(tmp_path / "checkpoints")),
        blocks.SendGridEmail(
            address=NOWHERE, api_key="k", sender_email="a@x.example", sender_name="A"
        ),
        blocks.TwilioSms(address=NOWHERE, account_sid="AC1", secret="s", from_number="+15550100"),
        blocks.EnrollmentPortal(address=NOWHERE, issuer="i", code_key="c"),
    ]
    for document in documents:
        await document.save("main", overwrite=True)  # type: ignore[attr-defined]
    policy, _ = load_policy(RUNBOOKS / "rehearsal.yaml")
    await set_up(policy)
    return leased_platform


@pytest.fixture
def runbook() -> dict[str, Any]:
    text = (ROOT / "runbooks" / "rehearsal.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


async def test_client_secrets_live_with_the_others_unless_told(
    filled: Any, runbook: dict[str, Any]
) -> None:
    with runbook_file(runbook) as name:
        async with open_case(INCIDENT, name) as case:
            assert case.client_secrets is case.secrets
    elsewhere = {**runbook, "systems": {"client_secrets": "aws-secrets/main"}}
    with runbook_file(elsewhere) as name:
        async with open_case(INCIDENT, name) as case:
            assert isinstance(case.client_secrets, AwsSecretsClient)
            assert isinstance(case.secrets, VaultClient)
            assert case.courier._store is case.client_secrets
    for wrong in ("sendgrid/main", "jenkins-ci/main", "aws-secrets/other"):
        wrongly = {**runbook, "systems": {"client_secrets": wrong}}
        with runbook_file(wrongly) as name, pytest.raises(Misconfigured, match="Load a block"):
            async with open_case(INCIDENT, name):
                pass


async def test_a_phase_gets_the_credential_that_it_needs(
    filled: Any, runbook: dict[str, Any]
) -> None:
    broker = filled.state.broker
    with runbook_file(runbook) as name:
        async with open_case(INCIDENT, name) as case:
            assert broker.made == []
            await preflight(case)
            assert [scope for scope, _ in broker.made] == [Scope.READ]
            async with open_case(INCIDENT, name, rights=Rights.ACT) as acting:
                await preflight(acting)
                assert len(broker.living(Scope.ADMIN)) == 1
            assert broker.living(Scope.ADMIN) == []
            assert len(broker.living(Scope.READ)) == 1
        assert broker.living(Scope.READ) == []


async def test_a_denied_lease_stops_the_phase_before_its_first_act(
    filled: Any, runbook: dict[str, Any]
) -> None:
    """The policy for the portal's configuration knows nothing of the platform's credentials."""
    login = filled.bao.contents.issue("portal-config")
    narrow = blocks.VaultSecrets(
        address=filled.bao.address,
        role_id=login.role_id,
        secret_id=SecretStr(login.secret_id),
    )
    await narrow.save("narrow", overwrite=True)
    changed = {**runbook, "systems": {"secrets": "vault-secrets/narrow"}}
    with runbook_file(changed) as name:
        async with open_case(INCIDENT, name, rights=Rights.ACT) as case:
            with pytest.raises(Misconfigured) as caught:
                await preflight(case)
    assert caught.value.subject == ADMIN_LEASE
    assert f"the capability `read` on {ADMIN_LEASE}" in str(caught.value)
    assert filled.state.broker.made == []
