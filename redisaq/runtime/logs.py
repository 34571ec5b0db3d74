"""Which logger one object writes to.

In: the logger that its user gave, or none, and whether it is to be debugged. Out: a logger. What always holds: what others log with, and at
which level, stays as their program has set it up.
"""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def logger_for(name: str, given: logging.Logger | None, *, debug: bool) -> logging.Logger:
    """Return the logger of one producer or consumer.

    Args:
        name: of the logger that stands where none is given.
        given: the user's own.
        debug: log from level DEBUG on, whatever the level of the logger is: through a logger of the object's own, whose records go to the
            same handlers. Where no logging has been set up they go to standard error.
    """
    shared = given or logging.getLogger(name)
    if not debug:
        return shared
    own = logging.Logger(shared.name, logging.DEBUG)  # noqa: LOG001 -- one that getLogger makes would be everybody's
    own.parent = shared
    fallback = logging.StreamHandler()
    fallback.setFormatter(logging.Formatter(FORMAT))
    fallback.addFilter(lambda _: not shared.hasHandlers())  # asked for each record: a program may set up its logging later
    own.addHandler(fallback)
    return own
