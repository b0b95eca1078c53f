"""Logs: one JSON object a line on standard error, by structlog.

What is logged never holds an identity number, a name, a subject token or a secret.
"""

from __future__ import annotations

import logging
import sys

import structlog

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
