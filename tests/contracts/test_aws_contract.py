"""AWS Secrets Manager beyond the shared promise, at moto's server: signatures and policies that are
really checked, roles, what an interrupted move leaves behind, and that AWS's own SDK agrees."""

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from botocore.session import Session
from pydantic import SecretStr, ValidationError

from blocks.aws import AwsSecrets
from clients.aws_stages import CURRENT, PENDING, PREVIOUS, Stages
from recovery.errors import Conflict, Misconfigured, RateLimited, Refused
from recovery.rotate import SecretLabels
from rehearsal.world.faults import CloseBefore
from tests.contracts.benches import OLD, REGION, AwsBench, aws_admin

SECRET = "s3cr3t-key-of-a-person"


def stages_of(bench: AwsBench, path: str) -> dict[str, list[str]]:
    """As AWS's own SDK shows them."""
    found: dict[str, list[str]] = bench.admin.describe_secret(SecretId=path)["VersionIdsToStages"]
    return {version: sorted(labels) for version, labels in found.items() if labels}


@pytest.fixture
async def path(aws: AwsBench) -> str:
    path = aws.path()
    await aws.seed(path)
    return path


async def test_the_labels_are_those_of_aws(aws: AwsBench, path: str) -> None:
    """What a person sees with AWS's own tools, and what its rotation functions would understand."""
    async with aws.client() as store:
        (old,) = stages_of(aws, path)
        first = (await store.observe(path)).version
        cas = await store.stage_pending(path, "s2", SecretStr("new"), cas=first)
        (new,) = set(stages_of(aws, path)) - {old}
        assert stages_of(aws, path) == {old: [CURRENT], new: [PENDING]}
        stored = aws.admin.get_secret_value(SecretId=path, VersionStage=PENDING)
        assert json.loads(stored["SecretString"]) == {
            "client_secret": "new",
            "secret_id": "s2",
            "owner": "team",
        }
        cas = await store.promote(path, cas=cas)
        assert stages_of(aws, path) == {old: [PREVIOUS], new: [CURRENT]}
        cas = await store.roll_back(path, cas=cas)
        assert stages_of(aws, path) == {old: [CURRENT]}
        await store.stage_pending(path, "s3", SecretStr("newer"), cas=cas)
    assert len(aws.actions) < 60


async def test_the_id_of_a_version_follows_from_what_it_is_written_upon(
    aws: AwsBench, path: str
) -> None:
    async with aws.client() as one, aws.client() as other:
        cas = (await one.observe(path)).version
        await one.stage_pending(path, "s2", SecretStr("new"), cas=cas)
        before = stages_of(aws, path)
        # A second process that had looked before, with the same content and with another.
        assert await _stage_late(other, path, "s2", "new", cas) == "made"
        assert await _stage_late(other, path, "s9", "other", cas) == "conflict"
        assert stages_of(aws, path) == before


async def _stage_late(store: Any, path: str, secret_id: str, value: str, cas: Any) -> str:
    """As one that looked before the other one wrote, and writes after it."""

    async def as_it_was(path: str, cas: Any, attempted: str) -> Stages:
        stages = await store._stages(path)
        versions = {v: labels for v, labels in stages.versions.items() if PENDING not in labels}
        seen = Stages(path, versions)
        assert seen.version == cas
        return seen

    store._unchanged = as_it_was
    try:
        await store.stage_pending(path, secret_id, SecretStr(value), cas=cas)
    except Conflict:
        return "conflict"
    finally:
        del store._unchanged
    return "made"


async def test_what_an_interrupted_promotion_leaves_is_a_promotion(
    aws: AwsBench, path: str
) -> None:
    """AWSCURRENT was moved, the process died before AWSPENDING was taken away."""
    async with aws.client() as store:
        cas = (await store.observe(path)).version
        cas = await store.stage_pending(path, "s2", SecretStr("new"), cas=cas)
        by_label = {labels[0]: version for version, labels in stages_of(aws, path).items()}
        aws.admin.update_secret_version_stage(
            SecretId=path,
            VersionStage=CURRENT,
            RemoveFromVersionId=by_label[CURRENT],
            MoveToVersionId=by_label[PENDING],
        )
        found = await store.observe(path)
        assert found == SecretLabels(found.version, "s2", None, "s1")
        cas = await store.drop_previous(path, cas=found.version)
        cas = await store.stage_pending(path, "s3", SecretStr("newer"), cas=cas)
        assert (await store.observe(path)).pending_id == "s3"


async def test_a_promotion_of_what_is_dropped_meanwhile_is_undone(aws: AwsBench, path: str) -> None:
    async with aws.client() as store:
        cas = (await store.observe(path)).version
        cas = await store.stage_pending(path, "s2", SecretStr("new"), cas=cas)
        plain_move = store._move

        async def move(path: str, label: str, source: str, target: Any, attempted: str) -> None:
            await plain_move(path, label, source, target, attempted)
            if label == CURRENT and not dropped:
                dropped.append(source)
                await plain_move(path, PENDING, str(target), None, "Drop PENDING")

        dropped: list[str] = []
        store._move = move  # type: ignore[method-assign]
        with pytest.raises(Conflict):
            await store.promote(path, cas=cas)
        found = await store.observe(path)
        assert found == SecretLabels(found.version, "s1", None, None)
        assert await aws.consumed(path) == OLD


async def test_the_first_secret_of_a_path_is_a_persons(aws: AwsBench) -> None:
    """AWS makes the first version AWSCURRENT whatever is asked for: consumers would read it."""
    path = aws.path()
    async with aws.client() as store:
        with pytest.raises(Refused) as caught:
            await store.stage_pending(path, "s1", SecretStr("first"), cas="")
        assert caught.value.code == "no_current"


async def test_a_text_that_is_not_ours(aws: AwsBench) -> None:
    path = aws.path()
    aws.admin.create_secret(Name=path, SecretString="just-the-password")
    async with aws.client() as store:
        with pytest.raises(Misconfigured, match="a JSON object") as caught:
            await store.observe(path)
    assert "just-the-password" not in str(caught.value)


async def test_a_secret_that_is_scheduled_for_deletion(aws: AwsBench, path: str) -> None:
    aws.admin.delete_secret(SecretId=path, RecoveryWindowInDays=7)
    async with aws.client() as store:
        with pytest.raises(Misconfigured, match="Restore the secret"):
            await store.current(path)
        aws.admin.restore_secret(SecretId=path)
        assert (await store.current(path))[0] == "s1"


async def test_a_throttled_call_waits_and_goes_on(aws: AwsBench, path: str) -> None:
    waited: list[float] = []

    async def note(seconds: float) -> None:
        waited.append(seconds)

    async with aws.client() as store:
        store._sleep = note
        cas = (await store.observe(path)).version
        aws.throttle("UpdateSecretVersionStage", 2)
        aws.throttle("PutSecretValue", 1)
        cas = await store.stage_pending(path, "s2", SecretStr("new"), cas=cas)
        await store.promote(path, cas=cas)
        assert len(waited) == 3
        aws.throttle("ListSecretVersionIds", 99)
        with pytest.raises(RateLimited):
            await store.observe(path)


async def test_many_versions_come_in_pages(aws: AwsBench, path: str) -> None:
    """moto gives them all at once; the relay cuts them into pages as AWS does."""
    for n in range(7):
        await aws.overwrite(path, f"s{n}", f"value-{n}")
    async with aws.client() as store:
        whole = await store.observe(path)
        aws.page(3)
        assert await store.observe(path) == whole
    assert whole.current_id == "s6"


# Signatures, policies and roles: moto checks them as AWS does once it is told to.


@pytest.fixture
def guarded(moto_address: str) -> Iterator[tuple[str, dict[str, str]]]:
    """IAM is enforced; gives the keys of a user who may use secrets below apps/ and assume one
    role."""
    iam = Session().create_client(
        "iam",
        region_name="us-east-1",
        endpoint_url=moto_address,
        aws_access_key_id="k",
        aws_secret_access_key="s",
    )
    user = f"recovery-{os.urandom(3).hex()}"
    arn = iam.create_user(UserName=user)["User"]["Arn"]
    key = iam.create_access_key(UserName=user)["AccessKey"]
    actions = ["ListSecretVersionIds", "GetSecretValue", "PutSecretValue"]
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": [f"secretsmanager:{action}" for action in actions],
                "Resource": "*",
            },
            {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"},
        ],
    }
    iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=json.dumps(policy))
    assume = {"Effect": "Allow", "Principal": {"AWS": arn}, "Action": "sts:AssumeRole"}
    trust = {"Version": "2012-10-17", "Statement": [assume]}
    role = iam.create_role(RoleName=user, AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    policy["Statement"][0]["Action"].append("secretsmanager:UpdateSecretVersionStage")  # type: ignore[index]
    iam.put_role_policy(RoleName=user, PolicyName="p", PolicyDocument=json.dumps(policy))
    requests.post(f"{moto_address}/moto-api/reset-auth", data=b"0", timeout=10)
    try:
        yield (
            moto_address,
            {
                "access_key_id": key["AccessKeyId"],
                "secret_access_key": key["SecretAccessKey"],
                "role_arn": role["Arn"],
            },
        )
    finally:
        requests.post(f"{moto_address}/moto-api/reset-auth", data=b"inf", timeout=10)


async def test_the_signature_is_the_one_that_aws_expects(
    aws: AwsBench, path: str, guarded: tuple[str, dict[str, str]]
) -> None:
    address, given = guarded
    keys = {"access_key_id": given["access_key_id"]}
    good = AwsSecrets(
        region=REGION, endpoint=address, secret_access_key=given["secret_access_key"], **keys
    )
    async with good.get_client() as store:
        await store.check()
        cas = (await store.observe(path)).version
        cas = await store.stage_pending(path, "s2", SecretStr("new"), cas=cas)
        with pytest.raises(Misconfigured, match="secretsmanager:UpdateSecretVersionStage"):
            await store.promote(path, cas=cas)
        assert (await store.observe(path)).pending_id == "s2"
    bad = AwsSecrets(region=REGION, endpoint=address, secret_access_key=SECRET, **keys)
    async with bad.get_client() as store:
        with pytest.raises(Misconfigured, match="take our signature") as caught:
            await store.observe(path)
        with pytest.raises(Misconfigured, match="take our signature"):
            await store.check()
    assert SECRET not in str(caught.value)


async def test_a_role_is_assumed(
    aws: AwsBench, path: str, guarded: tuple[str, dict[str, str]]
) -> None:
    address, given = guarded
    block = AwsSecrets(region=REGION, endpoint=address, sts_endpoint=address, **given)
    async with block.get_client() as store:
        cas = (await store.observe(path)).version
        cas = await store.stage_pending(path, "s2", SecretStr("new"), cas=cas)
        await store.promote(path, cas=cas)
        assert (await store.observe(path)).current_id == "s2"


async def test_a_role_that_can_not_be_assumed(guarded: tuple[str, dict[str, str]]) -> None:
    address, given = guarded
    keys = given | {"secret_access_key": SECRET}
    block = AwsSecrets(region=REGION, endpoint=address, sts_endpoint=address, **keys)
    async with block.get_client() as store:
        with pytest.raises(Misconfigured, match="Sign a request to AWS") as caught:
            await store.observe("apps/x")
    assert SECRET not in str(caught.value)


async def test_the_machines_own_credentials(
    aws: AwsBench, path: str, monkeypatch: pytest.MonkeyPatch, moto_address: str
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    block = AwsSecrets(region=REGION, endpoint=moto_address)
    async with block.get_client() as store:
        with pytest.raises(Misconfigured, match="none anywhere"):
            await store.check()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    async with block.get_client() as store:
        await asyncio.wait_for(store.check(), 30)


async def test_a_lost_connection_before_the_first_move(aws: AwsBench, path: str) -> None:
    async with aws.client() as store:
        cas = (await store.observe(path)).version
        cas = await store.stage_pending(path, "s2", SecretStr("new"), cas=cas)
        cut = aws.faults.inject(CloseBefore(), "UpdateSecretVersionStage", times=2)
        await store.promote(path, cas=cas)
        assert cut.hits == 2
        assert (await store.observe(path)).current_id == "s2"


def test_the_public_address_of_a_region() -> None:
    for region, host in (
        ("eu-central-1", "secretsmanager.eu-central-1.amazonaws.com"),
        ("us-gov-west-1", "secretsmanager.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "secretsmanager.cn-north-1.amazonaws.com.cn"),
    ):
        client = AwsSecrets(region=region).get_client()
        assert client._wire.base_url == f"https://{host}"
        sdk = Session().create_client("secretsmanager", region_name=region)
        assert sdk.meta.endpoint_url == f"https://{host}"
    for wrong in (
        {"region": "Frankfurt"},
        {"region": REGION, "access_key_id": "k"},
        {"region": REGION, "access_key_id": "k", "secret_access_key": "s", "profile": "p"},
    ):
        with pytest.raises(ValidationError):
            AwsSecrets(**wrong)


def test_the_admins_tool_and_our_client_are_two_things() -> None:
    """The bench seeds and looks with AWS's SDK, so that a misunderstanding can't cancel out."""
    assert type(aws_admin("http://127.0.0.1:9")).__module__ == "botocore.client"
