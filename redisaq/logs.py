"""Choose the logger of an object, and write to it safely.

The loggers and levels that a program has set up stay as they are. Writing never raises, although the logger, its filters and its handlers
are the user's. The logger gets an exception as it is if other code can print it; otherwise it gets the bounded text.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

from redisaq.describing import is_tame, shown, text_of, traceback_of
from redisaq.errors import SettingsError

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log(
    logger: logging.Logger, level: int, text: str, error: BaseException | None = None, *, extra: Mapping[str, object] | None = None
) -> None:
    """Write one line, and the exception's traceback if one is given; `extra` becomes attributes of the record."""
    tame = error is None or is_tame(error)
    try:
        if error is not None and not tame:
            text = f"{text}\n{traceback_of(error).rstrip()}"
        logger.log(level, "%s", text, exc_info=error if tame else None, stacklevel=2, extra=extra)
    except Exception as broken:  # noqa: BLE001 -- the logging has failed, not the work that it logs
        if logging.raiseExceptions and sys.stderr is not None:  # as the standard library's handlers do
            sys.stderr.write(f"redisaq could not log ({text_of(broken)}): {text}\n")


def logger_for(name: str, given: logging.Logger | None, *, debug: bool) -> logging.Logger:
    """Return the logger of one producer or consumer.

    Args:
        name: of the logger that is used if none is given.
        given: the user's own. A LoggerAdapter will do, but not with `debug`, which needs a logger's handlers.
        debug: log from level DEBUG on, whatever the logger's level: through a separate logger of this object, whose records go to the same
            handlers. If no logging has been set up, they go to standard error.

    Raises:
        SettingsError: `given` is not a logger.
    """
    kinds = (logging.Logger,) if debug else (logging.Logger, logging.LoggerAdapter)
    if given is not None and not isinstance(given, kinds):
        raise SettingsError(f"logger must be a logging.Logger, not {shown(given)}")
    shared = given or logging.getLogger(name)
    if not debug:
        return shared
    own = logging.Logger(shared.name, logging.DEBUG)  # noqa: LOG001 -- one that getLogger makes would be everybody's
    own.parent = shared
    fallback = logging.StreamHandler()
    fallback.setFormatter(logging.Formatter(FORMAT))
    fallback.addFilter(lambda _: not shared.hasHandlers())  # checked for each record: a program may set up its logging later
    own.addHandler(fallback)
    return own
