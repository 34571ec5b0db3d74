"""Report failed simulations to the code that runs a test: the arguments of each call of `simulate`, and its result.

`simulate` reports each of its calls. The failed ones are collected for a listener around the test; without a listener nothing is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from redisaq.testing.faults import Fault, FaultPlan
from redisaq.testing.pace import Limits
from redisaq.testing.record import ObserverType
from redisaq.testing.report import Report

MOST = 5
"""How many failed simulations are kept: a test may run thousands of seeds."""


@dataclass(eq=False)
class Call:
    """One call of `simulate`.

    Attributes:
        report: the report that it returned, if any.
        error: the exception that it raised, if any.
    """

    scenario: Callable[[Any], Awaitable[None]]
    seed: int
    backend: Literal["trio", "asyncio"]
    faults: FaultPlan | Sequence[Fault] | None
    limits: Limits | None
    observers: Sequence[ObserverType] = ()
    report: Report | None = None
    error: BaseException | None = None


@dataclass
class Failed:
    """The failed calls, in order, at most MOST of them."""

    calls: list[Call] = field(default_factory=list[Call])


_listening: ContextVar[Failed | None] = ContextVar("redisaq_simulations", default=None)


@contextlib.contextmanager
def listening() -> Generator[Failed]:
    """Collect the failed simulations of the block."""
    failed = Failed()
    token = _listening.set(failed)
    try:
        yield failed
    finally:
        _listening.reset(token)


def tell(call: Call) -> None:
    """Report that a simulation has ended."""
    failed = _listening.get()
    if failed is not None and len(failed.calls) < MOST and (call.error is not None or (call.report is not None and not call.report.ok)):
        failed.calls.append(call)
