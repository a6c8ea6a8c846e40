"""What the world says of the recovery: each check asks the world's own truth, never our ledger."""

import base64
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from urllib.parse import quote_plus

import aiohttp

from rehearsal.stage import Stage
from rehearsal.world.people import People
from rehearsal.world.people_strangers import Phisher, Reached
from rehearsal.world.world import World


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be true of the world, with what was found."""

    name: str
    passed: bool
    found: str


async def judge(
    stage: Stage, broken: tuple[int, int], *, spared: Collection[str] = ()
) -> list[Check]:
    """All checks, in the order in which they are shown. `broken` is (failed, sent) requests of the
    consumers while the run lasted; `spared` are accounts that one channel was enough for, because
    they enrolled by it before an interrupted run came to the others."""
    world, stories = stage.world, stage.people.stories
    enrolled = {i for i, story in stories.items() if story.enrolled_at is not None}
    return [
        *await _stolen(world),
        *_notified(world, enrolled & set(spared)),
        *await _clients(world, broken),
        *_people(world, stage.people, stage.phisher),
        *_signatures(stage),
        _untouched(world),
    ]


async def _stolen(world: World) -> list[Check]:
    alive = await world.attacker.still_alive()
    kinds = Counter(credential.kind for credential in alive)
    held = len(world.attacker.held())
    unknown = world.platform.live_stolen(world.population.loot)
    return [
        Check(
            "no stolen session, token or password works",
            not alive and not unknown,
            f"{held} tried once more, {len(alive)} accepted"
            + (f" ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})" if kinds else ""),
        )
    ]


def _notified(world: World, spared: Collection[str]) -> list[Check]:
    """Everybody exactly once per channel and notice; nobody who is not affected."""
    twice = world.mailboxes.received_twice()
    banners: Counter[str] = Counter()
    for account_id in world.population.affected_ids:
        banners.update(
            f"{account_id} {banner.idempotency_key}"
            for banner in world.platform.banners_of(account_id)
        )
    doubled = len(twice) + sum(n > 1 for n in banners.values())
    unreached = _unreached(world, spared)
    bystanders = [
        account_id
        for account_id in world.population.accounts
        if account_id not in _affected(world) and world.platform.banners_of(account_id)
    ]
    return [
        Check(
            "nobody got the same notice twice",
            doubled == 0,
            f"{len(world.mailboxes.everything())} messages, {sum(banners.values())} banners, "
            f"{doubled} doubled",
        ),
        Check(
            "everybody with a usable contact was reached on every channel",
            not unreached,
            ", ".join(f"{n} missed by {channel}" for channel, n in unreached.items())
            or "nobody was missed",
        ),
        Check(
            "nobody who is not affected heard from us",
            not bystanders,
            f"{len(bystanders)} bystanders with a banner",
        ),
    ]


def _affected(world: World) -> set[str]:
    """Who had a reset in the burst, by the SIEM's own truth, less who may never be touched."""
    return set(world.traffic.truth.accounts()) - set(world.population.excluded_ids)


def _unreached(world: World, spared: Collection[str]) -> dict[str, int]:
    """Affected accounts whose contact is good and who got nothing over a channel."""
    dirt = world.population.dirt
    missed: Counter[str] = Counter()
    for account_id in _affected(world) - set(spared):
        account = world.population.accounts[account_id]
        if account.email and account_id not in dirt.malformed_email:
            missed["email"] += not world.mailboxes.of(account.email)
        if account.phone and account_id not in dirt.malformed_phone and not account.opted_out:
            missed["sms"] += not world.mailboxes.of(account.phone)
        missed["in-app"] += not world.platform.banners_of(account_id)
    return {channel: n for channel, n in missed.items() if n}


def _linked(world: World) -> set[str]:
    """The clients that an affected account is linked to; nobody has a reason to touch others."""
    accounts = world.population.accounts
    return {app for account_id in _affected(world) for app in accounts[account_id].linked_apps}


async def _clients(world: World, broken: tuple[int, int]) -> list[Check]:
    linked = _linked(world)
    everyone = world.population.clients.values()
    old = {client.id: client for client in everyone if client.id in linked}
    touched = [
        client.id
        for client in everyone
        if client.id not in linked
        and {s.id for s in world.platform.secrets_of(client.id)} != {client.secret_id}
    ]
    rotated = [
        client_id
        for client_id, seed in old.items()
        if seed.secret_id not in {s.id for s in world.platform.secrets_of(client_id)}
    ]
    serving = [
        consumer.name
        for consumer in world.fleet
        if consumer.client_id in old
        and consumer.secret_id != old[consumer.client_id].secret_id
        and not await consumer.ill()
    ]
    failures, requests = broken
    still_good = [
        client_id
        for client_id, seed in old.items()
        if await _accepted(world.access.platform, client_id, seed.secret)
    ]
    consumers = [consumer for consumer in world.fleet if consumer.client_id in old]
    return [
        Check(
            "every linked client was rotated and its consumers serve with the new secret",
            len(rotated) == len(old) and len(serving) == len(consumers) and not touched,
            f"{len(rotated)} of {len(old)} clients, {len(serving)} of {len(consumers)} consumers, "
            f"{len(touched)} others touched",
        ),
        Check(
            "no consumer's request failed on the way",
            failures == 0,
            f"{failures} of {requests:,} requests failed",
        ),
        Check(
            "no old client secret works",
            not still_good,
            f"{len(still_good)} of {len(old)} old secrets accepted",
        ),
    ]


async def _accepted(platform_url: str, client_id: str, secret: str) -> bool:
    """Whether the platform still gives a token for this secret, asked over the wire."""
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{platform_url}/oauth/token",
            data={"grant_type": "client_credentials"},
            headers={"Authorization": authorization},
        ) as answer,
    ):
        return answer.status == 200


def _people(world: World, people: People, phisher: Phisher) -> list[Check]:
    stories = [s for s in people.stories.values() if s.enrolled_at is not None]
    logged_in = sum(story.login_ok for story in stories)
    share = len(stories) / len(world.population.affected_ids)
    old = [s for s in stories if world.platform.old_authenticators_of(s.account_id)]
    return [
        Check(
            "who enrolled can log in with the new authenticator",
            bool(stories) and logged_in == len(stories),
            f"{len(stories)} enrolled ({share:.0%}), {logged_in} logged in, "
            f"{sum(story.by_passkey for story in stories)} of them by passkey",
        ),
        Check(
            "no old authenticator is left on an enrolled account",
            not old,
            f"{len(old)} left",
        ),
        Check(
            "a phisher who reads mail alone got nowhere",
            phisher.furthest < Reached.SECRET_SEEN,
            f"{len(phisher.raids)} mailboxes, furthest: {phisher.furthest.name.lower()}",
        ),
    ]


def _signatures(stage: Stage) -> list[Check]:
    seen = stage.gateway.seen
    forged = stage.counterfeiter.forged
    misled = [stage.people.stories[i] for i in forged]
    # Who sees nothing but the forged ones, which say the same, has nothing to compare.
    asked = [story for story in misled if story.banners_doubted + story.banners_believed]
    doubted = sum(story.banners_doubted for story in asked)
    believed = sum(story.banners_believed for story in asked)
    planted = sum(forged[story.account_id] for story in asked)
    return [
        Check(
            "every mail's signature fits its words, by the published keys alone",
            seen["fits"] > 0 and seen["fits"] == seen.total(),
            ", ".join(f"{count} {what}" for what, count in sorted(seen.items())) or "no mail",
        ),
        Check(
            "people tell forged banners from ours",
            # One of ours that was doubted would be one too many.
            bool(asked) and doubted == planted,
            f"{len(asked)} people asked, {planted} forged, {doubted} doubted, {believed} believed",
        ),
    ]


def _untouched(world: World) -> Check:
    touched = [i for i in world.population.excluded_ids if world.platform.effects(i)]
    return Check(
        "service and break-glass accounts were not touched",
        not touched,
        f"{len(touched)} of {len(world.population.excluded_ids)} touched",
    )


def passed(checks: Iterable[Check]) -> bool:
    return all(check.passed for check in checks)
