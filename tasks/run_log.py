"""The run's own log; outside of a Prefect run (a rehearsal in one process) the ordinary one."""

import logging

from prefect import get_run_logger
from prefect.exceptions import MissingContextError
from prefect.logging.loggers import LoggingAdapter


def run_log() -> logging.Logger | LoggingAdapter:
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("recovery.run")
