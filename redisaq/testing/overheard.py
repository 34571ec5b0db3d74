"""Lets whoever runs a test know of the simulations in it: what each was given, and what came of it.

In: each call of `simulate`, from within. Out: those that failed, to whoever listens around the test. Always: without a listener nothing is
kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from redisaq.testing.faults import Fault, FaultPlan
from redisaq.testing.observing import ObserverType
from redisaq.testing.pace import Limits
from redisaq.testing.report import Report

MOST = 5
"""A test may run thousands of seeds; so many failed ones are kept."""


@dataclass(eq=False)
class Call:
    """One call of `simulate`.

    Attributes:
        report: what it returned, if it did.
        error: what it raised, if it did.
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
    """The failed calls, in order; no more than MOST of them."""

    calls: list[Call] = field(default_factory=list[Call])


_listening: ContextVar[Failed | None] = ContextVar("redisaq_simulations", default=None)


@contextlib.contextmanager
def listening() -> Generator[Failed]:
    """Collect what fails within the block."""
    failed = Failed()
    token = _listening.set(failed)
    try:
        yield failed
    finally:
        _listening.reset(token)


def tell(call: Call) -> None:
    """A simulation has ended."""
    failed = _listening.get()
    if failed is not None and len(failed.calls) < MOST and (call.error is not None or (call.report is not None and not call.report.ok)):
        failed.calls.append(call)
