"""Take groups of exceptions apart.

Nothing here recurses, so a group of any depth and width can be taken apart. Nothing asks a subclass about itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar, cast, overload

E = TypeVar("E", bound=BaseException)


def members_of(group: BaseException) -> tuple[BaseException, ...]:
    """Return the exceptions of a group; () for an exception that is not a group."""
    if not issubclass(type(group), BaseExceptionGroup):
        return ()
    return cast("tuple[BaseException, ...]", BaseExceptionGroup.__dict__["exceptions"].__get__(group))


@overload
def leaves_of(error: BaseExceptionGroup[E]) -> Iterator[E]: ...
@overload
def leaves_of(error: BaseException) -> Iterator[BaseException]: ...
def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in it that are not groups, each once, in their order; the error itself if it is not a group."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if issubclass(type(one), BaseExceptionGroup):
            waiting.extend(reversed(members_of(one)))
        else:
            yield one


def split_off(group: BaseException, kind: type[BaseException]) -> tuple[BaseException | None, BaseException | None]:
    """Split a group into the errors of one class and the others, each as one exception; None if there are none.

    Both keep the shape of the group if Python can split it. It cannot if the group is very deep, or has a `derive` that fails.
    """
    try:
        matched, rest = cast("BaseExceptionGroup[BaseException]", group).split(kind)
    except Exception:  # noqa: BLE001 -- it is the user's class
        leaves = list(leaves_of(group))
        return (
            _joined([leaf for leaf in leaves if issubclass(type(leaf), kind)]),
            _joined([leaf for leaf in leaves if not issubclass(type(leaf), kind)]),
        )
    return matched, rest


def _joined(errors: list[BaseException]) -> BaseException | None:
    if len(errors) < 2:  # noqa: PLR2004 -- one needs no group
        return errors[0] if errors else None
    return BaseExceptionGroup("several errors", errors)
