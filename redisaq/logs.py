"""Writes to a log about what belongs to a user.

In: a logger (it, its filters and its handlers are the user's as well), a level, a text, maybe an exception. What always holds: nothing is
raised. An exception that others can print is given to the logger as it is; of any other, the log gets the bounded text.
"""

from __future__ import annotations

import logging
import sys

from redisaq.describing import is_tame, text_of, traceback_of


def log(logger: logging.Logger, level: int, text: str, error: BaseException | None = None) -> None:
    """Write one line, and the exception's traceback if one is given."""
    tame = error is None or is_tame(error)
    try:
        if error is not None and not tame:
            text = f"{text}\n{traceback_of(error).rstrip()}"
        logger.log(level, "%s", text, exc_info=error if tame else None, stacklevel=2)
    except Exception as broken:  # noqa: BLE001 -- whoever watches has failed, and what is watched has not
        if logging.raiseExceptions and sys.stderr is not None:  # as the standard library's handlers do
            sys.stderr.write(f"redisaq could not log ({text_of(broken)}): {text}\n")
