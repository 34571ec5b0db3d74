"""Describe an exception of a scenario in one sentence, so that it can be listed among the violations.

Input: an exception. Output: its type, the line of the scenario that raised it, and its text, on one line. The part before the first ": " is
the same each time that line raises that type.
"""

from __future__ import annotations

import os
from pathlib import Path
from traceback import walk_tb

from redisaq.error_groups import leaves_of

RAISED = "the scenario raised "
"""The beginning of the sentence."""

LONGEST = 500
"""The largest number of characters of the text."""

_OURS = str(Path(__file__).parents[1]) + os.sep
_OTHERS = tuple(f"{os.sep}{package}{os.sep}" for package in ("anyio", "trio", "asyncio", "outcome"))


def tell_raised(error: BaseException) -> str:
    """Return the sentence. For an exception group it names each exception in it."""
    leaves = list(leaves_of(error))
    where = " and ".join(dict.fromkeys(f"{type(leaf).__name__}{_place(leaf)}" for leaf in leaves))
    texts = [text for leaf in leaves if (text := " ".join(str(leaf).split()))]
    text = "; ".join(texts) or "no text"
    return f"{RAISED}{where}: {text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'}"


def _place(error: BaseException) -> str:
    """Return the innermost line that is neither redisaq's nor an event loop's."""
    for frame, line in reversed(list(walk_tb(error.__traceback__))):
        code = frame.f_code
        if not code.co_filename.startswith(_OURS) and not any(other in code.co_filename for other in _OTHERS):
            return f" in {code.co_name}, {Path(code.co_filename).name} line {line}"
    return ""
