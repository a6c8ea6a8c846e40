"""Bring a client's consumers to a secret and see that it serves: restarts through CI, health, the
platform's own record of the secret's use, the SIEM's count of refusals over a soak time.
"""

import asyncio
from collections.abc import Collection, Iterable
from datetime import timedelta

from recovery.accounts import Act
from recovery.app_clients import AppClient, Consumer, restart_id
from recovery.errors import Incomplete, Unverified
from recovery.refusals import AuthCounts, complaint
from recovery.rotate import Observed, Proof, Step
from tasks.acts import UNFINISHED
from tasks.case import Case

HEALTH_POLL = timedelta(milliseconds=250)


class Deployment:
    """One client's consumers, as one run sees them."""

    def __init__(self, case: Case, client: AppClient, path: str) -> None:
        self._case = case
        self._policy = case.policy.rotate
        self._client = client
        self._path = path
        self._ill_before: frozenset[str] = frozenset()

    async def remember_the_ill(self) -> None:
        """Integrations that are ill before anything is done are not the new secret's fault."""
        self._ill_before = frozenset(await self._ill_integrations())

    async def running(self) -> dict[str, str | None]:
        """Which secret each consumer works with now; None where it isn't healthy."""
        consumers = self._client.consumers
        reports = await asyncio.gather(*(self._case.health(c.health_url) for c in consumers))
        return {
            c.name: r.secret_id if r.ok else None for c, r in zip(consumers, reports, strict=True)
        }

    def helpless(self, names: Collection[str]) -> list[str]:
        """Those of the consumers that can't find a new secret without a restart."""
        return [c.name for c in self._client.consumers if c.name in names and not c.tries_both]

    async def restart(self, step: Step, observed: Observed, act: Act) -> str:
        """Restarts the step's consumers through CI, waits for each, and until the platform has
        seen the secret in use since. Returns the builds' numbers."""
        consumers = [c for c in self._client.consumers if c.name in step.consumers]
        policy = self._policy
        builds = await asyncio.gather(
            *(
                self._case.ci.run(
                    c.ci_job,
                    {"CONSUMER": c.name},
                    run_id=self._restart_id(act, step, c),
                    poll=policy.ci_poll,
                    timeout=policy.ci_timeout,
                )
                for c in consumers
            )
        )
        await self._settled(consumers, step.secret_id or "", observed)
        return ",".join(str(build.number) for build in builds)

    def _restart_id(self, act: Act, step: Step, consumer: Consumer) -> str:
        """The same for the same act and secret: after a crash the CI's run is found, not started
        again."""
        return restart_id(
            self._case.incident_id,
            self._client.client_id,
            act.step,
            str(act.generation),
            step.secret_id or "",
            consumer.name,
        )

    async def prove(self, observed: Observed) -> Proof:
        """The secret under CURRENT gets a token that the API takes; then everybody is watched.

        Unverified where somebody is ill or the SIEM shows refusals.
        """
        secrets = {s.secret_id: s for s in observed.secrets}
        previous = secrets.get(observed.labels.previous_id or "")
        current = observed.labels.current_id or ""
        await self._case.courier.probe(self._client.client_id, self._path)
        counts = await self._watched(self._policy.soak)
        held = await self.running()
        astray = [name for name, secret_id in held.items() if secret_id != current]
        if astray:
            raise self._failed(", ".join(astray), "not healthy on it after the soak time")
        fallen = await self._ill_integrations() - self._ill_before
        if fallen:
            raise self._failed(", ".join(sorted(fallen)), "an integration is not healthy")
        need = self._policy.siem == "required"
        why = complaint(counts, max_share=self._policy.max_error_share, need_traffic=need)
        if why:
            raise self._failed(self._client.client_id, why)
        return Proof(current, previous.last_used_at if previous else None, counts.refused)

    async def refused(self) -> AuthCounts:
        """What the SIEM saw of the client over the time between deactivating and deleting."""
        return await self._watched(self._policy.watch)

    async def _watched(self, length: timedelta) -> AuthCounts:
        began = self._case.ledger.now()
        await asyncio.sleep(length.total_seconds())
        ended = self._case.ledger.now()
        if self._policy.siem == "off":
            return AuthCounts()
        await asyncio.sleep(self._policy.siem_lag.total_seconds())
        client_id = self._client.client_id
        try:
            counts = await self._case.siem.client_authentications(
                [client_id],
                began,
                ended,
                actions=self._policy.siem_actions,
                client_field=self._policy.siem_client_field,
            )
        except UNFINISHED as error:
            raise Incomplete(
                "Watch a client's authentications",
                subject=client_id,
                expected="the SIEM to answer",
                got=type(error).__name__,
                advice="Both secrets are as they were. Run again when the SIEM answers.",
            ) from None
        return counts[client_id]

    async def _settled(
        self, consumers: Iterable[Consumer], secret_id: str, observed: Observed
    ) -> None:
        before = {s.secret_id: s.last_used_at for s in observed.secrets}
        told = any(used is not None for used in before.values())
        deadline = asyncio.get_running_loop().time() + self._policy.health_timeout.total_seconds()
        poll = min(HEALTH_POLL, self._policy.health_timeout / 40)
        waiting = list(consumers)
        while True:
            reports = await asyncio.gather(*(self._case.health(c.health_url) for c in waiting))
            waiting = [
                c
                for c, report in zip(waiting, reports, strict=True)
                if not report.ok or report.secret_id != secret_id
            ]
            if not waiting and (not told or await self._used(secret_id, before.get(secret_id))):
                return
            if asyncio.get_running_loop().time() > deadline:
                names = ", ".join(c.name for c in waiting) or self._client.client_id
                got = "not healthy on it in time" if waiting else "the platform saw nobody use it"
                raise self._failed(names, got)
            await asyncio.sleep(poll.total_seconds())

    async def _used(self, secret_id: str, before: object) -> bool:
        """The platform's own record: a health page may be wrong about what is sent."""
        listed = await self._case.platform.client_secrets(self._client.client_id)
        return any(s.secret_id == secret_id and s.last_used_at != before for s in listed)

    async def _ill_integrations(self) -> set[str]:
        integrations = self._client.integrations
        reports = await asyncio.gather(*(self._case.health(i.health_url) for i in integrations))
        return {i.name for i, r in zip(integrations, reports, strict=True) if not r.ok}

    def _failed(self, subject: str, got: str) -> Unverified:
        return Unverified("Serve with the new secret", subject=subject, got=got)
