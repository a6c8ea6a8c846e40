"""The five CIs as one suite of tests needs them: a stateful server each, our client and levers."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from pydantic import SecretStr
from starlette.types import ASGIApp

from clients.ci import CiRuns
from clients.github_actions import GitHubActionsClient
from clients.github_app import AccessToken
from clients.gitlab import GitLabClient
from clients.http import Timeouts, Wire
from clients.jenkins import JenkinsClient
from clients.kubernetes import KubernetesClient
from clients.webhook_ci import WebhookCiClient
from rehearsal.world.ci_github import GitHubState, github_app
from rehearsal.world.ci_gitlab import GitLabState, Token, gitlab_app
from rehearsal.world.ci_kubernetes import Account, KubernetesState, kubernetes_app
from rehearsal.world.ci_webhook import WebhookState, webhook_app
from rehearsal.world.faults import Faults
from rehearsal.world.jenkins_app import JenkinsState, jenkins_app
from rehearsal.world.serving import Loopback

TOKEN = "a-token-of-the-contract-tests"
NARROW = "a-token-that-may-only-look"
POLL = timedelta(milliseconds=20)
INPUTS = {"CONSUMER": True, "RECOVERY_RUN": False}


async def no_waiting(_: float) -> None:
    await asyncio.sleep(0)


async def green(_: Mapping[str, str]) -> None:
    await asyncio.sleep(0.05)


async def red(_: Mapping[str, str]) -> None:
    raise RuntimeError("it did not come up")


async def hang(_: Mapping[str, str]) -> None:
    await asyncio.Event().wait()


WORKS = {"green": green, "red": red, "hang": hang}


class Bench(ABC):
    """One CI. `job(kind)` is green, red, hang or missing. `start` and `look` are what the requests
    of the two kinds look like."""

    name: str
    start: str
    look: str
    faults: Faults

    @abstractmethod
    def app(self) -> ASGIApp: ...

    @abstractmethod
    def make(self, wire_of: Any, token: str, **more: Any) -> CiRuns: ...

    @abstractmethod
    def job(self, kind: str) -> str: ...

    @abstractmethod
    def started(self, kind: str) -> int:
        """How many runs the CI has made of that job."""

    @abstractmethod
    def cancel(self, kind: str) -> bool:
        """A person ends the run by hand; False where there is none yet."""

    @abstractmethod
    def hold(self) -> None: ...

    @abstractmethod
    def release(self) -> None: ...

    @abstractmethod
    async def aclose(self) -> None: ...

    @abstractmethod
    def narrow(self) -> None:
        """Makes NARROW a credential that may look and not start."""

    @asynccontextmanager
    async def client(
        self, token: str = TOKEN, *, timeout: timedelta = timedelta(seconds=10), **more: Any
    ) -> AsyncIterator[CiRuns]:
        async with Loopback(self.app()) as loopback:

            def wire_of(**given: Any) -> Wire:
                return Wire(
                    self.name,
                    loopback.url,
                    timeout=Timeouts(attempt=timedelta(seconds=5), waiting=timedelta(seconds=20)),
                    sleep=no_waiting,
                    **given,
                )

            async with self.make(wire_of, token, poll=POLL, timeout=timeout, **more) as client:
                yield client


class JenkinsBench(Bench):
    name = "Jenkins"
    start = "POST .*buildWithParameters"
    look = "GET /(queue/item|job/[^/]+/[0-9])"

    def __init__(self) -> None:
        self.state = JenkinsState(
            user="recovery", api_token=TOKEN, quiet_period=timedelta(milliseconds=20)
        )
        self.faults = self.state.faults
        for kind, work in WORKS.items():
            self.state.add_job(kind, work, {"CONSUMER": "", "RECOVERY_RUN": ""})

    def app(self) -> ASGIApp:
        return jenkins_app(self.state)

    def make(self, wire_of: Any, token: str, **more: Any) -> CiRuns:
        more = {"appears_within": timedelta(milliseconds=300)} | more
        return JenkinsClient(wire_of(auth=("recovery", SecretStr(token))), **more)

    def job(self, kind: str) -> str:
        return kind

    def started(self, kind: str) -> int:
        waiting = sum(item.job.name == kind for item in self.state.waiting())
        return waiting + len(self.state.builds_of(kind))

    def cancel(self, kind: str) -> bool:
        return bool(self.state.abort_builds())

    def narrow(self) -> None:
        self.state.add_reader(NARROW)

    def hold(self) -> None:
        self.state.hold()

    def release(self) -> None:
        self.state.release()

    async def aclose(self) -> None:
        await self.state.aclose()


class GitHubBench(Bench):
    name = "GitHub"
    start = "POST .*/dispatches"
    look = r"GET .*/actions/runs/\d+$"
    modern = True

    def __init__(self) -> None:
        self.state = GitHubState(repository="acme/restarts", token=TOKEN, modern=self.modern)
        self.faults = self.state.faults
        for kind, work in WORKS.items():
            self.state.add_workflow(f"{kind}.yml", work, INPUTS)

    def app(self) -> ASGIApp:
        return github_app(self.state)

    def make(self, wire_of: Any, token: str, **more: Any) -> CiRuns:
        login = AccessToken(SecretStr(token))
        more = {"appears_within": timedelta(milliseconds=300)} | more
        more["names_runs"] = self.modern
        return GitHubActionsClient(wire_of(credential="token"), login, "acme/restarts", **more)

    def job(self, kind: str) -> str:
        return f"{kind}.yml"

    def started(self, kind: str) -> int:
        return len(self.state.runs.newest_first(f"{kind}.yml"))

    def cancel(self, kind: str) -> bool:
        return bool(self.state.runs.cancel_by_hand())

    def narrow(self) -> None:
        self.state.add_token(NARROW, "read")

    def hold(self) -> None:
        self.state.runs.hold()

    def release(self) -> None:
        self.state.runs.release()

    async def aclose(self) -> None:
        await self.state.runs.aclose()


class OldGitHubBench(GitHubBench):
    """A GitHub Enterprise Server whose dispatches answer 204 and nothing else."""

    modern = False


class GitLabBench(Bench):
    name = "GitLab"
    start = "POST .*/pipeline$"
    look = r"GET .*/pipelines/\d+$"

    def __init__(self) -> None:
        self.state = GitLabState(token=TOKEN)
        self.faults = self.state.faults
        for kind, work in WORKS.items():
            self.state.add_project(f"operations/{kind}", work)

    def app(self) -> ASGIApp:
        return gitlab_app(self.state)

    def make(self, wire_of: Any, token: str, **more: Any) -> CiRuns:
        more = {"appears_within": timedelta(milliseconds=300)} | more
        return GitLabClient(wire_of(headers={"PRIVATE-TOKEN": SecretStr(token)}), **more)

    def job(self, kind: str) -> str:
        return f"operations/{kind}"

    def started(self, kind: str) -> int:
        return len(self.state.runs.newest_first(self.job(kind)))

    def cancel(self, kind: str) -> bool:
        return bool(self.state.runs.cancel_by_hand())

    def narrow(self) -> None:
        self.state.add_token(NARROW, Token("reader", scope="read_api"))

    def hold(self) -> None:
        self.state.runs.hold()

    def release(self) -> None:
        self.state.runs.release()

    async def aclose(self) -> None:
        await self.state.runs.aclose()


class WebhookBench(Bench):
    name = "the CI webhook"
    start = "POST /jobs"
    look = "GET /jobs/"

    def __init__(self) -> None:
        self.state = WebhookState(secret=TOKEN)
        self.faults = self.state.faults
        for kind, work in WORKS.items():
            self.state.add_job(kind, work)

    def app(self) -> ASGIApp:
        return webhook_app(self.state)

    def make(self, wire_of: Any, token: str, **more: Any) -> CiRuns:
        more = {"appears_within": timedelta(milliseconds=300)} | more
        # One secret signs all: what it may not start is told by the job.
        secret = TOKEN if token == NARROW else token
        return WebhookCiClient(wire_of(), SecretStr(secret), **more)

    def job(self, kind: str) -> str:
        return kind

    def started(self, kind: str) -> int:
        return len(self.state.runs.newest_first(kind))

    def cancel(self, kind: str) -> bool:
        return bool(self.state.runs.cancel_by_hand())

    def narrow(self) -> None:
        self.state.forbidden.add("green")

    def hold(self) -> None:
        self.state.runs.hold()

    def release(self) -> None:
        self.state.runs.release()

    async def aclose(self) -> None:
        await self.state.runs.aclose()


class KubernetesBench(Bench):
    name = "Kubernetes"
    start = "PATCH /apis"
    look = "GET /apis"
    plural = "deployments"
    singular = "deployment"

    def __init__(self) -> None:
        self.state = KubernetesState(token=TOKEN)
        self.faults = self.state.faults
        for kind, work in WORKS.items():
            self.state.add(
                self.plural, kind, work, namespace="apps", deadline=timedelta(milliseconds=50)
            )

    def app(self) -> ASGIApp:
        return kubernetes_app(self.state)

    def make(self, wire_of: Any, token: str, **more: Any) -> CiRuns:
        more.pop("appears_within", None)
        return KubernetesClient(wire_of(), lambda: SecretStr(token), namespace="apps", **more)

    def job(self, kind: str) -> str:
        return f"{self.singular}/{kind}"

    def started(self, kind: str) -> int:
        workload = self.state.find(self.plural, "apps", kind)
        return workload.generation - 1 if workload else 0

    def cancel(self, kind: str) -> bool:
        if not self.started(kind):
            return False
        self.state.undo(kind)
        return True

    def narrow(self) -> None:
        self.state.add_token(NARROW, Account("reader", frozenset({"get"})))

    def hold(self) -> None:
        self.state.hold()

    def release(self) -> None:
        self.state.release()

    async def aclose(self) -> None:
        await self.state.aclose()


BENCHES: list[type[Bench]] = [
    JenkinsBench,
    GitHubBench,
    OldGitHubBench,
    GitLabBench,
    WebhookBench,
    KubernetesBench,
]
