"""A Kubernetes API server as far as a rollout restart needs it, with the controllers behind it.

apps/v1: strategic-merge patches raise `generation` where they change the spec, a controller follows
with `observedGeneration`, pods are replaced by running the workload's work, a Deployment whose pods
do not come up gets ProgressDeadlineExceeded. RBAC by verb, resource and name.
"""

import asyncio
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from starlette.types import ASGIApp

from rehearsal.world.asgi import Headers, Problem, Reply, Request, RoutedApp, Routes
from rehearsal.world.ci_runs import Window, Work
from rehearsal.world.faults import Faults

_PATCH = "application/strategic-merge-patch+json"
_KINDS = {"deployments": "Deployment", "statefulsets": "StatefulSet", "daemonsets": "DaemonSet"}


@dataclass(frozen=True, slots=True)
class Account:
    """A service account's token: which verbs on which workloads (`*` for all)."""

    name: str
    verbs: frozenset[str]
    names: frozenset[str] = frozenset({"*"})


@dataclass(slots=True)
class Workload:
    plural: str
    namespace: str
    name: str
    work: Work
    spec: dict[str, Any]
    deadline: timedelta | None
    generation: int = 1
    status: dict[str, Any] = field(default_factory=dict)
    restarts: int = 0

    @property
    def document(self) -> dict[str, Any]:
        return {
            "apiVersion": "apps/v1",
            "kind": _KINDS[self.plural],
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "generation": self.generation,
            },
            "spec": copy.deepcopy(self.spec),
            "status": copy.deepcopy(self.status),
        }


class KubernetesState:
    """One cluster. `aclose` ends its controllers."""

    def __init__(
        self,
        *,
        token: str,
        lag: timedelta = timedelta(milliseconds=20),
        calls: int = 2000,
        window_seconds: float = 60.0,
    ) -> None:
        self.faults = Faults()
        self.window = Window(calls, window_seconds)
        self._lag = lag.total_seconds()
        self._tokens = {token: Account("recovery-worker", frozenset({"get", "patch"}))}
        self._workloads: dict[tuple[str, str, str], Workload] = {}
        self._controllers: dict[tuple[str, str, str], asyncio.Task[None]] = {}
        self._open = asyncio.Event()
        self._open.set()

    def __repr__(self) -> str:
        return f"KubernetesState({sorted(name for _, _, name in self._workloads)})"

    def add_token(self, token: str, account: Account) -> None:
        self._tokens[token] = account

    def add(
        self,
        plural: str,
        name: str,
        work: Work,
        *,
        namespace: str = "default",
        replicas: int = 2,
        deadline: timedelta | None = timedelta(seconds=1),
        spec: Mapping[str, Any] | None = None,
    ) -> None:
        """A workload whose pods are up. `deadline` None: it hangs for ever where its pods do."""
        given: dict[str, Any] = {"template": {"metadata": {"annotations": {}}}, **(spec or {})}
        if plural != "daemonsets":
            given["replicas"] = replicas
        if plural != "deployments":
            given.setdefault("updateStrategy", {"type": "RollingUpdate"})
        made = Workload(plural, namespace, name, work, given, deadline)
        made.status = _status(made, replicas, replicas, replicas, 1, same=True)
        self._workloads[plural, namespace, name] = made

    def restarts_of(self, name: str) -> int:
        """How often the pods of all workloads of that name were replaced."""
        return sum(w.restarts for (_, _, n), w in self._workloads.items() if n == name)

    def undo(self, name: str) -> None:
        """A person's `kubectl rollout undo`: the annotations of the template are gone again."""
        for workload in self._workloads.values():
            if workload.name == name:
                workload.spec["template"]["metadata"]["annotations"] = {}
                self._changed(workload)

    def pause(self, name: str) -> None:
        """A person's `kubectl rollout pause`."""
        for workload in self._workloads.values():
            if workload.name == name:
                workload.spec["paused"] = True
                workload.generation += 1

    def hold(self) -> None:
        """The controllers take nothing up until `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def aclose(self) -> None:
        tasks = list(self._controllers.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def account(self, authorization: str) -> Account | None:
        return self._tokens.get(authorization.removeprefix("Bearer "))

    def find(self, plural: str, namespace: str, name: str) -> Workload | None:
        return self._workloads.get((plural, namespace, name))

    def patch(self, workload: Workload, patch: dict[str, Any]) -> None:
        before = copy.deepcopy(workload.spec)
        _merge(workload.spec, patch.get("spec", {}))
        if workload.spec != before:
            self._changed(workload)

    def _changed(self, workload: Workload) -> None:
        workload.generation += 1
        key = (workload.plural, workload.namespace, workload.name)
        if (running := self._controllers.get(key)) is not None:
            running.cancel()
        self._controllers[key] = asyncio.create_task(self._roll(workload, workload.generation))

    async def _roll(self, workload: Workload, generation: int) -> None:
        """What the controller does about one generation."""
        await asyncio.sleep(self._lag)
        await self._open.wait()
        count = int(workload.spec.get("replicas", 2))
        workload.status = _status(workload, count, 0, count, generation, same=False)
        if workload.spec.get("updateStrategy", {}).get("type") == "OnDelete":
            return
        workload.status = _status(workload, count, count, 0, generation, same=False)
        workload.restarts += 1
        try:
            await workload.work({"CONSUMER": workload.name})
        except RuntimeError:
            await self._stuck(workload)
            return
        workload.status = _status(workload, count, count, count, generation, same=True)

    async def _stuck(self, workload: Workload) -> None:
        """Pods that crash: nothing ends it but the deadline, which only Deployments have."""
        if workload.deadline is None or workload.plural != "deployments":
            return
        await asyncio.sleep(workload.deadline.total_seconds())
        workload.status["conditions"] = [
            {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable"},
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"},
        ]


def _status(
    workload: Workload, count: int, updated: int, available: int, generation: int, *, same: bool
) -> dict[str, Any]:
    """Zeros are left out, as the real server leaves them out."""
    if workload.plural == "daemonsets":
        figures = {
            "desiredNumberScheduled": count,
            "updatedNumberScheduled": updated,
            "numberAvailable": available,
        }
    else:
        figures = {
            "replicas": count,
            "updatedReplicas": 0 if workload.plural == "statefulsets" and same else updated,
            "readyReplicas": available,
            "availableReplicas": available,
        }
    status: dict[str, Any] = {k: v for k, v in figures.items() if v}
    if workload.plural == "statefulsets":
        status["updateRevision"] = f"{workload.name}-{generation}"
        current = generation if same else generation - 1
        status["currentRevision"] = f"{workload.name}-{current}"
    return {**status, "observedGeneration": generation}


def _merge(into: dict[str, Any], patch: Mapping[str, Any]) -> None:
    """Strategic merge of maps, which is all that a template's annotations need: null deletes."""
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], value)
        else:
            into[key] = value


def kubernetes_app(state: KubernetesState) -> ASGIApp:
    """The app to give to `Loopback`."""
    routes = Routes()

    def addressed(request: Request, taken: tuple[str, ...], verb: str) -> Workload:
        namespace, plural, name = taken
        if not state.window.take():
            raise _Status(429, "TooManyRequests", "too many requests", (("Retry-After", "1"),))
        account = state.account(request.headers.get("authorization", ""))
        if account is None:
            raise _Status(401, "Unauthorized", "Unauthorized")
        allowed = verb in account.verbs and account.names & {"*", name}
        if plural not in _KINDS or not allowed:
            raise _Status(
                403,
                "Forbidden",
                f'{plural}.apps "{name}" is forbidden: User "system:serviceaccount:recovery:'
                f'{account.name}" cannot {verb} resource "{plural}" in API group "apps" in the '
                f'namespace "{namespace}"',
            )
        workload = state.find(plural, namespace, name)
        if workload is None:
            raise _Status(404, "NotFound", f'{plural}.apps "{name}" not found')
        return workload

    async def read(request: Request, taken: tuple[str, ...]) -> Reply:
        return Reply(200, addressed(request, taken, "get").document)

    async def patch(request: Request, taken: tuple[str, ...]) -> Reply:
        workload = addressed(request, taken, "patch")
        if request.headers.get("content-type") != _PATCH:
            raise _Status(415, "UnsupportedMediaType", "the body of the request was unknown")
        state.patch(workload, request.json())
        return Reply(200, workload.document)

    path = "/apis/apps/v1/namespaces/{}/{}/{}"
    routes.add("GET", path, read)
    routes.add("PATCH", path, patch)
    return state.faults.around(RoutedApp(routes))


class _Status(Problem):
    """Kubernetes' own error document."""

    def __init__(self, status: int, reason: str, message: str, headers: Headers = ()) -> None:
        super().__init__(status, reason, message, headers=headers)

    def reply(self) -> Reply:
        document = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.text,
            "reason": self.code,
            "code": self.status,
        }
        return Reply(self.status, document, self.headers)
