"""The surroundings of one part of a consumer, around a broker whose every answer a test gives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import anyio

from redisaq.brokers.steps import Step
from redisaq.consuming.context import Surroundings
from redisaq.environment import current_environment
from redisaq.settings import ConsumerSettings
from tests.actors.group import Notebook
from tests.link_chance import Longest


class Answering:
    """Notes the steps that it is given, and when; answers them as a test says.

    Attributes:
        answer: returns the answer to a step, or raises.
        steps: the steps so far, each with the time.
        run_id: of its server.
    """

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer
        self.steps: list[tuple[float, Step[Any]]] = []
        self.run_id = "run"

    async def do(self, step: Step[Any]) -> Any:
        """Do one step."""
        await anyio.lowlevel.checkpoint()
        self.steps.append((anyio.current_time(), step))
        answer = self.answer(step)
        return await answer if hasattr(answer, "__await__") else answer

    async def do_each(self, steps: Sequence[Step[Any]]) -> list[Any]:
        """Do several."""
        return [await self.do(step) for step in steps]

    def of(self, kind: type[Step[Any]]) -> list[Any]:
        """Return the steps of one kind."""
        return [step for _, step in self.steps if isinstance(step, kind)]

    def times(self, kind: type[Step[Any]]) -> list[float]:
        """Return when the steps of one kind were asked for."""
        return [round(time, 6) for time, step in self.steps if isinstance(step, kind)]


def surroundings_of(broker: Answering, notebook: Notebook | None = None, **settings: Any) -> Surroundings:
    """Return them; chance draws the longest pause each time."""
    options = ConsumerSettings(**{"on_event": None if notebook is None else notebook.note, **settings})
    environment = replace(current_environment(), random=Longest())
    return Surroundings("jobs", options, cast("Any", broker), environment, logging.getLogger("tests.answering"), cast("Any", broker))
