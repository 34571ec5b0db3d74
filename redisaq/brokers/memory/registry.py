"""How the memory broker does each class of step: one synchronous function each, registered by a decorator.

Type checkers verify that a function takes its own class of step and returns that class's answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.steps import Step

R = TypeVar("R")
S_co = TypeVar("S_co", bound=Step[Any], covariant=True)

FUNCTIONS: dict[type[Step[Any]], Callable[[MemoryStore, Any], Any]] = {}
"""Class of step -> the function that does it at a store."""


class does(Generic[S_co]):  # noqa: N801 -- a decorator
    """Register the function that does a step at a store.

    Args:
        kind: the class of the step.
    """

    def __init__(self, kind: type[S_co]) -> None:
        self._kind = kind

    def __call__(self: does[Step[R]], function: Callable[[MemoryStore, S_co], R]) -> Callable[[MemoryStore, S_co], R]:
        """Register the function, once; return it."""
        if self._kind in FUNCTIONS:
            raise TypeError(f"{self._kind.__name__} is registered already")
        FUNCTIONS[self._kind] = function
        return function


def carry_out(store: MemoryStore, step: Step[R]) -> R:
    """Do one step."""
    answer: R = FUNCTIONS[type(step)](store, step)
    return answer
