"""Logs: one JSON object a line on standard error, by structlog.

What is logged never holds an identity number, a name, a subject token or a secret.
"""

from __future__ import annotations

import logging
import sys

import structlog

from exchange.errors import InvalidFieldError
from nodes.worker import Worker

__all__ = ["configure"]


def configure(level: str, form: str) -> None:
    """Set up structlog for a process.

    :param level: ``debug``, ``info``, ``warning`` or ``error``.
    :param form: ``json``, or ``console`` for a person.
    """
    # A traceback's local variables are requests, tokens and keys: neither form may show them,
    # and both do unless they are told.
    traceback = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    renderers: list[structlog.typing.Processor] = (
        [console]
        if form == "console"
        else [
            structlog.processors.ExceptionRenderer(traceback),
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *_which_worker(),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _which_worker() -> list[structlog.typing.Processor]:
    """What says on each line which of the node's processes wrote it, where there are several."""
    try:
        worker = Worker.here()
    except InvalidFieldError:  # the node says so, and needs a log for that
        return []
    if worker.alone:
        return []

    def add(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["worker"] = "hearing" if worker.hears else worker.number
        return event

    return [add]
