"""A broker whose answers a test gives, step by step, and what the actors of a consumer share around it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any, cast

import anyio
from anyio.lowlevel import checkpoint

from redisaq.brokers.steps import Step
from redisaq.consuming.context import Surroundings
from redisaq.environment import Environment
from redisaq.settings import ConsumerSettings
from tests.actors.group import Notebook


class Highest(Random):
    """Chance that always takes the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        """Return the upper bound."""
        return b


class Lowest(Random):
    """Chance that always takes the lower bound."""

    def uniform(self, a: float, b: float) -> float:
        """Return the lower bound."""
        return a


class Scripted:
    """A broker that notes each step with its time, and answers with what `answer` returns for it, or raises that.

    Attributes:
        asked: what it was asked for, and when.
        writes: how many steps each write held.
    """

    run_id = "run"

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer
        self.asked: list[tuple[float, Any]] = []
        self.writes: list[int] = []

    async def do(self, step: Step[Any]) -> Any:
        """Carry out one step."""
        await checkpoint()
        self.asked.append((anyio.current_time(), step))
        answer = self.answer(step)
        if isinstance(answer, Awaitable):
            answer = await answer
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def do_each(self, steps: Sequence[Step[Any]]) -> list[Any]:
        """Carry out several."""
        self.writes.append(len(steps))
        return [await self.do(step) for step in steps]

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the steps of one class."""
        return [step for _, step in self.asked if isinstance(step, kind)]

    def times(self, kind: type[Any]) -> list[float]:
        """Return when steps of one class were asked for."""
        return [time for time, step in self.asked if isinstance(step, kind)]


def nothing(_step: object) -> object:
    """Answer nothing."""
    return None


def around(
    answer: Callable[[Any], Any] = nothing, *, random: Random | None = None, clock: Callable[[], float] | None = None, **settings: Any
) -> tuple[Surroundings, Scripted, Notebook]:
    """Return what the actors of a consumer share, the broker in it, and where its events are noted."""
    broker, notebook = Scripted(answer), Notebook()
    environment = replace(Environment(), random=random or Highest())
    if clock is not None:
        environment = replace(environment, clock=clock)
    options = ConsumerSettings(**{"on_event": notebook.note, **settings})
    logger = logging.getLogger("redisaq.tests.scripted")
    return Surroundings("jobs", options, cast("Any", broker), environment, logger, cast("Any", broker)), broker, notebook
