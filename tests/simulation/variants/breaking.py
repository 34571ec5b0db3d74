"""Takes a rule out of the product, in one place, for as long as a block lasts.

In: changes, each naming the one function that obeys the rule, and what stands in its stead. Out: how often each was called. Always: a place
that is not there any more is an error, not a variant that breaks nothing; when the block ends, everything is as it was.
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
    """One function that obeys the rule, and how it does without.

    Attributes:
        owner: the class or module in whose own namespace it stands; or a class of steps, of which it does each at the memory store.
        name: of the function; "" if the owner is a class of steps.
        without: given the function, returns what to call in its stead.
    """

    owner: type | ModuleType
    name: str
    without: Callable[[Function], Function]

    @property
    def found(self) -> object:
        """Return what stands there now."""
        if isinstance(self.owner, type) and issubclass(self.owner, Step):
            return FUNCTIONS.get(self.owner)
        return vars(self.owner).get(self.name)

    def put(self, function: Function) -> None:
        """Let this stand there."""
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
        """Return the places that nobody called: what happened has nothing to do with them."""
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
