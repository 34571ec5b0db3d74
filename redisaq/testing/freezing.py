"""Stops the tasks of one simulated process, and lets them go on: what SIGSTOP, or a machine that went away, does to a real one.

In: an owner, which every task carries in its context from where it was started. Out: while the owner is frozen, no step of its tasks runs;
what became ready meanwhile runs at once when it thaws. Time goes on for everybody else, so that for the frozen one it stands still, then
jumps. The two loops ask `holds` before each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar
from typing import Any

OWNER: ContextVar[object | None] = ContextVar("redisaq_simulated_owner", default=None)
"""Which simulated process a task belongs to; None: to none."""


class Freezer:
    """Who is frozen in one run, and which steps wait for that to end."""

    def __init__(self) -> None:
        """Nobody is."""
        self._held: dict[object, list[Any]] = {}
        self.resume: Callable[[Sequence[Any]], None] = lambda _: None

    @property
    def active(self) -> bool:
        """True if anybody is frozen."""
        return bool(self._held)

    def freeze(self, owner: object) -> None:
        """Let no task of the owner take a step after the one it is in."""
        self._held.setdefault(owner, [])

    def frozen(self, owner: object) -> bool:
        """Return whether it is frozen."""
        return owner in self._held

    def thaw(self, owner: object) -> None:
        """Let its tasks go on."""
        self.resume(self._held.pop(owner, ()))

    def holds(self, context: Context | None, step: object) -> bool:
        """Keep a step back if it belongs to somebody frozen; True if so."""
        held = self._held.get(context.get(OWNER)) if context is not None else None
        if held is None:
            return False
        held.append(step)
        return True


_current: ContextVar[Freezer] = ContextVar("redisaq_freezer")


def use_freezer(freezer: Freezer) -> None:
    """Let it be this context's; `virtual_run` does that."""
    _current.set(freezer)


def current_freezer() -> Freezer:
    """Return the run's freezer; LookupError outside of `virtual_run`."""
    return _current.get()
