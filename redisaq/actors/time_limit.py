"""How long work on a message may take: whoever reads the dead letter learns that it took longer, and than what.

In: seconds. Out: TimeoutError with a sentence. Always: a TimeoutError that the work raises by itself passes as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import anyio


@contextlib.contextmanager
def time_limit(seconds: float, whose: str = "the handler") -> Generator[None]:
    """Cancel what runs inside after so long, and raise TimeoutError then: `anyio.fail_after`, whose error says nothing."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught and anyio.current_time() >= scope.deadline:  # else it was cancelled by hand
        raise TimeoutError(f"{whose} took longer than {seconds:g} s")
