"""App clients, their secrets and who reads them; which can be rotated, and in which order.

Playbook "Rotate": a wave at a time, lowest risk first, and what nobody can restart is listed for a
person and not touched.
"""

import hashlib
import re
from base64 import b32encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

DEFAULT_CI = "default"
CI_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_RISK = {"low": 0, "medium": 1, "high": 2}


@dataclass(frozen=True, slots=True)
class Consumer:
    """One app instance that reads a client's secret from Vault when it starts."""

    name: str
    health_url: str
    ci_job: str
    """The CI job that restarts it; empty where nobody told us. `name:job` where the runbook names
    several CIs and this is not the default one."""


@dataclass(frozen=True, slots=True)
class AppClient:
    """An OAuth client at the platform and who reads its secret."""

    client_id: str
    name: str
    owner: str
    risk: str
    linked_accounts: int
    max_secrets: int
    consumers: tuple[Consumer, ...]


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A secret as the platform lists it; the value is never shown again."""

    secret_id: str
    created_at: datetime
    active: bool
    marker: str | None
    last_used_at: datetime | None


StoreVersion = int | str
"""A number in Vault, an opaque text elsewhere; compared for equality alone."""


@dataclass(frozen=True, slots=True)
class SecretLabels:
    """Which secret stands under which label in its store, by id alone.

    `version` is what the next check-and-set must name; 0 or empty where nothing was ever written.
    """

    version: StoreVersion
    current_id: str | None = None
    pending_id: str | None = None
    previous_id: str | None = None


def untouched_reason(client: AppClient) -> str:
    """Why this client is listed for a person and not touched; empty where it can be rotated."""
    if not client.consumers:
        return "no known consumer: nobody could be restarted with the new secret"
    if client.max_secrets < 2:
        return "the platform allows it one secret: rotating it would stop its consumers"
    if any(not consumer.ci_job for consumer in client.consumers):
        return "a consumer has no CI job that we know and that restarts it"
    if any(not consumer.health_url for consumer in client.consumers):
        return "a consumer has no health address: nobody could see whether it came up"
    return ""


def split_ci_job(ci_job: str) -> tuple[str, str]:
    """The CI's name in the runbook and the job there; a bare job is the default CI's."""
    name, colon, job = ci_job.partition(":")
    return (name, job) if colon and CI_NAME.fullmatch(name) else (DEFAULT_CI, ci_job)


def with_known_ci(client: AppClient, names: Collection[str]) -> AppClient:
    """The client without the CI jobs of CIs that the runbook does not name: they are as good as
    none, and it is better to hear of that before a secret is made than after."""
    consumers = tuple(
        c if split_ci_job(c.ci_job)[0] in names else replace(c, ci_job="") for c in client.consumers
    )
    return replace(client, consumers=consumers)


def restart_id(*parts: str) -> str:
    """The id of one restart at the CI, from what makes it this one: incident, client, step, its
    generation, secret, consumer. The same after a crash, another one for the next try."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"recovery-{b32encode(digest).decode().lower()[:16]}"


def plan_waves(clients: Iterable[AppClient], waves: Sequence[int]) -> list[tuple[AppClient, ...]]:
    """The clients that can be rotated, in waves of the given sizes and then as many as fit.

    Lowest risk first, fewest linked accounts first. Two clients that share a consumer are never
    in one wave: its restart would deploy one of them unwatched.
    """
    waiting = sorted((c for c in clients if not untouched_reason(c)), key=_order)
    planned: list[tuple[AppClient, ...]] = []
    while waiting:
        size = waves[len(planned)] if len(planned) < len(waves) else len(waiting)
        wave = _disjoint(waiting, max(1, size))
        planned.append(wave)
        taken = {c.client_id for c in wave}
        waiting = [c for c in waiting if c.client_id not in taken]
    return planned


def _order(client: AppClient) -> tuple[int, int, str]:
    # An unknown word for the risk counts as the highest.
    return (_RISK.get(client.risk, len(_RISK)), client.linked_accounts, client.client_id)


def _disjoint(waiting: Sequence[AppClient], size: int) -> tuple[AppClient, ...]:
    wave: list[AppClient] = []
    busy: set[str] = set()
    for client in waiting:
        names = {consumer.name for consumer in client.consumers}
        if len(wave) < size and not names & busy:
            wave.append(client)
            busy |= names
    return tuple(wave)


def describe_plan(
    waves: Sequence[Collection[AppClient]], untouched: Mapping[str, str] | None = None
) -> str:
    """One line for people: how many secrets in which waves, and what is left to a person.

    `untouched` is client id -> reason.
    """
    left = f"; {len(untouched)} left to a person ({', '.join(untouched)})" if untouched else ""
    count = sum(len(wave) for wave in waves)
    if not count:
        return "nothing to rotate" + left
    restarts = len({consumer.name for wave in waves for c in wave for consumer in c.consumers})
    sizes = ", ".join(str(len(wave)) for wave in waves)
    return (
        f"{count} client secrets in {len(waves)} waves ({sizes}): create, deploy to {restarts} "
        f"consumers, test, retire" + left
    )
