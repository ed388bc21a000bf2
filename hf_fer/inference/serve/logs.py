"""Logs one line of JSON per request and event, without content: no texts, file names, queries or addresses."""

import json
import logging
import sys
import time
from typing import Any

logger = logging.getLogger("hf_fer.serve")


class JsonLines(logging.Formatter):
    """Formats records as JSON; exceptions by type and place only, because their messages may quote input."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line of JSON."""
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            entry |= described(record.exc_info[1])
        return json.dumps(entry)


def described(error: BaseException) -> dict[str, str]:
    """An exception's type as `error`, and the file and line that raised it as `place`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return {"error": type(error).__name__, "place": place}


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event with its fields."""
    logger.log(level, event, extra={"fields": fields})


def start_logging() -> None:
    """Send the server's own events, and uvicorn's warnings, to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("hf_fer.serve", logging.INFO), ("uvicorn", logging.WARNING), ("asyncio", logging.ERROR)):
        found = logging.getLogger(name)
        found.handlers, found.propagate = [handler], False
        found.setLevel(level)
