"""Sets up the log: lines for a person on a terminal, JSON lines for a machine, always on stderr.

Log events are constant past-tense names with fields, through structlog. Lines of the Kafka client
and of Faust come through the same door, and are held back when they repeat: a reconnect loop says
the same thing fifteen times a second.
"""

from __future__ import annotations

import logging
import os
import sys
import time

import structlog

LEVEL = "DEPTBUS_LOG_LEVEL"
REPEAT_SECONDS = 30.0
_FOREIGN = ("aiokafka", "kafka", "faust", "mode", "asyncio")


class RepeatFilter(logging.Filter):
    """Lets one line of a kind (its logger and template) through every `seconds` seconds."""

    def __init__(self, seconds: float = REPEAT_SECONDS) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(_FOREIGN):
            return True
        kind = (record.name, str(record.msg)[:200])
        now = time.monotonic()
        last = self._last.get(kind)
        if last is not None and now - last < self._seconds:
            return False
        if len(self._last) > 1000:  # a client that puts addresses into its templates
            self._last.clear()
        self._last[kind] = now
        return True


def set_up_logging(*, service: bool = False) -> None:
    """Call at the start of a command, and again with `service=True` by one that stays (worker,
    adapter, operations, monitor, console): those tell what they do, the others, `up` among them,
    only what is wrong.

    `DEPTBUS_LOG_LEVEL` overrides both.
    """
    level = os.environ.get(LEVEL, "INFO" if service else "WARNING").upper()
    number = logging.getLevelNamesMapping().get(level, logging.INFO)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if sys.stderr.isatty():
        renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer()
    else:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RepeatFilter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Tracebacks stay out: a message in one may quote a record (promise 4).
                _without_traceback,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    # A command that ends soon tells an error of a client itself, in one line and in our words.
    floor = logging.WARNING if service or LEVEL in os.environ else logging.CRITICAL
    for name in _FOREIGN:
        logging.getLogger(name).setLevel(max(number, floor))


def _without_traceback(
    logger: object, name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    error = event.pop("exc_info", None)
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
    event.pop("stack_info", None)
    return event
