"""A flow that asks a person before it goes on, for tests of Prefect's UI; touches nothing."""

from prefect import flow, suspend_flow_run
from prefect.input import RunInput


class Answer(RunInput):
    decision: str = "hold"
    reason: str = ""


@flow(persist_result=False)
async def asks_first(incident_id: str) -> str:
    answer = await suspend_flow_run(
        wait_for_input=Answer.with_initial_data(description=f"May **{incident_id}** go on?"),
        timeout=600,
        key="gate-1",
    )
    return f"{incident_id}: {answer.decision}, {answer.reason}"
