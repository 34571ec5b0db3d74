"""Extracts the exceptions from the groups in which task groups wrap them."""

from __future__ import annotations

from typing import TypeVar

E = TypeVar("E", bound=Exception)


def leaves(group: BaseExceptionGroup[E]) -> list[E]:
    """Return the exceptions of a group that are not groups themselves, in order. There is at least one."""
    found: list[E] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
