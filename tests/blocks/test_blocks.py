"""Blocks as Prefect and an operator see them, and the clients they make."""

import inspect
from typing import Any, get_type_hints

import pytest
from prefect.blocks import notifications, system, webhook
from prefect.blocks.core import Block
from pydantic import SecretStr, ValidationError

from blocks.aws import AwsSecrets
from blocks.azure import AzureKeyVault
from blocks.base import (
    CiBlock,
    ClientSecretsBlock,
    EmailBlock,
    PlatformBlock,
    SecretsBlock,
    SiemBlock,
    SmsBlock,
    client_cert,
)
from blocks.email import SendGridEmail
from blocks.github import GitHubActionsCi
from blocks.gitlab import GitLabCi
from blocks.jenkins import JenkinsCi
from blocks.kubernetes import KubernetesCi
from blocks.oauth import OAuthApp
from blocks.platform import PlatformAdmin
from blocks.portal import EnrollmentPortal
from blocks.siem import ElasticsearchSiem
from blocks.sms import TwilioSms
from blocks.vault import VaultSecrets
from blocks.webhook_ci import WebhookCi
from clients.vault_login import SERVICE_ACCOUNT_FILE
from recovery.errors import Misconfigured

SECRET = "s3cr3t-value-of-a-test"

# class -> (slug, kind, the least an operator has to fill in)
BLOCKS: dict[type[Block], tuple[str, type[Block], dict[str, Any]]] = {
    ElasticsearchSiem: (
        "elasticsearch-siem",
        SiemBlock,
        {"address": "https://siem.example:9200", "api_key": SECRET},
    ),
    PlatformAdmin: (
        "platform-admin",
        PlatformBlock,
        {"address": "https://api.example", "token": SECRET},
    ),
    OAuthApp: ("oauth-client", Block, {"address": "https://login.example"}),
    VaultSecrets: (
        "vault-secrets",
        SecretsBlock,
        {"address": "https://vault.example:8200", "role_id": "r", "secret_id": SECRET},
    ),
    AwsSecrets: (
        "aws-secrets",
        ClientSecretsBlock,
        {"region": "eu-central-1", "access_key_id": "k", "secret_access_key": SECRET},
    ),
    AzureKeyVault: (
        "azure-key-vault",
        ClientSecretsBlock,
        {
            "address": "https://recovery.vault.azure.net",
            "tenant_id": "t",
            "client_id": "c",
            "client_secret": SECRET,
        },
    ),
    JenkinsCi: (
        "jenkins-ci",
        CiBlock,
        {"address": "https://ci.example", "user": "bot", "api_token": SECRET},
    ),
    GitHubActionsCi: (
        "github-actions-ci",
        CiBlock,
        {"repository": "acme/restarts", "token": SECRET},
    ),
    GitLabCi: ("gitlab-ci", CiBlock, {"token": SECRET}),
    WebhookCi: ("webhook-ci", CiBlock, {"address": "https://hooks.example", "secret": SECRET}),
    KubernetesCi: (
        "kubernetes-ci",
        CiBlock,
        {"address": "https://cluster.example:6443", "token": SECRET, "ca_file": None},
    ),
    SendGridEmail: (
        "recovery-sendgrid",
        EmailBlock,
        {"api_key": SECRET, "sender_email": "a@x.example", "sender_name": "Acme"},
    ),
    TwilioSms: (
        "recovery-twilio",
        SmsBlock,
        {"account_sid": "AC1", "secret": SECRET, "from_number": "+15550100"},
    ),
}

every_block = pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.__name__)


@every_block
def test_every_field_is_described_by_a_sentence(block: type[Block]) -> None:
    fields = [f for name, f in block.model_fields.items() if not name.startswith("_")]
    assert len(fields) >= 5
    for field in fields:
        assert field.description, f"{block.__name__}: a field without a description"
        assert field.description.endswith("."), field.description


@every_block
def test_what_the_catalogue_shows(block: type[Block]) -> None:
    slug, kind, _ = BLOCKS[block]
    assert block._block_type_slug == slug
    assert issubclass(block, kind)
    assert block._block_type_name
    assert block._description
    assert block._description.endswith(".")
    assert "get_client" in (block._code_example or "")
    assert f"{block.__name__}.aload" in (block._code_example or "")
    shown = block._to_block_type()
    assert shown.slug == slug
    assert shown.logo_url is None


def test_prefects_own_block_types_are_left_alone() -> None:
    """Prefect ships `sendgrid-email` and `twilio-sms`, and protects them: a block type of ours
    with such a slug can't be registered."""
    theirs = {
        kind.get_block_type_slug()
        for module in (notifications, system, webhook)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Block)
    }
    assert {"sendgrid-email", "twilio-sms"} <= theirs
    assert not theirs & {slug for slug, _, _ in BLOCKS.values()}


@every_block
def test_the_same_tls_fields_everywhere(block: type[Block]) -> None:
    assert list(block.model_fields)[-3:] == ["ca_file", "client_cert_file", "client_key_file"]
    assert "allow_cleartext" in block.model_fields


@every_block
def test_secrets_are_hidden(block: type[Block]) -> None:
    given = BLOCKS[block][2]
    made = block(**given)
    secret_fields = block.model_json_schema()["secret_fields"]
    assert secret_fields == sorted(
        (n for n, f in block.model_fields.items() if "SecretStr" in str(f.annotation)),
        key=secret_fields.index,
    )
    assert bool(secret_fields) == (SECRET in given.values())
    for shown in (repr(made), str(made), str(made.model_dump()), made.model_dump_json()):
        assert SECRET not in shown


@every_block
async def test_get_client_is_silent_and_closes(block: type[Block]) -> None:
    made: Any = block(**BLOCKS[block][2])
    async with made.get_client() as client:
        assert SECRET not in repr(client)
    parameters = inspect.signature(block.get_client).parameters  # type: ignore[attr-defined]
    assert all(p.default is not p.empty for n, p in parameters.items() if n != "self")


@pytest.mark.parametrize(
    "base", [SiemBlock, PlatformBlock, SecretsBlock, CiBlock, EmailBlock, SmsBlock]
)
def test_a_kind_alone_makes_no_client(base: type[Block]) -> None:
    assert inspect.isabstract(base)
    with pytest.raises(TypeError):
        base()


async def test_a_pace_is_handed_to_the_wire() -> None:
    class Full(Exception):
        pass

    async def pace() -> None:
        raise Full

    platform = PlatformAdmin(address="http://127.0.0.1:9", token=SECRET)
    async with platform.get_client(pace) as client:
        with pytest.raises(Full):
            await client.check()


@pytest.mark.parametrize(
    ("block", "wrong"),
    [
        (ElasticsearchSiem, {"address": "https://x"}),
        (ElasticsearchSiem, {"address": "https://x", "api_key": "k", "user": "u", "password": "p"}),
        (PlatformAdmin, {"address": "https://x", "token": "t", "paths": {"nothing": "/x"}}),
        (PlatformAdmin, {"address": "https://x", "token": "t", "paths": {"sessions": "/x"}}),
        (VaultSecrets, {"address": "https://x", "jwt_role": "r"}),
        (VaultSecrets, {"address": "https://x", "token": "t", "kubernetes_role": "r"}),
        (VaultSecrets, {"address": "https://x", "jwt_role": "r", "jwt_file": "f", "token": "t"}),
        (SendGridEmail, {"api_key": "k", "sender_email": "Acme <a@x>", "sender_name": "Acme"}),
        (TwilioSms, {"account_sid": "AC1", "secret": "s"}),
        (TwilioSms, {"account_sid": "SK1", "secret": "s", "from_number": "+1555"}),
        (OAuthApp, {"address": "https://x", "token_path": "oauth/token"}),
        (GitHubActionsCi, {"repository": "acme/restarts"}),
        (GitHubActionsCi, {"repository": "restarts", "token": "t"}),
        (GitHubActionsCi, {"repository": "acme/restarts", "token": "t", "app_id": "1"}),
        (GitHubActionsCi, {"repository": "acme/restarts", "app_id": "1", "installation_id": "2"}),
        (WebhookCi, {"address": "https://x", "secret": "short"}),
        (WebhookCi, {"address": "https://x", "secret": SECRET, "path": "jobs"}),
        (KubernetesCi, {"namespace": "Not/One"}),
    ],
)
def test_what_cannot_work_is_refused_at_the_door(block: type[Block], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        block(**wrong)


def test_clear_text_to_another_machine_is_asked_for() -> None:
    with pytest.raises(Misconfigured):
        PlatformAdmin(address="http://api.example", token=SECRET).get_client()
    PlatformAdmin(address="http://api.mesh", token=SECRET, allow_cleartext=True).get_client()


def test_presets_come_from_the_runbook() -> None:
    siem = ElasticsearchSiem(address="https://x.example", api_key=SECRET, ecs_actions=["x"])
    assert siem.get_client(presets=["entra", "ecs"])
    with pytest.raises(Misconfigured):
        siem.get_client(presets=["splunk"])


def test_client_certificates() -> None:
    assert client_cert(None, "key.pem") is None
    assert client_cert("cert.pem", None) == ("cert.pem", None)
    assert client_cert("cert.pem", "key.pem") == ("cert.pem", "key.pem")


def test_the_kinds_promise_what_their_clients_keep() -> None:
    """A wider signature in a product than in its kind would break whoever asks for the kind."""
    for block, (_, kind, _) in BLOCKS.items():
        if kind is Block:
            continue
        product = inspect.signature(block.get_client).parameters  # type: ignore[attr-defined]
        promised = inspect.signature(kind.get_client).parameters  # type: ignore[attr-defined]
        assert list(product) == list(promised), block


@pytest.mark.parametrize(
    ("given", "method", "file", "mount"),
    [
        ({"jwt_role": "r", "jwt_file": "/run/token"}, "jwt", "/run/token", "jwt"),
        ({"kubernetes_role": "r"}, "kubernetes", SERVICE_ACCOUNT_FILE, "kubernetes"),
        ({"kubernetes_role": "r", "kubernetes_mount": "k8s"}, "kubernetes", None, "k8s"),
    ],
)
def test_vaults_token_files(
    given: dict[str, Any], method: str, file: str | None, mount: str
) -> None:
    made = VaultSecrets(address="https://vault.example", **given)
    way = made._token_file()
    assert way is not None
    assert (way.method, way.role, way.mount) == (method, "r", mount)
    assert file is None or way.path == file
    assert made.get_client()


def test_secret_fields_are_secret_strings() -> None:
    for block in BLOCKS:
        hints = get_type_hints(block, include_extras=False)
        for name in ("api_key", "token", "secret", "password", "api_token", "secret_id"):
            if name in block.model_fields:
                assert SecretStr in (hints[name], *getattr(hints[name], "__args__", ())), name


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("https://accounts.example.com", "https://accounts.example.com"),
        ("https://accounts.example.com/", "https://accounts.example.com"),
        (" https://Accounts.Example.com:443/ ", "https://accounts.example.com"),
        ("http://localhost:8080/", "http://localhost:8080"),
        ("http://accounts.example.com", ""),
        ("https://accounts.example.com/enroll", ""),
        ("https://accounts.example.com/?a=1", ""),
        ("https://me@accounts.example.com", ""),
        ("accounts.example.com", ""),
        ("https://", ""),
    ],
)
def test_the_portals_address_is_the_audience_letter_by_letter(typed: str, kept: str) -> None:
    given = {"address": typed, "issuer": "https://recovery.example.com", "code_key": "k" * 32}
    if not kept:
        with pytest.raises(ValidationError):
            EnrollmentPortal(**given)
        return
    portal = EnrollmentPortal(**given)
    assert portal.address == portal.parties.audience == kept
