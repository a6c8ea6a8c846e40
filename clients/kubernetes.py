"""Kubernetes: restart a workload as `kubectl rollout restart` does, and wait for its rollout.

API apps/v1. The restart is a strategic-merge patch of one annotation of the pod template; it holds
the run's id, so that the same patch sent twice restarts once. What counts as finished follows
kubectl's polymorphichelpers/rollout_status.go.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel

from clients.ci import FOLLOW, START, CiRuns, Look, Search, State
from clients.http import Wire
from recovery.errors import Misconfigured, Refused

ANNOTATION = "recovery/restarted-for"
MANAGER = "mass-reset-recovery"

_PLURALS = {"deployment": "deployments", "statefulset": "statefulsets", "daemonset": "daemonsets"}
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
TokenSource = Callable[[], SecretStr]


def token_in_file(path: str) -> TokenSource:
    """Read for each request: the kubelet writes a new token long before the old one ends."""

    def read() -> SecretStr:
        try:
            return SecretStr(Path(path).read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(
                "Read the service account's token",
                expected="a readable file on the worker's machine",
                got=type(error).__name__,
                advice="Run the worker in the cluster with its token mounted, or give the block a "
                "token.",
            ) from None

    return read


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class _Condition(_Part):
    type: str
    status: str
    reason: str = ""


class _Meta(_Part):
    generation: int = 0
    annotations: dict[str, str] | None = None


class _Template(_Part):
    metadata: _Meta = _Meta()


class _Rolling(_Part):
    # A percentage for Deployments and DaemonSets, which have no partition.
    partition: int = 0


class _Strategy(_Part):
    type: str = "RollingUpdate"
    rolling_update: _Rolling | None = None


class _Spec(_Part):
    replicas: int | None = None
    paused: bool = False
    template: _Template = _Template()
    update_strategy: _Strategy = _Strategy()


class _Status(_Part):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    available_replicas: int = 0
    ready_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""
    desired_number_scheduled: int = 0
    updated_number_scheduled: int = 0
    number_available: int = 0
    conditions: list[_Condition] = Field(default_factory=list)


class _Workload(_Part):
    metadata: _Meta = _Meta()
    spec: _Spec = _Spec()
    status: _Status = _Status()


@dataclass(frozen=True, slots=True)
class _Target:
    namespace: str
    kind: str
    name: str

    @property
    def path(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/{_PLURALS[self.kind]}/{self.name}"

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class KubernetesClient(CiRuns):
    """`job` is "deployment/name", "statefulset/name" or "daemonset/name", with "namespace/" before
    it where it is not the client's own. `console_url` may hold {namespace}, {kind} and {name}."""

    system: ClassVar[str] = "Kubernetes"

    def __init__(
        self,
        wire: Wire,
        token: TokenSource,
        *,
        namespace: str = "default",
        console_url: str = "",
        **more: Any,
    ) -> None:
        # A workload that was patched is there: nothing has to appear.
        super().__init__(wire, appears_within=timedelta(0), **more)
        self._token = token
        self._namespace = namespace
        self._console_url = console_url

    async def _find(self, job: str, run_id: str) -> Search:
        # The patch itself finds it: the same annotation changes nothing.
        return Search(findable=False)

    async def _start(self, job: str, parameters: Mapping[str, str], run_id: str) -> str:
        """`parameters` have no place here: the job names the consumer."""
        target = self._target(job)
        template = {"metadata": {"annotations": {ANNOTATION: run_id}}}
        response = await self._ask(
            "PATCH", target, job, START, json={"spec": {"template": template}}
        )
        workload = self._wire.read(response, _Workload)
        if problem := _never_rolls(target.kind, workload):
            raise Refused(
                START,
                subject=job,
                code="no_rollout",
                expected="a workload that rolls its pods",
                got=problem,
                advice="The annotation is set. Restart its pods by hand, or mend the workload.",
            )
        return str(workload.metadata.generation)

    async def _look(self, job: str, ref: str, run_id: str) -> Look:
        target = self._target(job)
        workload = self._wire.read(await self._ask("GET", target, job, FOLLOW), _Workload)
        url = self._link(target)
        annotations = workload.spec.template.metadata.annotations or {}
        if annotations.get(ANNOTATION) != run_id:
            return Look(
                State.RED,
                str(target),
                url,
                "taken over",
                code="cancelled",
                advice="Somebody rolled it back or restarted it for another reason: ask why, then "
                "resume.",
            )
        if workload.status.observed_generation < int(ref):
            return Look(State.WAITING, str(target), url, "still in the queue of its controller")
        if problem := _stuck(workload):
            return Look(State.RED, str(target), url, problem, code="build_failure")
        left = _left(target.kind, workload)
        if left:
            return Look(State.RUNNING, str(target), url, left)
        return Look(State.GREEN, str(target), url, "rolled out")

    async def _ask(
        self, method: str, target: _Target, job: str, attempted: str, *, json: object = None
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._token().get_secret_value()}"}
        if method == "PATCH":
            headers["Content-Type"] = "application/strategic-merge-patch+json"
        return await self._wire.request(
            method,
            target.path,
            attempted=attempted,
            subject=job,
            params={"fieldManager": MANAGER} if method == "PATCH" else None,
            json=json,
            headers=headers,
            repeatable=True,
        )

    def _link(self, target: _Target) -> str:
        if not self._console_url:
            return f"{self._wire.base_url}{target.path}"
        return (
            self._console_url.replace("{namespace}", target.namespace)
            .replace("{kind}", target.kind)
            .replace("{name}", target.name)
        )

    def _target(self, job: str) -> _Target:
        parts = job.split("/")
        if len(parts) == 2:
            parts = [self._namespace, *parts]
        if len(parts) != 3 or parts[1] not in _PLURALS or not all(map(_NAME.fullmatch, parts)):
            raise Refused(
                START,
                subject=job[:60],
                code="malformed_job",
                expected='"deployment/name", "statefulset/name" or "daemonset/name"',
                advice="Correct the consumer's ci_job in the platform's registry.",
            )
        return _Target(*parts)


def _never_rolls(kind: str, workload: _Workload) -> str:
    strategy = workload.spec.update_strategy
    if kind == "deployment":
        return "a paused Deployment" if workload.spec.paused else ""
    if strategy.type != "RollingUpdate":
        return f"updateStrategy {strategy.type}"
    rolling = strategy.rolling_update
    if kind == "statefulset" and rolling is not None and rolling.partition:
        return f"a partition of {rolling.partition}, below which no pod is restarted"
    return ""


def _stuck(workload: _Workload) -> str:
    if workload.spec.paused:
        return "paused by hand"
    for condition in workload.status.conditions:
        if condition.type == "Progressing" and condition.reason == "ProgressDeadlineExceeded":
            return "progress deadline exceeded"
    return ""


def _left(kind: str, workload: _Workload) -> str:
    """What the rollout still waits for; empty once every pod is a new one and available."""
    status = workload.status
    wanted = 1 if workload.spec.replicas is None else workload.spec.replicas
    if kind == "daemonset":
        wanted = status.desired_number_scheduled
        updated, available, old = status.updated_number_scheduled, status.number_available, 0
    elif kind == "statefulset":
        same = status.update_revision == status.current_revision
        updated = status.replicas if same else status.updated_replicas
        available, old = status.ready_replicas, 0 if same else status.replicas - updated
    else:
        updated, available = status.updated_replicas, status.available_replicas
        old = status.replicas - updated
    if updated < wanted:
        return f"{updated} of {wanted} pods are new"
    if old > 0:
        return f"{old} old pods are ending"
    if available < wanted:
        return f"{available} of {wanted} new pods are available"
    return ""
