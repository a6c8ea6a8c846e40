"""The refusals of the SIEM server in the JSON shape that Elasticsearch gives them."""

from collections.abc import Sequence
from typing import Any, TypeAlias

Json: TypeAlias = Any  # what json.loads gives: the wire is untyped by nature

MAX_BUCKETS = 65_536


class SearchRefused(Exception):
    """A request that is answered with an Elasticsearch error. `phase` marks the errors that a real
    cluster finds on its shards and therefore wraps in search_phase_execution_exception."""

    def __init__(
        self, status: int, kind: str, reason: str, *, phase: bool = False, **details: Json
    ) -> None:
        super().__init__(f"{kind}: {reason}")
        self.status = status
        self.kind = kind
        self.reason = reason
        self.phase = phase
        self.details = details

    def body(self) -> dict[str, Json]:
        cause: dict[str, Json] = {"type": self.kind, "reason": self.reason, **self.details}
        if not self.phase:
            return {"error": {"root_cause": [cause], **cause}, "status": self.status}
        return {
            "error": {
                "root_cause": [cause],
                "type": "search_phase_execution_exception",
                "reason": "all shards failed",
                "phase": "query",
                "grouped": True,
                "failed_shards": [{"shard": 0, "index": None, "reason": cause}],
                "caused_by": cause,
            },
            "status": self.status,
        }


def shards_failed(status: int, reason: str, failures: Sequence[Json]) -> dict[str, Json]:
    """The whole body for a search that the cluster gives up because shards failed."""
    return {
        "error": {
            "root_cause": [failure["reason"] for failure in failures],
            "type": "search_phase_execution_exception",
            "reason": reason,
            "phase": "query",
            "grouped": True,
            "failed_shards": list(failures),
        },
        "status": status,
    }


def parsing(reason: str, **details: Json) -> SearchRefused:
    return SearchRefused(400, "parsing_exception", reason, line=1, col=1, **details)


def unknown_field(parser: str, name: str) -> SearchRefused:
    """What Elasticsearch's object parsers say about a key that they do not know."""
    return SearchRefused(
        400, "x_content_parse_exception", f"[1:1] [{parser}] unknown field [{name}]"
    )


def illegal(reason: str, *, phase: bool = False) -> SearchRefused:
    return SearchRefused(400, "illegal_argument_exception", reason, phase=phase)


def too_many_buckets(limit: int = MAX_BUCKETS) -> SearchRefused:
    reason = (
        f"Trying to create too many buckets. Must be less than or equal to: [{limit}]. "
        "This limit is set by the [search.max_buckets] cluster level setting."
    )
    return SearchRefused(400, "too_many_buckets_exception", reason, phase=True, max_buckets=limit)


def context_missing(context_id: str) -> SearchRefused:
    reason = f"No search context found for id [{context_id}]"
    return SearchRefused(404, "search_context_missing_exception", reason, phase=True)


def no_such_index(name: str) -> SearchRefused:
    return SearchRefused(
        404,
        "index_not_found_exception",
        f"no such index [{name}]",
        index=name,
        index_uuid="_na_",
    )
