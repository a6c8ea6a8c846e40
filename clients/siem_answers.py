"""Elasticsearch's search answers as they stand on the wire, and whether one is the whole truth."""

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field, NonNegativeInt

from recovery.accounts import Sighting
from recovery.errors import Incomplete, Misconfigured

Body = dict[str, Any]


class _Shards(BaseModel):
    total: NonNegativeInt
    successful: NonNegativeInt
    failed: NonNegativeInt


class _Clusters(BaseModel):
    skipped: NonNegativeInt = 0
    partial: NonNegativeInt = 0
    failed: NonNegativeInt = 0
    running: NonNegativeInt = 0


class _Total(BaseModel):
    value: NonNegativeInt
    relation: str


class _Hits(BaseModel):
    total: _Total


class _TimeBucket(BaseModel):
    key: int
    doc_count: NonNegativeInt

    @property
    def start(self) -> datetime:
        return instant(self.key)


class _Histogram(BaseModel):
    buckets: list[_TimeBucket]


class _Millis(BaseModel):
    value: float


class _AccountKey(BaseModel):
    account: str | int


class AccountBucket(BaseModel):
    key: _AccountKey
    doc_count: NonNegativeInt
    first: _Millis
    last: _Millis

    def sighting(self, source: str) -> Sighting:
        return Sighting(
            account_id=str(self.key.account),
            first_seen=instant(self.first.value),
            last_seen=instant(self.last.value),
            resets=self.doc_count,
            source=source,
        )


class _Composite(BaseModel):
    buckets: list[AccountBucket]
    after_key: _AccountKey | None = None


class _TermBucket(BaseModel):
    key: str | int
    doc_count: NonNegativeInt


class _Terms(BaseModel):
    buckets: list[_TermBucket]


class SearchAnswer(BaseModel):
    """What every search answers; `whole` before anything of it is used."""

    timed_out: bool
    shards: _Shards = Field(alias="_shards")
    clusters: _Clusters | None = Field(default=None, alias="_clusters")
    hits: _Hits
    pit_id: str | None = None

    def whole(self, attempted: str) -> int:
        """The exact number of matching documents; Incomplete where the answer is a part.

        Elasticsearch says HTTP 200 to a search that lost shards, ran out of time or could not
        reach a remote cluster.
        """
        problem = ""
        if self.timed_out:
            problem = "a search that ran out of time"
        elif self.shards.failed or self.shards.successful < self.shards.total:
            problem = f"{self.shards.successful} of {self.shards.total} shards"
        elif self.clusters and any(self.clusters.model_dump().values()):
            problem = "an answer without some of the remote clusters"
        elif self.hits.total.relation != "eq":
            problem = "a lower bound in place of a count"
        if problem:
            raise incomplete(attempted, problem)
        if self.shards.total == 0:
            raise Misconfigured(
                attempted,
                expected="the index pattern to match something",
                got="no index",
                advice="Correct the index pattern in the block for the SIEM.",
            )
        return self.hits.total.value


class _CountsByTime(BaseModel):
    by_time: _Histogram


class CountsAnswer(SearchAnswer):
    aggregations: _CountsByTime


class _Accounts(BaseModel):
    accounts: _Composite


class AccountsAnswer(SearchAnswer):
    aggregations: _Accounts


class _Actors(BaseModel):
    actors: _Terms


class ActorsAnswer(SearchAnswer):
    aggregations: _Actors


class _Clients(BaseModel):
    clients: _Terms


class ClientsAnswer(SearchAnswer):
    aggregations: _Clients


class PitAnswer(BaseModel):
    id: str = Field(min_length=1)
    shards: _Shards | None = Field(default=None, alias="_shards")


def incomplete(attempted: str, got: str) -> Incomplete:
    return Incomplete(
        attempted,
        expected="the whole answer",
        got=got,
        advice="Nothing was used. Run again; if it stays, look at the health of the SIEM.",
    )


def millis(moment: datetime) -> int:
    """Epoch milliseconds, Elasticsearch's own resolution of a date."""
    if moment.tzinfo is None:
        raise ValueError("a search needs aware datetimes")
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


def instant(milliseconds: float) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
