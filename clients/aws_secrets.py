"""AWS Secrets Manager as a store of client secrets, by staging labels and fixed version ids.

AWS Secrets Manager API Reference 2017-10-17, JSON 1.1 over our own wire. A secret's text is a JSON
object with `client_secret` and `secret_id`; consumers read AWSCURRENT and see no rotation.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import SecretStr

from clients.aws_answers import document, error_type, refusal
from clients.aws_signing import AwsSigner
from clients.aws_stages import CURRENT, PENDING, PREVIOUS, Stages
from clients.http import OnWire, Wire
from recovery.app_clients import SecretLabels, StoreVersion
from recovery.errors import (
    Conflict,
    Incomplete,
    Misconfigured,
    NotFound,
    RateLimited,
    Refused,
    Unknown,
)

ATTEMPTS = 4
_MAX_PAGES = 50
_NAME = re.compile(r"[A-Za-z0-9_+=.@-]+(/[A-Za-z0-9_+=.@-]+)*")
_LONGEST = 512
_ID, _VALUE = "secret_id", "client_secret"
Sleep = Callable[[float], Awaitable[None]]


class AwsSecretsClient(OnWire):
    """A `SecretStore`. A new version is checked and set by its id, which follows from the state it
    is written upon; a move of AWSCURRENT by the version that it is taken from. Both by AWS."""

    def __init__(self, wire: Wire, signer: AwsSigner, *, sleep: Sleep = asyncio.sleep) -> None:
        self._wire = wire
        self._signer = signer
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"AwsSecretsClient({self._signer!r})"

    async def check(self) -> None:
        """Returns when AWS takes our signature. What we may do with a secret shows at the secret:
        the policy needs no right to list all of them for this."""
        try:
            await self._call("DescribeSecret", "recovery/check", {}, "Check AWS Secrets Manager")
        except NotFound:
            return
        except Misconfigured as denied:
            if denied.got != "a refusal by AWS's policies":
                raise

    async def observe(self, path: str) -> SecretLabels:
        stages = await self._stages(path)
        ids = [
            (await self._entry(path, version)).get(_ID) if version else None
            for version in (stages.current, stages.pending, stages.previous)
        ]
        return SecretLabels(stages.version, *ids)

    async def current(self, path: str) -> tuple[str, SecretStr]:
        return await self._labelled(path, "CURRENT", (await self._stages(path)).current)

    async def pending(self, path: str) -> tuple[str, SecretStr]:
        return await self._labelled(path, "PENDING", (await self._stages(path)).pending)

    async def stage_pending(
        self, path: str, secret_id: str, value: SecretStr, *, cas: StoreVersion
    ) -> str:
        """As promised by `SecretStore`. Refused `no_current` where nothing stands at the path: AWS
        makes the first version of a secret AWSCURRENT, whatever label is asked for."""
        attempted = "Stage a new secret as PENDING"
        stages = await self._unchanged(path, cas, attempted)
        current = stages.need(CURRENT, stages.current, attempted)
        for label, holder in (("pending", stages.pending), ("previous", stages.previous)):
            if holder is not None:
                raise Refused(
                    attempted,
                    code=f"{label}_taken",
                    subject=path,
                    expected="no rotation under way",
                    got=f"a secret under {label.upper()}",
                    advice="Finish that rotation first.",
                )
        entry = await self._entry(path, current)
        entry |= {_ID: secret_id, _VALUE: value.get_secret_value()}
        await self._call(
            "PutSecretValue",
            path,
            {
                "ClientRequestToken": stages.token,
                "SecretString": json.dumps(entry),
                "VersionStages": [PENDING],
            },
            attempted,
        )
        return stages.with_pending(stages.token).version

    async def promote(self, path: str, *, cas: StoreVersion) -> str:
        """The consumers' moment is one call of AWS. Should PENDING be dropped by somebody else in
        that moment, it is undone."""
        attempted = "Promote PENDING to CURRENT"
        stages = await self._unchanged(path, cas, attempted)
        new = stages.need(PENDING, stages.pending, attempted)
        old = stages.need(CURRENT, stages.current, attempted)
        if stages.previous is not None:
            raise Refused(
                attempted,
                code="previous_taken",
                subject=path,
                expected="no secret under PREVIOUS",
                advice="Retire that one first.",
            )
        await self._move(path, CURRENT, old, new, attempted)
        try:
            await self._move(path, PENDING, new, None, attempted)
        except Conflict:
            await self._move(path, CURRENT, new, old, attempted)
            await self._move(path, PREVIOUS, new, None, attempted)
            raise
        return stages.with_current(new).without(PENDING).version

    async def roll_back(self, path: str, *, cas: StoreVersion) -> str:
        attempted = "Roll back to PREVIOUS"
        stages = await self._unchanged(path, cas, attempted)
        old = stages.need(PREVIOUS, stages.previous, attempted)
        failed = stages.need(CURRENT, stages.current, attempted)
        await self._move(path, CURRENT, failed, old, attempted)
        # AWS has put AWSPREVIOUS on the one that failed.
        await self._move(path, PREVIOUS, failed, None, attempted)
        return stages.with_current(old).without(PREVIOUS).version

    async def drop_pending(self, path: str, *, cas: StoreVersion) -> str:
        attempted = "Drop PENDING"
        stages = await self._unchanged(path, cas, attempted)
        holder = stages.need(PENDING, stages.pending, attempted)
        await self._move(path, PENDING, holder, None, attempted)
        return stages.without(PENDING).version

    async def drop_previous(self, path: str, *, cas: StoreVersion) -> str:
        attempted = "Drop PREVIOUS"
        stages = await self._unchanged(path, cas, attempted)
        holder = stages.need(PREVIOUS, stages.previous, attempted)
        await self._move(path, PREVIOUS, holder, None, attempted)
        return stages.without(PREVIOUS).version

    async def _unchanged(self, path: str, cas: StoreVersion, attempted: str) -> Stages:
        stages = await self._stages(path)
        if stages.version != cas:
            raise Conflict(
                attempted,
                code="cas_mismatch",
                subject=path,
                expected="the version we looked at",
                got="another state",
                advice="Look again and decide anew.",
            )
        return stages

    async def _move(
        self, path: str, label: str, source: str, target: str | None, attempted: str
    ) -> None:
        """One label from one version to another, or away. AWS refuses where `source` does not have
        it; after a lost answer that may be our own doing, so then we look."""
        asked = {"VersionStage": label, "RemoveFromVersionId": source}
        if target is not None:
            asked["MoveToVersionId"] = target
        lost: Unknown | None = None
        for attempt in range(ATTEMPTS):
            try:
                await self._call("UpdateSecretVersionStage", path, asked, attempted, once=True)
                return
            except Unknown as error:
                lost = error
                await self._sleep(0.2 * 2**attempt)
            except Conflict:
                if lost is None:
                    raise
            held = (await self._stages(path)).versions
            if label not in held.get(source, ()) and (target is None or label in held[target]):
                return
        assert lost is not None
        raise lost

    async def _labelled(self, path: str, label: str, version: str | None) -> tuple[str, SecretStr]:
        entry = await self._entry(path, version) if version else {}
        if not entry.get(_VALUE):
            raise NotFound(
                f"Read the secret under {label} from AWS",
                code="not_found",
                subject=path,
                got="none",
            )
        return entry.get(_ID, ""), SecretStr(entry[_VALUE])

    async def _stages(self, path: str) -> Stages:
        versions: dict[str, frozenset[str]] = {}
        asked: dict[str, Any] = {"IncludeDeprecated": True, "MaxResults": 100}
        for _ in range(_MAX_PAGES):
            try:
                page = await self._call(
                    "ListSecretVersionIds", path, asked, "Look at a secret's labels in AWS"
                )
            except NotFound:
                return Stages(path)
            for version in page.get("Versions", []):
                versions[version["VersionId"]] = frozenset(version.get("VersionStages") or ())
            if not page.get("NextToken"):
                return Stages.of(path, versions)
            asked = {**asked, "NextToken": page["NextToken"]}
        raise Incomplete(
            "Look at a secret's labels in AWS", subject=path, expected="an end of the list"
        )

    async def _entry(self, path: str, version: str) -> dict[str, str]:
        answer = await self._call(
            "GetSecretValue", path, {"VersionId": version}, "Read a secret from AWS"
        )
        try:
            entry = json.loads(answer["SecretString"])
        except (KeyError, ValueError):
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get(_VALUE), str):
            raise Misconfigured(
                "Read a secret from AWS",
                subject=path,
                expected=f"a JSON object with {_VALUE} and {_ID}",
                got="something else",
                advice="Write the secret anew in this form; consumers read its client_secret.",
            )
        return {str(name): str(text) for name, text in entry.items()}

    async def _call(
        self,
        action: str,
        path: str,
        asked: Mapping[str, Any],
        attempted: str,
        *,
        once: bool = False,
    ) -> dict[str, Any]:
        """One action on one secret. All but the moves of labels may be repeated by the wire."""
        if not _NAME.fullmatch(path) or ".." in path or len(path) > _LONGEST:
            raise Misconfigured(
                "Name a secret in AWS",
                expected="letters, digits and / _ + = . @ - alone",
                got="other characters",
                advice="Correct rotate.vault_path in the runbook.",
            )
        body = json.dumps({"SecretId": path, **asked}).encode()
        plain = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"secretsmanager.{action}",
        }
        for attempt in range(1, ATTEMPTS + 1):
            headers = await self._signer.signed("POST", f"{self._wire.base_url}/", plain, body)
            response = await self._wire.request(
                "POST",
                "/",
                attempted=attempted,
                subject=path,
                content=body,
                headers=headers,
                repeatable=not once,
                ok=(200, 400, 403, 404),
            )
            if response.status_code == 200:
                return document(response, attempted, path, once=once)
            kind = error_type(response)
            error = refusal(kind, action, attempted, path)
            if once and kind == "InvalidParameterException":
                error = refusal("ResourceExistsException", action, attempted, path)
            if not isinstance(error, RateLimited) or attempt == ATTEMPTS:
                raise error
            await self._sleep(error.retry_after.total_seconds() * attempt)
        raise AssertionError("the last attempt returns or raises")
