"""The cast is the playbook's case, the same for the same seed, and reaches nobody real."""

from collections import Counter
from datetime import timedelta

import phonenumbers
import pytest
from email_validator import EmailNotValidError, validate_email

from rehearsal.world.cast import AccountSeed, Behaviour, Role
from rehearsal.world.contacts import phone_numbers
from rehearsal.world.credentials import PUBLIC_CLIENTS, CredentialKind
from rehearsal.world.population import (
    BREAK_GLASS_IDS,
    BURST_LENGTH,
    DEFAULT_BURST,
    SERVICE_ACCOUNT_ID,
    Population,
    populate,
)


@pytest.fixture(scope="module")
def case() -> Population:
    return populate(1)


def affected(population: Population) -> list[AccountSeed]:
    return [population.accounts[one] for one in population.affected_ids]


def is_deliverable(address: str) -> bool:
    try:
        validate_email(address, check_deliverability=False)
    except EmailNotValidError:
        return False
    return True


def is_dialable(number: str) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number))
    except phonenumbers.NumberParseException:
        return False


def test_numbers_of_the_case(case: Population) -> None:
    roles = Counter(account.role for account in affected(case))
    assert roles[Role.BRAND] == 18
    assert roles[Role.COMMUNITY_MANAGER] + roles[Role.ADMIN] == 320
    assert roles[Role.ADMIN] == 4
    assert len(set(case.affected_ids)) == 338
    assert len(case.clients) == 14
    assert len(case.accounts) == 338 + 3 + 400
    consumers = [c.name for client in case.clients.values() for c in client.consumers]
    assert len(consumers) == len(set(consumers))
    assert {len(client.consumers) for client in case.clients.values()} <= {1, 2, 3}
    assert not set(PUBLIC_CLIENTS) & set(case.clients)
    assert case.introspector.introspect_all
    assert case.introspector.id not in case.clients


def test_the_guarded_accounts_and_the_burst(case: Population) -> None:
    assert case.excluded_ids == (SERVICE_ACCOUNT_ID, *BREAK_GLASS_IDS)
    assert case.accounts[SERVICE_ACCOUNT_ID].role is Role.SERVICE
    hit = [one.account_id for one in case.burst]
    assert set(hit) - set(case.affected_ids) == {BREAK_GLASS_IDS[0]}
    assert [one for one in hit if one not in case.excluded_ids] == list(case.affected_ids)
    times = [one.at for one in case.burst]
    assert times == sorted(times)
    assert times[-1] - DEFAULT_BURST < BURST_LENGTH
    assert not [c for c in case.loot.items if c.account_id in case.excluded_ids]


def test_the_same_seed_gives_the_same_world(case: Population) -> None:
    assert populate(1) == case
    other = populate(2)
    assert other != case
    assert not set(other.affected_ids) & set(case.affected_ids)
    assert not {c.value for c in other.loot.items} & {c.value for c in case.loot.items}


def test_the_moment_of_the_burst_moves_times_and_nothing_else(case: Population) -> None:
    later = populate(1, burst_at=DEFAULT_BURST + timedelta(days=3))
    assert later.affected_ids == case.affected_ids
    assert later.loot == case.loot
    assert later.burst[0].at - case.burst[0].at == timedelta(days=3)


@pytest.mark.parametrize("accounts", [1, 2, 7, 60, 1000])
def test_proportions_hold_at_every_size(accounts: int) -> None:
    population = populate(3, accounts=accounts, members=5, clients=4)
    people = affected(population)
    assert len(people) == accounts
    brands = sum(account.brand_account for account in people)
    assert brands == max(1, round(accounts * 18 / 338))
    if accounts == 1000:
        shares = Counter(a.behaviour for a in people if a.role is Role.COMMUNITY_MANAGER)
        ordinary = shares.total()
        assert abs(shares[Behaviour.PROMPT] / ordinary - 0.55) < 0.01
        assert abs(shares[Behaviour.LATER_TODAY] / ordinary - 0.20) < 0.01
        assert abs(shares[Behaviour.ASKS_FRESH_LINK] / ordinary - 0.04) < 0.01
        assert len(population.dirt.no_phone) == 12


def test_every_fictional_number_is_valid() -> None:
    from random import Random

    numbers = phone_numbers(Random(0))
    drawn = [next(numbers) for _ in range(22_195)]
    assert len(set(drawn)) == 22_195
    by_area: dict[str, str] = {number[:-2]: number for number in drawn}
    invalid = [number for number in by_area.values() if not is_dialable(number)]
    assert invalid == []
    assert {"49", "46"} <= {number[1:3] for number in drawn}


def test_contacts_are_usable_except_where_dirt_says_so(case: Population) -> None:
    dirt = case.dirt
    kinds = [
        dirt.malformed_email,
        dirt.malformed_phone,
        dirt.no_phone,
        dirt.no_email,
        dirt.shared_mailbox,
        dirt.opted_out,
    ]
    assert [len(kind) for kind in kinds] == [3, 3, 4, 3, 2, 2]
    dirty = [one for kind in kinds for one in kind]
    assert len(dirty) == len(set(dirty))
    for account in affected(case):
        assert (account.email is None) == (account.id in dirt.no_email)
        assert (account.phone is None) == (account.id in dirt.no_phone)
        assert account.opted_out == (account.id in dirt.opted_out)
        if account.email is not None:
            assert is_deliverable(account.email) == (account.id not in dirt.malformed_email)
        if account.phone is not None:
            assert is_dialable(account.phone) == (account.id not in dirt.malformed_phone)
    addresses = Counter(a.email for a in case.accounts.values() if a.email)
    first, second = dirt.shared_mailbox
    assert [a for a, n in addresses.items() if n > 1] == [case.accounts[first].email]
    assert case.accounts[first].email == case.accounts[second].email
    phones = Counter(a.phone for a in case.accounts.values() if a.phone)
    assert max(phones.values()) == 1
    handles = Counter(a.handle for a in case.accounts.values())
    assert max(handles.values()) == 1


def test_addresses_belong_to_reserved_domains_only(case: Population) -> None:
    for account in case.accounts.values():
        if account.email and account.id not in case.dirt.malformed_email:
            domain = account.email.rpartition("@")[2]
            assert domain in {"example.com", "example.org", "example.net"} or domain.endswith(
                ".example"
            )


def test_behaviours_and_their_delays(case: Population) -> None:
    hour = timedelta(hours=1)
    for account in case.accounts.values():
        match account.behaviour:
            case Behaviour.PROMPT | Behaviour.MISTYPES_ONCE | Behaviour.AFTER_PROOFING:
                assert timedelta(seconds=1) <= account.delay <= timedelta(seconds=6)
            case Behaviour.LATER_TODAY:
                assert hour <= account.delay <= 20 * hour
            case Behaviour.NEXT_DAYS:
                assert 25 * hour <= account.delay <= 70 * hour
            case Behaviour.ASKS_FRESH_LINK:
                assert timedelta(minutes=15) < account.delay < 24 * hour
            case Behaviour.BYSTANDER:
                assert account.id not in case.affected_ids
            case Behaviour.NEEDS_FOLLOW_UP:
                assert timedelta(0) < account.delay < 24 * hour
    manual = {a.id for a in affected(case) if a.role in (Role.BRAND, Role.ADMIN)}
    assert manual == {a.id for a in affected(case) if a.behaviour is Behaviour.AFTER_PROOFING}


def test_loot_is_most_of_what_the_affected_had(case: Population) -> None:
    assert {c.account_id for c in case.loot.items} <= set(case.affected_ids)
    assert len({c.account_id for c in case.loot.items}) > 300
    for kind in CredentialKind:
        assert len(case.loot.of(kind)) > 50, kind
    for token in case.loot.of(CredentialKind.REFRESH_TOKEN):
        assert token.client_id in PUBLIC_CLIENTS
    known = {hit.account_id: hit.new_password for hit in case.burst if hit.known_to_attacker}
    assert {c.account_id: c.value for c in case.loot.of(CredentialKind.PASSWORD)} == known
    live = {c.value for c in case.credentials}
    assert {c.value for c in case.loot.items if c.kind is not CredentialKind.PASSWORD} < live


def test_secrets_and_contacts_do_not_show_in_reprs(case: Population) -> None:
    account = affected(case)[0]
    shown = repr(account) + repr(case.loot.items[0]) + repr(next(iter(case.clients.values())))
    for value in (
        account.email,
        account.handle,
        account.password,
        account.totp_secret,
        case.loot.items[0].value,
        next(iter(case.clients.values())).secret,
    ):
        assert value is None or value not in shown
