"""The CIs of one runbook behind one `run`: a consumer's `ci_job` says which of them restarts it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from blocks.base import CiClient
from recovery.app_clients import split_ci_job
from recovery.errors import Misconfigured

if TYPE_CHECKING:
    from clients.ci import Build


class CiByName:
    """Open clients by their name in the runbook; whoever opened them closes them."""

    def __init__(self, clients: Mapping[str, CiClient]) -> None:
        self._clients = dict(clients)

    def __repr__(self) -> str:
        return f"CiByName({sorted(self._clients)})"

    @property
    def names(self) -> Collection[str]:
        return self._clients.keys()

    async def run(
        self,
        ci_job: str,
        parameters: Mapping[str, str],
        *,
        run_id: str,
        poll: timedelta,
        timeout: timedelta,
    ) -> Build:
        """As `CiClient.run`, at the CI that `ci_job` names."""
        name, job = split_ci_job(ci_job)
        client = self._clients.get(name)
        if client is None:
            raise Misconfigured(
                "Start a CI job",
                subject=ci_job,
                expected=f"one of the runbook's CIs ({', '.join(sorted(self._clients))})",
                got=name,
                advice="Name it under `systems.ci` in the runbook.",
            )
        return await client.run(job, parameters, run_id=run_id, poll=poll, timeout=timeout)
