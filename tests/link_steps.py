"""Cancelling a coroutine at the n-th place where it really waits, on any backend.

`cancel_at` runs a coroutine and, just before its n-th suspension, cancels: the scope it is given, or natively the task. So "at every await"
can be tested by counting n up until the coroutine ends without having reached it.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Steps:
    """How many suspensions there were.

    Attributes:
        count: so far.
    """

    def __init__(self) -> None:
        self.count = 0


@types.coroutine
def cancel_at(coroutine: Coroutine[Any, Any, T], step: int, cancel: Callable[[], object], steps: Steps) -> Generator[Any, Any, T]:
    """Await `coroutine`; call `cancel` before its suspension number `step` (from 0). `steps` counts all of them."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            awaited = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        value = error = None
        if steps.count == step:
            cancel()
        steps.count += 1
        try:
            value = yield awaited
        except BaseException as thrown:  # noqa: BLE001 -- handed on to the coroutine
            error = thrown
