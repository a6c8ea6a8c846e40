"""The ways into Vault at a real OpenBao: AppRole, a token, a projected JWT, a Kubernetes service
account whose token a small API server reviews; in a namespace; and what ends a login."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hvac
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clients.vault import VaultClient
from clients.vault_login import TokenFile
from recovery.errors import Misconfigured, Unverified
from rehearsal.world.serving import Loopback

AUDIENCE = "vault.recovery.example"
SUBJECT = "system:serviceaccount:recovery:worker"


@dataclass(slots=True)
class TokenIssuer:
    """A cluster's key, and tokens as its kubelet projects them."""

    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def public_pem(self) -> str:
        encoding = serialization.Encoding.PEM
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(encoding, form).decode()

    def token(self, *, audience: str = AUDIENCE, subject: str = SUBJECT, lifetime: int = 60) -> str:
        now = int(time.time())
        _, _, namespace, account = subject.split(":")
        claims = {
            "iss": "https://kubernetes.default.svc",
            "aud": [audience],
            "sub": subject,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "jti": secrets.token_hex(4),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": account, "uid": f"uid-{account}"},
            },
        }
        return jwt.encode(claims, self.key, algorithm="ES256")


class KubernetesApi:
    """The one call of the API server that Vault makes: a TokenReview (authentication.k8s.io/v1)."""

    def __init__(self, issuer: TokenIssuer) -> None:
        self._issuer = issuer
        self.reviewer = issuer.token(subject="system:serviceaccount:vault:reviewer", lifetime=600)
        self.revoked: set[str] = set()
        self.reviews = 0
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        self.app = Starlette(routes=[Route(path, self._review, methods=["POST"])])

    async def _review(self, request: Request) -> Response:
        self.reviews += 1
        if request.headers.get("authorization") != f"Bearer {self.reviewer}":
            return JSONResponse({"kind": "Status", "status": "Failure", "code": 401}, 401)
        asked = json.loads(await request.body())
        token, audiences = asked["spec"]["token"], asked["spec"].get("audiences")
        status: dict[str, Any] = {"authenticated": False, "error": "invalid token"}
        try:
            claims = jwt.decode(
                token,
                self._issuer.public_pem,
                algorithms=["ES256"],
                audience=audiences or [AUDIENCE],
            )
        except jwt.InvalidTokenError:
            claims = None
        if claims is not None and token not in self.revoked:
            _, _, namespace, account = claims["sub"].split(":")
            uid = claims["kubernetes.io"]["serviceaccount"]["uid"]
            assert claims["sub"].endswith(f"{namespace}:{account}")
            status = {
                "authenticated": True,
                "user": {
                    "username": claims["sub"],
                    "uid": uid,
                    "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"],
                },
                "audiences": claims["aud"],
            }
        return JSONResponse(
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": asked["spec"],
                "status": status,
            },
            201,
        )


@pytest.fixture
def issuer() -> TokenIssuer:
    return TokenIssuer()


@pytest.fixture
def root(bao: Any) -> Iterator[hvac.Client]:
    client = bao.server.root()
    with closing(client.adapter):
        yield client


@pytest.fixture
def app_path(bao: Any) -> str:
    client_id = f"app-{secrets.token_hex(4)}"
    bao.contents.put_client(client_id, "s1", "value", owner="team", consumers=["a"])
    return f"apps/{client_id}"


# A projected token (auth/jwt).


@pytest.fixture
def jwt_mount(root: hvac.Client, issuer: TokenIssuer) -> Iterator[str]:
    mount = f"jwt-{secrets.token_hex(3)}"
    root.sys.enable_auth_method("jwt", path=mount)
    root.write_data(f"auth/{mount}/config", data={"jwt_validation_pubkeys": [issuer.public_pem]})
    root.write_data(
        f"auth/{mount}/role/worker",
        data={
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": [AUDIENCE],
            "bound_subject": SUBJECT,
            "token_policies": ["recovery-flows"],
            "token_no_default_policy": True,
            "token_ttl": 2,
            "token_max_ttl": 3,
        },
    )
    yield mount
    root.sys.disable_auth_method(mount)


def by_file(bao: Any, file: Path, mount: str, method: str = "jwt") -> VaultClient:
    way = TokenFile(method, "worker", str(file), mount)
    return VaultClient(bao.address, token_file=way)


async def test_a_projected_token_logs_in_again_with_its_successor(
    bao: Any, jwt_mount: str, issuer: TokenIssuer, tmp_path: Path, app_path: str
) -> None:
    """Vault's token lives three seconds at most here: a long run renews it and then logs in anew,
    with the token that stands in the file by then."""
    file = tmp_path / "token"
    file.write_text(issuer.token(lifetime=2) + "\n")
    async with by_file(bao, file, jwt_mount) as vault:
        await vault.check()
        file.write_text(issuer.token())
        ends = time.monotonic() + 5
        while time.monotonic() < ends:
            assert (await vault.observe(app_path)).current_id == "s1"
            await asyncio.sleep(0.25)


@pytest.mark.parametrize(
    "wrong",
    [{"audience": "somebody-else"}, {"subject": "system:serviceaccount:other:worker"}],
    ids=["audience", "subject"],
)
async def test_a_projected_token_that_the_role_is_not_for(
    bao: Any, jwt_mount: str, issuer: TokenIssuer, tmp_path: Path, wrong: dict[str, str]
) -> None:
    file = tmp_path / "token"
    token = issuer.token(**wrong)
    file.write_text(token)
    async with by_file(bao, file, jwt_mount) as vault:
        with pytest.raises(Misconfigured, match="audience, subject and lifetime") as caught:
            await vault.check()
    assert token not in str(caught.value)


async def test_a_projected_token_of_another_key_or_none_at_all(
    bao: Any, jwt_mount: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    async with by_file(bao, file, jwt_mount) as vault:
        with pytest.raises(Misconfigured, match="Mount the token"):
            await vault.check()
        file.write_text("\n")
        with pytest.raises(Misconfigured, match="Mount the token"):
            await vault.check()
        file.write_text(TokenIssuer().token())
        with pytest.raises(Misconfigured, match="a refusal"):
            await vault.check()


# A Kubernetes service account.


@pytest.fixture
async def kubernetes(
    root: hvac.Client, issuer: TokenIssuer
) -> AsyncIterator[tuple[str, KubernetesApi]]:
    api, mount = KubernetesApi(issuer), f"k8s-{secrets.token_hex(3)}"
    async with Loopback(api.app) as server:

        def configure() -> None:
            root.sys.enable_auth_method("kubernetes", path=mount)
            root.write_data(
                f"auth/{mount}/config",
                data={
                    "kubernetes_host": server.url,
                    "token_reviewer_jwt": api.reviewer,
                    # Asked for in any case, and not used over plain http.
                    "kubernetes_ca_cert": _some_authority(),
                    "disable_local_ca_jwt": True,
                },
            )
            root.write_data(
                f"auth/{mount}/role/worker",
                data={
                    "bound_service_account_names": ["worker"],
                    "bound_service_account_namespaces": ["recovery"],
                    "audience": AUDIENCE,
                    "token_policies": ["recovery-flows"],
                    "token_no_default_policy": True,
                    "token_ttl": 60,
                },
            )

        await asyncio.to_thread(configure)
        yield mount, api
        await asyncio.to_thread(root.sys.disable_auth_method, mount)


def _some_authority() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    signed = built.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


async def test_a_service_account_logs_in(
    bao: Any,
    kubernetes: tuple[str, KubernetesApi],
    issuer: TokenIssuer,
    tmp_path: Path,
    app_path: str,
) -> None:
    mount, api = kubernetes
    file = tmp_path / "token"
    file.write_text(issuer.token())
    async with by_file(bao, file, mount, "kubernetes") as vault:
        assert (await vault.observe(app_path)).current_id == "s1"
        await vault.check()
    assert api.reviews == 1


async def test_a_service_account_that_the_cluster_or_the_role_does_not_know(
    bao: Any, kubernetes: tuple[str, KubernetesApi], issuer: TokenIssuer, tmp_path: Path
) -> None:
    mount, api = kubernetes
    deleted = issuer.token()
    api.revoked.add(deleted)
    file = tmp_path / "token"
    for token in (deleted, issuer.token(subject="system:serviceaccount:recovery:other")):
        file.write_text(token)
        async with by_file(bao, file, mount, "kubernetes") as vault:
            with pytest.raises(Misconfigured, match=r"token file \(kubernetes\)"):
                await vault.check()


# Namespaces.


@pytest.fixture
def namespace(bao: Any, root: hvac.Client) -> Iterator[str]:
    name = f"team-{secrets.token_hex(3)}"
    root.sys.create_namespace(name)
    yield name
    root.sys.delete_namespace(name)


async def test_everything_happens_inside_the_namespace(
    bao: Any, root: hvac.Client, namespace: str, app_path: str
) -> None:
    inside = hvac.Client(url=bao.address, token=bao.server.root_token, namespace=namespace)
    with closing(inside.adapter):
        inside.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
        inside.sys.enable_auth_method("approle")
        flows = (Path("docs") / "vault" / "recovery-flows.hcl").read_text()
        inside.sys.create_or_update_policy("recovery-flows", flows)
        inside.write_data(
            "auth/approle/role/recovery-flows", data={"token_policies": ["recovery-flows"]}
        )
        approle = inside.auth.approle
        role_id = approle.read_role_id("recovery-flows")["data"]["role_id"]
        secret_id = approle.generate_secret_id("recovery-flows")["data"]["secret_id"]
        login: dict[str, Any] = {"role_id": role_id, "secret_id": SecretStr(secret_id)}
        async with VaultClient(bao.address, namespace=namespace, **login) as vault:
            assert (await vault.observe(app_path)).current_id is None, "the root's is another one"
            await vault.put(app_path, {"client_secret": "inside", "secret_id": "n1"}, cas=0)
            assert (await vault.observe(app_path)).current_id == "n1"
        assert bao.contents.read(app_path)["secret_id"] == "s1"
        async with VaultClient(bao.address, **login) as outside:
            with pytest.raises(Misconfigured, match="Issue a new secret id"):
                await outside.check()


# What ends a login, and what only looks like it.


async def test_a_token_that_expired_is_told_from_a_missing_policy(
    bao: Any, root: hvac.Client, app_path: str
) -> None:
    made = root.auth.token.create(policies=["recovery-flows"], ttl="2s", no_default_policy=True)
    token = SecretStr(made["auth"]["client_token"])
    async with VaultClient(bao.address, token=token) as vault:
        await vault.observe(app_path)
        with pytest.raises(Misconfigured, match="a refusal by Vault's policy"):
            await vault.get("elsewhere/secret")
        await asyncio.sleep(2.3)
        with pytest.raises(Misconfigured, match="has expired or was revoked"):
            await vault.observe(app_path)


async def test_a_missing_policy_costs_no_new_login(bao: Any, app_path: str) -> None:
    """What was leased by a login dies with it: it is not thrown away lightly."""
    login = bao.contents.issue("recovery-flows")
    already = bao.server.audit_log.stat().st_size
    async with VaultClient(
        bao.address, role_id=login.role_id, secret_id=SecretStr(login.secret_id)
    ) as vault:
        await vault.observe(app_path)
        for _ in range(3):
            with pytest.raises(Misconfigured):
                await vault.get("elsewhere/secret")
        with bao.server.audit_log.open() as log:
            log.seek(already)
            requests = [line for line in log if '"type":"request"' in line]
    assert sum('"path":"auth/approle/login"' in line for line in requests) == 1


# Hand-overs.


async def test_a_hand_over_is_read_once(bao: Any, root: hvac.Client) -> None:
    made = root.auth.token.create(policies=["automation"], ttl="60s", no_default_policy=True)
    token = SecretStr(made["auth"]["client_token"])
    async with VaultClient(bao.address, token=token) as job:
        wrapped = await job.wrap({"client_secret": SecretStr("s3cr3t")}, ttl=timedelta(seconds=60))
    async with VaultClient(bao.address, token=SecretStr("nobody")) as person:
        opened = await person.unwrap(wrapped, made_by="sys/wrapping/wrap")
        assert opened["client_secret"].get_secret_value() == "s3cr3t"
        for made_by in ("sys/wrapping/wrap", None):
            with pytest.raises(Unverified, match="somebody else has read"):
                await person.unwrap(wrapped, made_by=made_by)


async def test_a_wrapping_put_in_place_of_ours_is_not_opened(bao: Any, root: hvac.Client) -> None:
    forged = SecretStr(root.sys.wrap({"secret_id": "the attacker's"}, ttl=60)["wrap_info"]["token"])
    path = "auth/approle/role/recovery-flows/secret-id"
    role_id, wrapped = bao.contents.issue_wrapped("recovery-flows")
    async with VaultClient(bao.address, token=SecretStr("nobody")) as worker:
        with pytest.raises(Unverified, match="another path"):
            await worker.unwrap(forged, made_by=path)
        assert (await worker.unwrap(forged))["secret_id"], "it was only looked at"
        opened = await worker.unwrap(SecretStr(wrapped), made_by=path)
    async with VaultClient(bao.address, role_id=role_id, secret_id=opened["secret_id"]) as vault:
        await vault.check()
