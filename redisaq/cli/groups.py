"""Takes what happened out of the groups that task groups put it in."""

from __future__ import annotations

from typing import TypeVar

E = TypeVar("E", bound=Exception)


def leaves(group: BaseExceptionGroup[E]) -> list[E]:
    """Return the exceptions of a group that are no groups themselves, in order; there is at least one."""
    found: list[E] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
