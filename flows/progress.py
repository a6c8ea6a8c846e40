"""What the run history shows of a phase: one progress artifact, one table, pages; within a run each
is updated and never multiplied."""

import asyncio
import json
import time
from typing import Any, Self
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.runtime import flow_run

from recovery.accounts import BatchRef
from recovery.incident import Phase
from recovery.run_texts import phase_rows, wave_name
from tasks.case import Case
from tasks.prefect_api import patiently

TABLE_SECONDS = 3.0
"""The table of a phase is drawn no more often while batches come in."""


def artifact_key(case: Case, name: str) -> str:
    """Keys hold lower-case letters, digits and dashes only."""
    return f"{name}-{case.incident_id}".lower().replace(".", "-")


class Progress:
    """Counts finished batches of one phase into its progress artifact, and its waves into a table.

    The phase's run is called after the wave it works on.
    """

    def __init__(
        self, case: Case, phase: Phase, step: str, waves: list[int], total: int, artifact: UUID
    ) -> None:
        self._case, self._phase, self._step = case, phase, step
        self._waves, self._total = waves, total
        self._artifact, self._done = artifact, 0
        self._drawn = 0.0

    @classmethod
    async def start(cls, case: Case, phase: Phase, step: str, batches: list[BatchRef]) -> Self:
        artifact = await patiently(
            lambda: acreate_progress_artifact(
                progress=0.0 if batches else 100.0,
                key=artifact_key(case, f"progress-{phase}"),
                description=f"{phase} {case.incident_id}: {len(batches)} batches",
            )
        )
        waves = sorted({batch.wave for batch in batches})
        return cls(case, phase, step, waves, len(batches), artifact)

    async def wave(self, number: int) -> None:
        """Names the phase's own run after the wave that begins."""
        await name_run(wave_name(self._phase, self._case.incident_id, number))

    async def advance(self, batch: BatchRef) -> None:
        self._done += 1
        done = self._done
        await patiently(
            lambda: aupdate_progress_artifact(
                self._artifact,
                progress=100.0 * done / self._total,
                description=f"{self._phase} {batch}: {done} of {self._total} batches",
            )
        )
        if time.monotonic() - self._drawn > TABLE_SECONDS:
            await self.draw()

    async def draw(self) -> None:
        """The table as the ledger stands now."""
        self._drawn = time.monotonic()
        ledger, incident_id = self._case.ledger, self._case.incident_id
        tally = await asyncio.to_thread(ledger.tally, incident_id)
        marks = {m.name for m in await asyncio.to_thread(ledger.marks, incident_id)}
        promoted = [w for w in self._waves if f"{self._phase}.wave.{w}.promoted" in marks]
        rows = phase_rows(tally, self._step, self._waves, promoted)
        await show_table(
            self._case, str(self._phase), rows, f"{self._phase} {incident_id}, wave by wave"
        )


async def show_table(case: Case, name: str, rows: list[dict[str, str | int]], title: str) -> None:
    await _show(case, name, "table", json.dumps(rows), title)


async def show_markdown(case: Case, name: str, markdown: str, title: str) -> None:
    await _show(case, name, "markdown", markdown, title)


async def _show(case: Case, name: str, kind: str, data: str, title: str) -> None:
    run_id = UUID(flow_run.id) if flow_run.id else None

    async def put() -> None:
        async with get_client() as client:
            await put_artifact(client, artifact_key(case, name), kind, data, title, run_id)

    await patiently(put)


async def put_artifact(
    client: PrefectClient, key: str, kind: str, data: str, title: str, run_id: UUID | None
) -> None:
    """Updates the run's artifact of that key, or creates it."""
    if run_id is not None:
        wanted = ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]), key=ArtifactFilterKey(any_=[key])
        )
        found = await client.read_artifacts(artifact_filter=wanted)
        if found:
            changed = ArtifactUpdate(data=data, description=title)
            await client.update_artifact(found[0].id, changed)
            return
    fields: dict[str, Any] = {"key": key, "type": kind, "data": data, "description": title}
    await client.create_artifact(ArtifactCreate(**fields, flow_run_id=run_id))


async def name_run(name: str) -> None:
    """Calls the present run so."""
    run_id = flow_run.id
    if not run_id:
        return

    async def call() -> None:
        async with get_client() as client:
            await client.update_flow_run(UUID(run_id), name=name)

    await patiently(call)
