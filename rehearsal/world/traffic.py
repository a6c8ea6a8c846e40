"""What the SIEM has seen: weeks of ordinary sign-ins and resets, then a burst of password resets.

Documents are ECS in two shapes: Elastic's Okta integration, where the affected person is
user.target.* and okta.target[] while user.* is the actor, and a portal's self-service, where it is
user.*. The truth about every reset is kept beside the documents, so that a test can ask what a
search ought to have found.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from rehearsal.world.traffic_documents import (
    BURST_ADMIN,
    HUMAN_ADMINS,
    DocumentMaker,
    Person,
    in_whole_ms,
)

Document: TypeAlias = dict[str, Any]

# Relative load by hour of the day (UTC) and by day of the week from Monday.
_BY_HOUR = (3, 2, 2, 2, 3, 5, 9, 14, 19, 21, 20, 18, 17, 19, 20, 19, 17, 14, 12, 10, 9, 8, 6, 4)
_BY_WEEKDAY = (1.12, 1.06, 1.04, 1.04, 1.0, 0.72, 0.68)
_RESETS_A_DAY = 90
_SECOND = timedelta(seconds=1)
_QUIET = timedelta(minutes=10)
"""Around the burst there is no ordinary reset: a search that pads its window would take it in, and
how many there are depends on the hour."""
_FEWEST_RESETS, _MOST_RESETS = 60, 120
_A_DAY = {"login": 1_160, "login_failed": 140, "api": 430, "mfa": 110, "password_change": 15}


@dataclass(frozen=True, slots=True)
class Reset:
    """One successful reset that a document tells of. `account_id` is None where it can't be told;
    searchable from `ingested` on."""

    document_id: str
    account_id: str | None
    at: datetime
    ingested: datetime


@dataclass(frozen=True, slots=True)
class Tally:
    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Truth:
    """Every successful reset in the documents, ordinary ones too, and where the burst lies.

    Inside the burst's window an ordinary reset can't be told from the incident's and counts.
    `as_of` leaves out what was not yet ingested at that moment.
    """

    burst_start: datetime
    burst_end: datetime
    resets: tuple[Reset, ...]
    late_ids: frozenset[str]
    bystanders: frozenset[str]

    def within(
        self, start: datetime, end: datetime, as_of: datetime | None = None
    ) -> tuple[Reset, ...]:
        """The resets with start <= at < end."""
        return tuple(
            reset
            for reset in self.resets
            if start <= reset.at < end and (as_of is None or reset.ingested <= as_of)
        )

    def burst(self, as_of: datetime | None = None) -> tuple[Reset, ...]:
        return self.within(self.burst_start, self.burst_end, as_of)

    def accounts(self, as_of: datetime | None = None) -> frozenset[str]:
        return frozenset(tallies(self.burst(as_of)))

    def unattributed(self, as_of: datetime | None = None) -> int:
        return sum(reset.account_id is None for reset in self.burst(as_of))

    def late_accounts(self, as_of: datetime) -> frozenset[str]:
        """Accounts of the burst that no search can know of before more time has passed."""
        return self.accounts() - self.accounts(as_of)


def tallies(resets: Iterable[Reset]) -> dict[str, Tally]:
    """First, last and number of the resets by account, without the unattributed."""
    result: dict[str, Tally] = {}
    for reset in resets:
        if reset.account_id is None:
            continue
        known = result.get(reset.account_id)
        if known is None:
            result[reset.account_id] = Tally(reset.at, reset.at, 1)
        else:
            first, last = min(known.first, reset.at), max(known.last, reset.at)
            result[reset.account_id] = Tally(first, last, known.count + 1)
    return result


@dataclass(frozen=True, slots=True)
class Traffic:
    """Documents in order of @timestamp, and the truth about them."""

    documents: list[Document]
    truth: Truth


def generate(
    rng: random.Random,
    now: datetime,
    affected: Sequence[Person],
    ordinary: Sequence[Person],
    days: int = 26,
    *,
    scale: float = 1.0,
    burst_start: datetime | None = None,
    burst_length: timedelta = timedelta(minutes=6),
    unattributed: int = 5,
    late: int = 6,
    late_by: tuple[timedelta, timedelta] = (timedelta(seconds=20), timedelta(minutes=4)),
    hits: Mapping[str, datetime] | None = None,
) -> Traffic:
    """`days` of ordinary traffic up to `now` and the burst; the same for the same seed.

    The burst begins `burst_start` (12 minutes ago unless told) and resets every affected account,
    some twice. Ordinary traffic follows the hour and the weekday of `now`; the incident does not:
    it is the same for the same seed on every day. `hits` says when an account's first reset was,
    where the world has decided that already; ValueError if one lies outside of the burst. `scale`
    multiplies the ordinary traffic; at 1.0 there are about 50,000 documents.
    """
    start = in_whole_ms(burst_start if burst_start is not None else now - timedelta(minutes=12))
    end = start + burst_length
    known = {account_id: in_whole_ms(at) for account_id, at in (hits or {}).items()}
    if any(not start <= at < end for at in known.values()):
        raise ValueError(f"a reset of the burst lies outside of {start} to {end}")
    rng, everyday = random.Random(rng.getrandbits(64)), random.Random(rng.getrandbits(64))
    scribe = _Scribe(everyday, now)
    everyone = [*affected, *ordinary]
    quiet = (start - _QUIET, end + _QUIET)
    for day in range(days, 0, -1):
        scribe.ordinary_day(now - timedelta(days=day), everyone, scale, quiet)
    scribe.turn_to(rng)
    bystanders = rng.sample(list(ordinary), k=min(len(ordinary), rng.choice((1, 2))))
    for person in bystanders:
        scribe.self_service(person, scribe.moment(start, end))
    scribe.burst(affected, start, end, unattributed, known)
    late_ids = scribe.delay(late, start, end, late_by)
    scribe.locked_out(affected, start, scale)
    scribe.documents.sort(key=lambda document: str(document["@timestamp"]))
    resets = tuple(sorted(scribe.resets.values(), key=lambda reset: reset.at))
    ids = frozenset(person[0] for person in bystanders)
    return Traffic(scribe.documents, Truth(start, end, resets, late_ids, ids))


class _Scribe:
    """Writes documents and, with every successful reset, the truth."""

    def __init__(self, rng: random.Random, now: datetime) -> None:
        self._rng = rng
        self._now = now
        self._make = DocumentMaker(rng)
        self.documents: list[Document] = []
        self.resets: dict[str, Reset] = {}

    def turn_to(self, rng: random.Random) -> None:
        """Draws from another source from now on."""
        self._rng = rng
        self._make = DocumentMaker(rng)

    def moment(self, start: datetime, end: datetime) -> datetime:
        span = (end - start) // timedelta(milliseconds=1)
        return in_whole_ms(start) + timedelta(milliseconds=self._rng.randrange(span))

    def ordinary_day(
        self,
        day: datetime,
        everyone: Sequence[Person],
        scale: float,
        quiet: tuple[datetime, datetime],
    ) -> None:
        """The 24 hours that begin at `day`. No reset of theirs falls into the quiet time."""
        if not everyone:
            return
        rng, make = self._rng, self._make
        hours = [day + timedelta(hours=hour) for hour in range(24)]
        weights = [_BY_HOUR[hour.hour] * _BY_WEEKDAY[hour.weekday()] for hour in hours]
        load = sum(weights) / sum(_BY_HOUR)

        def moments(count: int) -> list[datetime]:
            return [
                in_whole_ms(hour + timedelta(seconds=rng.random() * 3600))
                for hour in rng.choices(hours, weights, k=count)
            ]

        for kind, a_day in _A_DAY.items():
            for at in moments(_poisson(rng, a_day * load * scale)):
                self.documents.append(make.ordinary(kind, rng.choice(everyone), at))
        resets = _poisson(rng, _RESETS_A_DAY * load)
        resets = round(min(_MOST_RESETS, max(_FEWEST_RESETS, resets)) * scale)
        for at in moments(resets):
            if quiet[0] <= at < quiet[1]:
                continue
            person, chance = rng.choice(everyone), rng.random()
            if chance < 0.04:
                self.documents.append(make.portal_reset(person, at, outcome="failure"))
            elif chance < 0.09:
                actor = rng.choice(HUMAN_ADMINS)
                self._reset(make.okta_reset(actor, person, at), person, at)
            else:
                self.self_service(person, at)

    def self_service(self, person: Person, at: datetime) -> None:
        if self._rng.random() < 0.35:
            actor = (person[0], person[1], person[2] or "unknown")
            self._reset(self._make.okta_reset(actor, person, at), person, at)
        else:
            self._reset(self._make.portal_reset(person, at), person, at)

    def burst(
        self,
        affected: Sequence[Person],
        start: datetime,
        end: datetime,
        unattributed: int,
        known: Mapping[str, datetime],
    ) -> None:
        """Every affected account once, one in 25 again, some failed tries, and some events that
        don't say whom they hit."""
        rng, make = self._rng, self._make
        for person in affected:
            first = known.get(person[0]) or self._surge(start, end)
            self._incident(person, first)
            if rng.random() < 0.04:
                self._incident(person, self.moment(first, end))
        for person in affected:
            if rng.random() < 0.01:
                at = self._surge(start, end)
                failed = make.okta_reset(BURST_ADMIN, person, at, outcome="failure")
                self.documents.append(failed)
        for number in range(unattributed):
            at = self._surge(start, end)
            nobody = make.portal_reset(None, at)
            if number % 3:
                nobody = make.okta_reset(BURST_ADMIN, None, at)
            self._reset(nobody, None, at)

    def _incident(self, person: Person, at: datetime) -> None:
        if self._rng.random() < 0.7:
            self._reset(self._make.okta_reset(BURST_ADMIN, person, at), person, at)
        else:
            self._reset(self._make.portal_reset(person, at), person, at)

    def _surge(self, start: datetime, end: datetime) -> datetime:
        """A moment in the window, most likely in its first half."""
        length = (end - start).total_seconds()
        seconds = self._rng.triangular(0, length, length / 4)
        return min(in_whole_ms(start + timedelta(seconds=seconds)), end - _SECOND)

    def delay(
        self, count: int, start: datetime, end: datetime, by: tuple[timedelta, timedelta]
    ) -> frozenset[str]:
        """Let some of the burst's attributed events reach the SIEM only after `now`, `by` so much
        at least and at most."""
        inside = [r for r in self.resets.values() if start <= r.at < end and r.account_id]
        chosen = self._rng.sample(inside, k=min(count, len(inside)))
        least, most = by
        delays = {r.document_id: least + (most - least) * self._rng.random() for r in chosen}
        for document in self.documents:
            document_id = document["event"]["id"]
            if (delay := delays.get(document_id)) is None:
                continue
            ingested = in_whole_ms(self._now + delay)
            self._make.stamp_ingested(document, ingested)
            known = self.resets[document_id]
            self.resets[document_id] = Reset(document_id, known.account_id, known.at, ingested)
        return frozenset(delays)

    def locked_out(self, affected: Sequence[Person], start: datetime, scale: float) -> None:
        """People whose password stopped working try it until now."""
        if self._now <= start:
            return
        tries = min(round(len(affected) * 0.4), round(2_000 * scale))
        for person in self._rng.sample(list(affected), k=tries):
            at = self.moment(start, self._now)
            self.documents.append(self._make.ordinary("login_failed", person, at))

    def _reset(self, document: Document, person: Person | None, at: datetime) -> None:
        event: Mapping[str, Any] = document["event"]
        ingested = datetime.fromisoformat(event["ingested"])
        account_id = person[0] if person is not None else None
        self.resets[event["id"]] = Reset(event["id"], account_id, at, ingested)
        self.documents.append(document)


def _poisson(rng: random.Random, mean: float) -> int:
    if mean > 40:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count
