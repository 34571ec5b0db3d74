"""The one door to what differs between runs: clocks, randomness, ids, threads.

Nothing else in the package calls time.time, uuid4, os.urandom or a thread pool. A test or a simulation sets another Environment
with `use_environment`, and everything that connects afterwards in that context is deterministic.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

T = TypeVar("T")


class PlainRunner(Protocol):
    """Runs a plain function, returns what it returns."""

    def __call__(self, function: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> Awaitable[T]:
        """Run it, as one of as many as `limiter` allows."""
        ...


async def _run_in_thread(function: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)


@dataclass(frozen=True)
class Environment:
    """What a run takes from outside.

    Attributes:
        clock: seconds that only go forward, comparable with anyio's deadlines.
        wall_clock: seconds since 1970.
        random: the source of jitter, versions and ids.
        run_plain: runs a plain function without blocking the event loop; if cancelled, the function is left to finish by itself.
    """

    clock: Callable[[], float] = anyio.current_time
    wall_clock: Callable[[], float] = time.time
    random: random.Random = field(default_factory=random.SystemRandom)
    run_plain: PlainRunner = _run_in_thread

    def bound(self) -> Environment:
        """Return this environment with a clock of the running event loop that is cheap to read: it is read for each message.

        `anyio.current_time` looks the loop up anew each time, which costs more than most handlers' bookkeeping. A loop's own clock is the
        same one, virtual or
        not; but uvloop's stands still within one round of the loop, and a process that was paused must see that time has passed.
        """
        if self.clock is not anyio.current_time:
            return self
        loop = anyio.lowlevel.current_token().native_token
        own: Callable[[], float] | None = getattr(loop, "time", None)
        if own is None:  # trio
            return self
        return replace(self, clock=time.monotonic if type(loop).__module__.startswith("uvloop") else own)

    def new_id(self) -> str:
        """Return 16 characters that no other call returns: 80 random bits, in lower-case base 32."""
        bits = self.random.getrandbits(80)
        return "".join("0123456789abcdefghjkmnpqrstvwxyz"[(bits >> shift) & 31] for shift in range(75, -1, -5))


_current: ContextVar[Environment] = ContextVar("redisaq_environment", default=Environment())  # noqa: B039 -- frozen


def current_environment() -> Environment:
    """Return the Environment of this context."""
    return _current.get()


def enter_environment(environment: Environment) -> None:
    """Let `environment` stand for this context from now on, and for tasks started in it."""
    _current.set(environment)


@contextlib.contextmanager
def use_environment(environment: Environment) -> Generator[Environment]:
    """Let `environment` stand for this context and for tasks started in it."""
    token = _current.set(environment)
    try:
        yield environment
    finally:
        _current.reset(token)
