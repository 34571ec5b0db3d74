"""How the Redis broker does each class of step: one function each, registered by a decorator.

Most steps are one command. `command` registers a function that returns the command, and a function that turns the server's reply into the
step's answer. For a step that takes several commands, one after another, `commands` registers a coroutine function; it may be interrupted
between two commands, and is repeated then. Type checkers verify that a function takes its own class of step and returns that class's
answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeAlias, TypeVar

from redisaq.brokers.redis.commands import Reply
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.scripts import Command
from redisaq.brokers.steps import Step
from redisaq.link import Caller

R = TypeVar("R")
S_co = TypeVar("S_co", bound=Step[Any], covariant=True)

Asked: TypeAlias = tuple[Command, Callable[[Reply], R]]
"""A step's command, and the function that turns the reply into its answer."""

COMMANDS: dict[type[Step[Any]], Callable[[Any, Keys], Asked[Any]]] = {}
"""The steps that are one command."""

HEARD: dict[type[Step[Any]], tuple[str, ...]] = {}
"""How the errors begin that count as replies: they are passed to the function that makes the answer, and not raised."""

SEQUENCES: dict[type[Step[Any]], Callable[[Any, Caller, Keys], Awaitable[Any]]] = {}
"""The steps that are several commands."""


class command(Generic[S_co]):  # noqa: N801 -- a decorator
    """Register the function that makes a step's command.

    Args:
        kind: the class of the step.
        hears: how those errors of the server begin that count as replies.
    """

    def __init__(self, kind: type[S_co], *, hears: tuple[str, ...] = ()) -> None:
        self._kind = kind
        self._hears = hears

    def __call__(self: command[Step[R]], function: Callable[[S_co, Keys], Asked[R]]) -> Callable[[S_co, Keys], Asked[R]]:
        """Register the function, once; return it."""
        _refuse_second(self._kind)
        COMMANDS[self._kind] = function
        HEARD[self._kind] = self._hears
        return function


class commands(Generic[S_co]):  # noqa: N801 -- a decorator
    """Register the coroutine function that does a step by several commands.

    Args:
        kind: the class of the step.
    """

    def __init__(self, kind: type[S_co]) -> None:
        self._kind = kind

    def __call__(
        self: commands[Step[R]], function: Callable[[S_co, Caller, Keys], Awaitable[R]]
    ) -> Callable[[S_co, Caller, Keys], Awaitable[R]]:
        """Register the function, once; return it."""
        _refuse_second(self._kind)
        SEQUENCES[self._kind] = function
        return function


def _refuse_second(kind: type[Step[Any]]) -> None:
    if kind in COMMANDS or kind in SEQUENCES:
        raise TypeError(f"{kind.__name__} is registered already")
