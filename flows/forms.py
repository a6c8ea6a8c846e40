"""Flows as operators see them: run name, description and run form made from one declaration.

Prefect shows a field's help only where the docstring has it under `Args:`; here it is written once,
beside the field's bounds in `flows.parameters`, and put there.
"""

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, get_type_hints

from prefect import Flow, flow
from prefect.runtime import flow_run
from pydantic.fields import FieldInfo

from flows.sub_runs import link_runs
from recovery.run_texts import run_name

P = ParamSpec("P")
R = TypeVar("R")


def operator_flow(name: str) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """A flow of that name whose runs are called `name INC-…`, or after their runbook where there is
    no incident; results are never persisted. A sub-run keeps the list of its siblings fresh."""

    def declare(function: Callable[P, R]) -> Flow[P, R]:
        described = inspect.getdoc(function) or ""
        function.__doc__ = f"{described}\n\nArgs:\n{_help(function)}"
        made: Callable[[Callable[P, R]], Flow[P, R]] = flow(
            name=name,
            description=described,
            flow_run_name=lambda: run_name(name, flow_run.parameters),
            persist_result=False,
            on_completion=[link_runs],
            on_failure=[link_runs],
        )
        return made(function)

    return declare


def _help(function: Callable[..., Any]) -> str:
    hints = get_type_hints(function, include_extras=True)
    lines = []
    for parameter in inspect.signature(function).parameters:
        for extra in getattr(hints[parameter], "__metadata__", ()):
            if isinstance(extra, FieldInfo) and extra.description:
                lines.append(f"    {parameter}: {extra.description}")
    return "\n".join(lines)
