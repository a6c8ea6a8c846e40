"""How far a phase is, as one progress artifact and one table per phase: updated, not multiplied."""

from typing import Self
from uuid import UUID

from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)

from recovery.accounts import BatchRef
from recovery.incident import Phase
from tasks.case import Case
from tasks.prefect_api import patiently


def artifact_key(case: Case, name: str) -> str:
    """Keys hold lower-case letters, digits and dashes only."""
    return f"{name}-{case.incident_id}".lower().replace(".", "-")


class Progress:
    """Counts finished batches of one phase into its progress artifact."""

    def __init__(self, case: Case, phase: Phase, total: int, artifact: UUID | None) -> None:
        self._case, self._phase, self._total = case, phase, total
        self._artifact, self._done = artifact, 0

    @classmethod
    async def start(cls, case: Case, phase: Phase, total: int) -> Self:
        artifact = await patiently(
            lambda: acreate_progress_artifact(
                progress=0.0 if total else 100.0,
                key=artifact_key(case, f"progress-{phase}"),
                description=f"{phase} {case.incident_id}: {total} batches",
            )
        )
        return cls(case, phase, total, artifact)

    async def advance(self, batch: BatchRef) -> None:
        self._done += 1
        artifact, done = self._artifact, self._done
        if artifact is not None:
            await patiently(
                lambda: aupdate_progress_artifact(
                    artifact,
                    progress=100.0 * done / self._total,
                    description=f"{self._phase} {batch}: {done} of {self._total} batches",
                )
            )


async def show_table(case: Case, name: str, rows: list[dict[str, str | int]], title: str) -> None:
    await patiently(
        lambda: acreate_table_artifact(table=rows, key=artifact_key(case, name), description=title)
    )


async def show_markdown(case: Case, name: str, markdown: str, title: str) -> None:
    await patiently(
        lambda: acreate_markdown_artifact(
            markdown=markdown, key=artifact_key(case, name), description=title
        )
    )
