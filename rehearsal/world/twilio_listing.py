"""What a request for Twilio's list of messages asks for: dates and the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

from rehearsal.world.twilio_rules import TwilioRefused

MAX_PAGE_SIZE = 1_000


@dataclass(frozen=True, slots=True)
class Dates:
    """`DateSent`, `DateSent>=` and `DateSent<=`; a bound without a time means its whole day."""

    on: date | None = None
    earliest: datetime | date | None = None
    latest: datetime | date | None = None

    def hold(self, moment: datetime) -> bool:
        """To the second, as Twilio keeps its dates."""
        moment = moment.replace(microsecond=0)
        if self.on is not None and moment.date() != self.on:
            return False
        for bound, is_earliest in ((self.earliest, True), (self.latest, False)):
            if bound is None:
                continue
            given = moment if isinstance(bound, datetime) else moment.date()
            if (given < bound) if is_earliest else (given > bound):
                return False
        return True


@dataclass(frozen=True, slots=True)
class Page:
    """`after_sid` is the last message of the page before; without it `number` counts pages."""

    number: int
    size: int
    after_sid: str | None


def dates_asked(query: Mapping[str, str]) -> Dates:
    """The parameters' names are `DateSent>` and `DateSent<`; the = of the wire is the form's."""
    on = _date(query.get("DateSent"))
    if isinstance(on, datetime):
        on = on.date()
    return Dates(on, _date(query.get("DateSent>")), _date(query.get("DateSent<")))


def page_asked(query: Mapping[str, str]) -> Page:
    token = query.get("PageToken")
    if token is not None and not token.startswith("PA"):
        raise TwilioRefused(400, 20006, "The PageToken is not valid.")
    return Page(
        number=_number(query.get("Page", "0"), 0, 10**9, "Page"),
        size=_number(query.get("PageSize", "50"), 1, MAX_PAGE_SIZE, "PageSize"),
        after_sid=None if token is None else token.removeprefix("PA"),
    )


def _date(given: str | None) -> datetime | date | None:
    if given is None:
        return None
    try:
        if len(given) == len("2026-01-01"):
            return date.fromisoformat(given)
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise TwilioRefused(400, 20001, "The DateSent is not a valid date.") from None
    return moment.replace(tzinfo=moment.tzinfo or UTC, microsecond=0)


def _number(given: str, least: int, most: int, name: str) -> int:
    if not given.isdigit() or not least <= int(given) <= most:
        raise TwilioRefused(400, 20001, f"The {name} is out of range.")
    return int(given)
