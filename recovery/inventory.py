"""The inventory of app clients: who owns a secret, who reads it, how old it is, what is done.

Two sources are laid over each other: the platform's registry and the metadata of the secrets store.
What only one of them knows is not trusted to be restarted, and shown.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from recovery.app_clients import AppClient, ClientSecret, Consumer, lift_of, untouched_reason

ROLLBACK_VERSIONS = 4
"""Writes of one rotation: PENDING, CURRENT, the label of PREVIOUS, and one to go back."""


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """What the secrets store knows of an entry beside its value."""

    path: str
    name: str
    """The last part of the path: a client's id."""
    owner: str
    consumers: tuple[str, ...]
    tries_both: frozenset[str]
    created_at: datetime
    updated_at: datetime
    versions_kept: int
    """How many versions the store keeps; 0 where it keeps its default."""


@dataclass(frozen=True, slots=True)
class InventoryRow:
    """One credential in scope. `age` is that of the oldest active secret."""

    client_id: str
    name: str
    kind: str
    owner: str
    risk: str
    linked_accounts: int
    path: str
    consumers: tuple[Consumer, ...]
    secrets: int
    age: timedelta | None
    plan: str


def merged(client: AppClient, entry: StoredEntry | None) -> AppClient:
    """The platform's client with what the store's metadata adds.

    A consumer that the store alone names has no CI job and no health address, so the client is
    left to a person until somebody tells the platform's registry.
    """
    if entry is None:
        return client
    known = {consumer.name for consumer in client.consumers}
    consumers = [
        replace(c, tries_both=c.tries_both or c.name in entry.tries_both) for c in client.consumers
    ]
    consumers += [
        Consumer(name, "", "", tries_both=name in entry.tries_both)
        for name in entry.consumers
        if name not in known
    ]
    owner = client.owner or entry.owner
    return replace(client, owner=owner, consumers=tuple(consumers))


def row(
    client: AppClient,
    secrets: Sequence[ClientSecret],
    *,
    path: str,
    stored: bool,
    approved: bool,
    now: datetime,
) -> InventoryRow:
    born = [s.created_at for s in secrets if s.active]
    return InventoryRow(
        client_id=client.client_id,
        name=client.name,
        kind=client.kind,
        owner=client.owner,
        risk=client.risk,
        linked_accounts=client.linked_accounts,
        path=path if stored else f"{path} (not there)",
        consumers=client.consumers,
        secrets=len(secrets),
        age=now - min(born) if born else None,
        plan=_plan(client, approved),
    )


def _plan(client: AppClient, approved: bool) -> str:
    reason = untouched_reason(client)
    if not reason:
        return "rotate"
    if approved:
        return f"rotate, as approved, although: {reason}"
    lift = lift_of(client)
    return f"left to a person: {reason}" + (f" (approval {lift})" if lift else "")


def without_client(entries: Iterable[StoredEntry], known: Collection[str]) -> list[StoredEntry]:
    """Entries of the store that no client at the platform has: somebody's key, or a leftover."""
    return [entry for entry in entries if entry.name not in known]


def too_old(
    secrets: Mapping[str, Sequence[ClientSecret]], now: datetime, max_age: timedelta
) -> list[str]:
    """The clients whose newest active secret is older than `max_age`."""
    return sorted(
        client_id
        for client_id, held in secrets.items()
        if (born := [s.created_at for s in held if s.active]) and now - max(born) > max_age
    )


def shown(rows: Iterable[InventoryRow]) -> list[dict[str, str | int]]:
    """Rows of the artifact's table."""
    return [
        {
            "client": r.client_id,
            "name": r.name,
            "kind": r.kind,
            "owner": r.owner or "nobody told us",
            "risk": r.risk,
            "accounts": r.linked_accounts,
            "secrets": r.secrets,
            "age in days": r.age.days if r.age is not None else "no active secret",
            "read from": r.path,
            "consumers": "; ".join(map(_consumer, r.consumers)) or "none known",
            "plan": r.plan,
        }
        for r in rows
    ]


def _consumer(consumer: Consumer) -> str:
    told = [f"CI {consumer.ci_job}" if consumer.ci_job else "no CI job"]
    told.append("health page" if consumer.health_url else "no health page")
    if consumer.tries_both:
        told.append("tries both secrets")
    return f"{consumer.name} ({', '.join(told)})"
