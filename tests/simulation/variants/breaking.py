"""Removes a rule from the product, in one place, for the length of a block.

Input: changes, each with the one function that implements the rule, and its replacement. Output: how many times each was called.
Invariants: a place that no longer exists is an error, not a variant that breaks nothing. When the block ends, everything is as before.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from redisaq.brokers.memory.registry import FUNCTIONS
from redisaq.brokers.steps import Step

Function = Callable[..., Any]


@dataclass(frozen=True)
class Change:
    """One function that implements the rule, and its replacement.

    Attributes:
        owner: the class or module that defines it; or a class of steps, whose function at the memory store is replaced.
        name: the function's name; "" if the owner is a class of steps.
        without: given the function, returns its replacement.
    """

    owner: type | ModuleType
    name: str
    without: Callable[[Function], Function]

    @property
    def found(self) -> object:
        """Return the function that is there now."""
        if isinstance(self.owner, type) and issubclass(self.owner, Step):
            return FUNCTIONS.get(self.owner)
        return vars(self.owner).get(self.name)

    def put(self, function: Function) -> None:
        """Put this function there."""
        if isinstance(self.owner, type) and issubclass(self.owner, Step):
            FUNCTIONS[self.owner] = function
        else:
            setattr(self.owner, self.name, function)

    @property
    def place(self) -> str:
        """Return the function's full name."""
        owner = self.owner
        return f"{owner.__module__}.{owner.__qualname__}.{self.name}" if isinstance(owner, type) else f"{owner.__name__}.{self.name}"


@dataclass
class Uses:
    """How often each changed place was called."""

    counts: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def unused(self) -> list[str]:
        """Return the places that were never called, so that they cannot have caused anything."""
        return [place for place, count in self.counts.items() if not count]


@contextlib.contextmanager
def taken_out(*changes: Change) -> Generator[Uses]:
    """Apply the changes; LookupError if one of the places is gone."""
    uses = Uses()
    with contextlib.ExitStack() as undo:
        for change in changes:
            original = change.found
            if not callable(original):
                raise LookupError(  # noqa: TRY004 -- it is the place that is missing
                    f"{change.place} is no function any more: find out what obeys the rule now"
                )
            undo.callback(change.put, original)
            change.put(_counted(change, original, uses))
        yield uses


def _counted(change: Change, original: Function, uses: Uses) -> Function:
    replacement, place = change.without(original), change.place
    uses.counts[place] = 0

    @functools.wraps(original)
    def call(*args: Any, **options: Any) -> Any:
        uses.counts[place] += 1
        return replacement(*args, **options)

    return call
