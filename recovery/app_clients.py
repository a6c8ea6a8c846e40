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
from enum import StrEnum

DEFAULT_CI = "default"
CI_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_RISK = {"low": 0, "medium": 1, "high": 2}
OAUTH_CLIENT = "oauth_client"


@dataclass(frozen=True, slots=True)
class Consumer:
    """One app instance that reads a client's secret from Vault when it starts."""

    name: str
    health_url: str
    ci_job: str
    """The CI job that restarts it; empty where nobody told us. `name:job` where the runbook names
    several CIs and this is not the default one."""
    tries_both: bool = False
    """Where its secret is refused it takes the other one that stands in Vault."""


@dataclass(frozen=True, slots=True)
class Integration:
    """Somebody else's app that stands on this client; looked at, never restarted by us."""

    name: str
    health_url: str


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
    kind: str = OAUTH_CLIENT
    """What the platform calls it; an API key is no OAuth client and can't be tried by a token."""
    can_deactivate: bool = True
    """A secret can be switched off and on again; where not, retiring is deleting."""
    integrations: tuple[Integration, ...] = ()


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


class Lift(StrEnum):
    """The approval under which a client is rotated that is otherwise left to a person."""

    UNKNOWN = "rotate.unknown"
    """Nobody is known to read its secret: whoever does may break when the old one goes."""
    GAP = "rotate.gap"
    """Its platform holds one secret: between the new one and a restart a consumer may fail."""


def lift_of(client: AppClient) -> Lift | None:
    """Which approval would let this client be rotated; None where none is needed or none helps."""
    if not untouched_reason(client) or client.kind != OAUTH_CLIENT:
        return None
    if not client.consumers:
        return Lift.UNKNOWN if client.max_secrets > 1 else None
    return Lift.GAP if not _cannot_be_restarted(client) else None


def untouched_reason(client: AppClient) -> str:
    """Why this client is listed for a person and not touched; empty where it can be rotated."""
    if client.kind != OAUTH_CLIENT:
        return f"a credential of the kind {client.kind}: a new one can't be tried before it counts"
    if not client.consumers:
        return "no known consumer: nobody could be restarted with the new secret"
    if client.max_secrets < 2:
        return "the platform allows it one secret: rotating it would stop its consumers"
    return _cannot_be_restarted(client)


def _cannot_be_restarted(client: AppClient) -> str:
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
    able = {c.client_id: c for c in clients if not untouched_reason(c)}
    planned = plan_order((in_plan(c) for c in able.values()), waves)
    return [tuple(able[client_id] for client_id in wave) for wave in planned]


@dataclass(frozen=True, slots=True)
class InPlan:
    """What the order of a rotation depends on. `consumers` are locked while it is under way."""

    client_id: str
    risk: str
    linked_accounts: int
    consumers: frozenset[str]


def in_plan(client: AppClient) -> InPlan:
    names = frozenset(consumer.name for consumer in client.consumers)
    return InPlan(client.client_id, client.risk, client.linked_accounts, names)


def plan_order(clients: Iterable[InPlan], sizes: Sequence[int]) -> list[tuple[str, ...]]:
    """Client ids in waves of the given sizes and then as many as fit; each client once.

    A wave is rotated side by side and the next one begins when it has ended, so two clients with
    a common consumer are never in one wave: that is the lock, and no other is needed.
    """
    waiting = sorted(clients, key=_order)
    planned: list[tuple[str, ...]] = []
    while waiting:
        size = sizes[len(planned)] if len(planned) < len(sizes) else len(waiting)
        wave: list[str] = []
        busy: set[str] = set()
        left: list[InPlan] = []
        for client in waiting:
            if len(wave) < max(1, size) and not client.consumers & busy:
                wave.append(client.client_id)
                busy |= client.consumers
            else:
                left.append(client)
        planned.append(tuple(wave))
        waiting = left
    return planned


def _order(client: InPlan) -> tuple[int, int, str]:
    # An unknown word for the risk counts as the highest.
    return (_RISK.get(client.risk, len(_RISK)), client.linked_accounts, client.client_id)


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
