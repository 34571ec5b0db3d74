"""How a worker's processes write log lines: as text, or as one JSON object a line.

A JSON line has `time`, `level`, `logger`, `message` and `child` (0 is the parent), then the fields that the record was given as `extra`,
and for an exception `error` (its class), `error_message` and `traceback`.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import TypeAlias

import msgspec

from redisaq.describing import is_tame, name_of, shown, text_of, traceback_of
from redisaq.logs import FORMAT
from redisaq.worker.reports import LogFormat

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}
"""Attributes that every record has. The others are its `extra`."""

OWN = frozenset({"time", "level", "logger", "message", "child", "error", "error_message", "traceback"})


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON, whatever is in it."""

    def __init__(self, child: int) -> None:
        """Create a formatter.

        Args:
            child: the number of this process among the worker's.
        """
        super().__init__()
        self._child = child

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "child": self._child,
        }
        for name, value in vars(record).items():
            if name not in STANDARD:
                line[f"{name}_" if name in OWN else name] = value
        if record.exc_info and (error := record.exc_info[1]) is not None:
            line |= {"error": name_of(type(error)), "error_message": text_of(error), "traceback": traceback_of(error)}
        elif record.exc_text:
            line["traceback"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            return msgspec.json.encode(line, enc_hook=_describe).decode()
        except Exception:  # noqa: BLE001 -- a line must never fail: keys of strange types, lone surrogates, integers of 65 bits
            return msgspec.json.encode({name: shown(value) for name, value in line.items()}).decode()


class TextFormatter(logging.Formatter):
    """Writes a record as text, with the child's number if there are several processes."""

    def __init__(self, child: int) -> None:
        """Create a formatter.

        Args:
            child: the number of this process among the worker's; 0 for the parent.
        """
        super().__init__(FORMAT.replace("%(name)s", f"%(name)s[{child}]" if child else "%(name)s"))

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 -- the base class's name
        """Return a traceback, bounded."""
        if ei[1] is not None and not is_tame(ei[1]):
            return traceback_of(ei[1])
        return super().formatException(ei)


def _describe(value: object) -> object:
    """Return something that JSON has for a value that it does not."""
    if isinstance(value, BaseException):
        return f"{name_of(type(value))}: {text_of(value)}"
    return shown(value)


def set_up_logging(form: LogFormat, child: int) -> None:
    """Write all log records of this process from level INFO on to standard error, and Python's warnings, too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(child) if form == "json" else TextFormatter(child))
    root = logging.getLogger()
    for before in list(root.handlers):
        root.removeHandler(before)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
