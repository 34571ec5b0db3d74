"""Lets a test get between the product and a step of its broker."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps import Step

S = TypeVar("S", bound=Step[Any])

Do = Callable[[Step[Any]], Awaitable[Any]]


def change_step(
    patch: pytest.MonkeyPatch, kind: type[S], instead: Callable[[S, Do], Awaitable[Any]], broker: type[Any] = MemoryBroker
) -> None:
    """Have each step of a class done by `instead`, which is given the step, and what really does one."""
    whole = broker.do

    async def do(self: Any, step: Step[Any]) -> Any:
        return await (instead(step, functools.partial(whole, self)) if isinstance(step, kind) else whole(self, step))

    patch.setattr(broker, "do", do)
