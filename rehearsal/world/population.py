"""Who lives on the platform when the incident begins: the playbook's case, made from a seed.

18 brand accounts and 320 community managers are hit, 14 app clients are linked to them; beside
them live ordinary members, the recovery tool's own service account and two break-glass accounts,
one of which is hit as well. The data is dirty in known ways; each person has a way to behave.
"""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random

from rehearsal.world.cast import (
    AccountSeed,
    AuthenticatorSeed,
    Behaviour,
    Dirt,
    ResetHit,
    Role,
)
from rehearsal.world.contacts import (
    Contact,
    brands,
    malformed_email,
    malformed_phone,
    people,
    phone_numbers,
)
from rehearsal.world.credentials import Credential, Holder, Loot, hand_out, opaque
from rehearsal.world.registry import ClientSeed, make_clients, make_introspector

SERVICE_ACCOUNT_ID = "u-svc-recovery"
BREAK_GLASS_IDS = ("u-break-glass-1", "u-break-glass-2")
"""The first one is in the burst, and still nobody may touch it."""

DEFAULT_BURST = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
BURST_LENGTH = timedelta(minutes=6)

_CASE_ACCOUNTS, _CASE_BRANDS, _CASE_ADMINS = 338, 18, 4
_SHARES = {
    Behaviour.PROMPT: 55,
    Behaviour.MISTYPES_ONCE: 8,
    Behaviour.LATER_TODAY: 20,
    Behaviour.NEXT_DAYS: 7,
    Behaviour.NEEDS_FOLLOW_UP: 6,
    Behaviour.ASKS_FRESH_LINK: 4,
}
_DELAY_HOURS = {
    Behaviour.LATER_TODAY: (1.0, 20.0),
    Behaviour.NEXT_DAYS: (25.0, 70.0),
    Behaviour.NEEDS_FOLLOW_UP: (0.2, 4.0),
    Behaviour.ASKS_FRESH_LINK: (0.5, 20.0),
}
_DIRT_OF_CASE = {
    "malformed_email": 3,
    "malformed_phone": 3,
    "no_phone": 4,
    "no_email": 3,
    "shared_mailbox": 2,
    "opted_out": 2,
}


@dataclass(frozen=True, slots=True)
class Population:
    """The whole cast. Equal for equal arguments of `populate`, in every process.

    `burst` is in the order of time and holds every affected account and the break-glass account
    that was hit; `affected_ids` are those to recover, in the same order; `excluded_ids` are the
    service account and the break-glass accounts. `introspector` is the recovery tool's own
    OAuth client, which may look at every token; it is not among `clients`.
    """

    seed: int
    accounts: dict[str, AccountSeed]
    clients: dict[str, ClientSeed]
    introspector: ClientSeed
    burst: tuple[ResetHit, ...]
    affected_ids: tuple[str, ...]
    excluded_ids: tuple[str, ...]
    credentials: tuple[Credential, ...]
    loot: Loot
    dirt: Dirt


def populate(
    seed: int,
    *,
    accounts: int = _CASE_ACCOUNTS,
    members: int = 400,
    clients: int = 14,
    burst_at: datetime = DEFAULT_BURST,
) -> Population:
    """The case at the size of `accounts` affected ones; proportions stay, dirt grows with it.

    `burst_at` moves every time by the same amount and changes nothing else. Phone numbers of
    people are all different up to 22,000 people; fiction has no more of them.
    """
    if accounts < 1 or members < 0 or clients < 0:
        raise ValueError("a population needs an affected account and no negative numbers")
    rng = Random(seed)
    registry = make_clients(rng, clients)
    maker = _Maker(rng, tuple(registry), burst_at)
    affected, dirt = _soil(
        rng, [maker.account(role, behaviour) for role, behaviour in _crowd(rng, accounts)]
    )
    guarded = [
        maker.guarded(SERVICE_ACCOUNT_ID, Role.SERVICE),
        *(maker.guarded(account_id, Role.ADMIN) for account_id in BREAK_GLASS_IDS),
    ]
    others = [maker.account(Role.MEMBER, Behaviour.BYSTANDER) for _ in range(members)]
    everyone = [*affected, *guarded, *others]
    excluded_ids = tuple(account.id for account in guarded)
    burst = _burst(rng, [a.id for a in affected], BREAK_GLASS_IDS[0], burst_at)
    credentials, loot = hand_out(rng, _holders(everyone, burst, excluded_ids))
    return Population(
        seed=seed,
        accounts={account.id: account for account in everyone},
        clients=registry,
        introspector=make_introspector(rng),
        burst=burst,
        affected_ids=tuple(h.account_id for h in burst if h.account_id not in excluded_ids),
        excluded_ids=excluded_ids,
        credentials=credentials,
        loot=loot,
        dirt=dirt,
    )


def _scaled(of_case: int, accounts: int) -> int:
    return round(of_case * accounts / _CASE_ACCOUNTS)


def _crowd(rng: Random, accounts: int) -> list[tuple[Role, Behaviour]]:
    """Role and behaviour of each affected account; shares are whole numbers, so that every seed
    gives the same mixture in another order."""
    brand = max(1, _scaled(_CASE_BRANDS, accounts))
    admin = min(max(1, _scaled(_CASE_ADMINS, accounts)), accounts - brand)
    ordinary = accounts - brand - admin
    mixture = [behaviour for behaviour, share in _SHARES.items() for _ in range(share)]
    behaviours = [mixture[(place * 100 + 50) // ordinary] for place in range(ordinary)]
    rng.shuffle(behaviours)
    return [
        *[(Role.BRAND, Behaviour.AFTER_PROOFING)] * brand,
        *[(Role.ADMIN, Behaviour.AFTER_PROOFING)] * admin,
        *[(Role.COMMUNITY_MANAGER, behaviour) for behaviour in behaviours],
    ]


class _Maker:
    """Draws one account after the other from the seed."""

    def __init__(self, rng: Random, client_ids: tuple[str, ...], burst_at: datetime) -> None:
        self._rng = rng
        self._client_ids = client_ids
        self._burst_at = burst_at
        numbers = phone_numbers(rng)
        self._people = people(rng, numbers)
        self._brands = brands(rng, numbers)
        self._ids: set[str] = set()

    def account(self, role: Role, behaviour: Behaviour) -> AccountSeed:
        rng = self._rng
        is_brand = role is Role.BRAND
        contact = next(self._brands if is_brand else self._people)
        return self._made(
            self._fresh_id(),
            role,
            contact,
            behaviour,
            followers=self._followers(role),
            billing_linked=rng.random() < (0.6 if is_brand else 0.04),
            active=rng.random() < (0.95 if role is Role.MEMBER else 1.0),
            apps=0 if role is Role.MEMBER and rng.random() < 0.7 else rng.randint(0, 3),
        )

    def guarded(self, account_id: str, role: Role) -> AccountSeed:
        """An account that recovery must leave alone; it has no apps and its own mailbox."""
        person = next(self._people)
        contact = Contact(account_id[2:], f"{account_id[2:]}@ops.example", person.phone, "en")
        return self._made(
            account_id,
            role,
            contact,
            Behaviour.BYSTANDER,
            followers=0,
            billing_linked=False,
            active=True,
            apps=0,
        )

    def _made(
        self,
        account_id: str,
        role: Role,
        contact: Contact,
        behaviour: Behaviour,
        *,
        followers: int,
        billing_linked: bool,
        active: bool,
        apps: int,
    ) -> AccountSeed:
        rng = self._rng
        idle = timedelta(seconds=rng.randint(60, 30 * 86400))
        authenticators = tuple(self._authenticators())
        linked = rng.sample(self._client_ids, min(apps, len(self._client_ids)))
        return AccountSeed(
            id=account_id,
            handle=contact.handle,
            email=contact.email,
            phone=contact.phone,
            role=role,
            brand_account=role is Role.BRAND,
            followers=followers,
            billing_linked=billing_linked,
            last_active=self._burst_at - idle if active else None,
            linked_apps=tuple(sorted(linked)),
            locale=contact.locale,
            password=opaque(rng, "pw"),
            totp_secret=next((a.secret for a in authenticators if a.secret), None),
            authenticators=authenticators,
            behaviour=behaviour,
            delay=self._delay(behaviour),
        )

    def _fresh_id(self) -> str:
        while (account_id := f"u-{self._rng.getrandbits(40):010x}") in self._ids:
            pass
        self._ids.add(account_id)
        return account_id

    def _followers(self, role: Role) -> int:
        if role is Role.BRAND:
            return self._rng.randint(50_000, 5_000_000)
        return min(2_000_000, int(self._rng.lognormvariate(8.0, 1.7)))

    def _authenticators(self) -> Iterator[AuthenticatorSeed]:
        rng = self._rng
        for kind, label, share in (
            ("totp", "Authenticator app", 0.7),
            ("sms", "Text message", 0.3),
            ("device", "Trusted device", 0.3),
        ):
            if rng.random() < share:
                secret = base64.b32encode(rng.randbytes(20)).decode() if kind == "totp" else None
                age = timedelta(days=rng.randint(40, 900))
                authenticator_id = f"aut-{rng.getrandbits(48):012x}"
                yield AuthenticatorSeed(authenticator_id, kind, label, self._burst_at - age, secret)

    def _delay(self, behaviour: Behaviour) -> timedelta:
        if behaviour is Behaviour.BYSTANDER:
            return timedelta(0)
        if behaviour in _DELAY_HOURS:
            return timedelta(seconds=round(3600 * self._rng.uniform(*_DELAY_HOURS[behaviour])))
        return timedelta(milliseconds=self._rng.randint(1000, 6000))


def _soil(rng: Random, affected: list[AccountSeed]) -> tuple[list[AccountSeed], Dirt]:
    """Makes the data as bad as the case's; brands and admins keep clean data, since a person
    looks at them anyway. Where there are too few accounts, some kinds of dirt are missing."""
    by_id = {account.id: account for account in affected}
    pool = [account.id for account in affected if account.role is Role.COMMUNITY_MANAGER]
    rng.shuffle(pool)
    taken: dict[str, tuple[str, ...]] = {}
    for kind, of_case in _DIRT_OF_CASE.items():
        count = max(1, _scaled(of_case, len(affected)))
        if kind == "shared_mailbox":
            count = 2 * max(1, count // 2)
        if count > len(pool):
            break
        taken[kind] = tuple(pool.pop() for _ in range(count))
    dirt = Dirt(**taken)
    for variant, one in enumerate(dirt.malformed_email):
        by_id[one] = replace(by_id[one], email=malformed_email(by_id[one].handle, variant))
    for variant, one in enumerate(dirt.malformed_phone):
        by_id[one] = replace(by_id[one], phone=malformed_phone(variant))
    for one in dirt.no_phone:
        by_id[one] = replace(by_id[one], phone=None)
    for one in dirt.no_email:
        by_id[one] = replace(by_id[one], email=None)
    for first, second in zip(dirt.shared_mailbox[::2], dirt.shared_mailbox[1::2], strict=True):
        by_id[second] = replace(by_id[second], email=by_id[first].email)
    for one in dirt.opted_out:
        by_id[one] = replace(by_id[one], opted_out=True)
    return list(by_id.values()), dirt


def _burst(
    rng: Random, affected_ids: list[str], guarded_id: str, burst_at: datetime
) -> tuple[ResetHit, ...]:
    """Resets spread over BURST_LENGTH. For four in ten the attacker knows the new password;
    he never was in the guarded account, which the same fault hit."""
    hits = [
        ResetHit(
            account_id,
            burst_at + BURST_LENGTH * rng.random(),
            opaque(rng, "pw"),
            rng.random() < 0.4 and account_id != guarded_id,
        )
        for account_id in [*affected_ids, guarded_id]
    ]
    return tuple(sorted(hits, key=lambda hit: (hit.at, hit.account_id)))


def _holders(
    everyone: Iterable[AccountSeed], burst: Iterable[ResetHit], excluded_ids: tuple[str, ...]
) -> Iterator[Holder]:
    hits = {hit.account_id: hit for hit in burst}
    for account in everyone:
        hit = hits.get(account.id)
        yield Holder(
            account_id=account.id,
            handle=account.handle,
            linked_apps=account.linked_apps,
            totp_secret=account.totp_secret,
            last_active=account.last_active,
            stolen_from=hit is not None and account.id not in excluded_ids,
            new_password=hit.new_password if hit and hit.known_to_attacker else None,
        )
