"""Freeze the tasks of one simulated process and thaw them later, as SIGSTOP or a suspended machine does to a real process.

Every task carries its owner in its context, inherited from where it was started. While the owner is frozen, no step of its tasks runs;
steps that became ready meanwhile run at once when it thaws. Time goes on for everybody else, so for the frozen process it stands still and
then jumps. The two event loops call `holds` before each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar
from typing import Any

OWNER: ContextVar[object | None] = ContextVar("redisaq_simulated_owner", default=None)
"""The simulated process to which a task belongs, or None."""


class Freezer:
    """Know which processes of one run are frozen, and hold back their steps."""

    def __init__(self) -> None:
        """Start with no process frozen."""
        self._held: dict[object, list[Any]] = {}
        self.resume: Callable[[Sequence[Any]], None] = lambda _: None

    @property
    def active(self) -> bool:
        """True if any process is frozen."""
        return bool(self._held)

    def freeze(self, owner: object) -> None:
        """Let no task of the owner take a step after the current one."""
        self._held.setdefault(owner, [])

    def frozen(self, owner: object) -> bool:
        """Return whether the owner is frozen."""
        return owner in self._held

    def thaw(self, owner: object) -> None:
        """Let the owner's tasks continue."""
        self.resume(self._held.pop(owner, ()))

    def holds(self, context: Context | None, step: object) -> bool:
        """Hold a step back if it belongs to a frozen process, and return whether it does."""
        held = self._held.get(context.get(OWNER)) if context is not None else None
        if held is None:
            return False
        held.append(step)
        return True


_current: ContextVar[Freezer] = ContextVar("redisaq_freezer")


def use_freezer(freezer: Freezer) -> None:
    """Set the freezer of this context; `virtual_run` does this."""
    _current.set(freezer)


def current_freezer() -> Freezer:
    """Return the run's freezer. Raises LookupError outside of `virtual_run`."""
    return _current.get()
