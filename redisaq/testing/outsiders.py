"""Simulate the processes that are not members: producers, admins and growers. Each call of the first two is timed; growers may crash.

They do what a Producer or an Admin does. The record gets what was produced, and a violation for each call that took too long.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, cast

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from redisaq.admin import Admin
from redisaq.errors import ConnectionFailed
from redisaq.message import Message
from redisaq.producer import Producer
from redisaq.testing.faults import OF_GROWERS, Kind
from redisaq.testing.observing import Given
from redisaq.testing.record import Record

GRACE = 0.1
"""Seconds by which a call may exceed its time."""


@contextlib.contextmanager
def timely(record: Record, who: str, what: str, seconds: float) -> Generator[None]:
    """Report a violation if the block takes longer than its time, whether the call is answered or not."""
    began = anyio.current_time()
    try:
        yield
    finally:
        took = anyio.current_time() - began
        if took > seconds + GRACE:
            record.violation(f"{who} took {took:.3f} s, with {what} of {seconds:g} s")


class SimulatedProducer(Producer):
    """A Producer that reports its messages to the simulation."""

    record: Record
    send_timeout = 30.0
    writes_json = True

    async def enqueue(self, payload: object, **options: Any) -> str:
        """Append one message; see Producer."""
        with timely(self.record, f"a call of a producer of {self.topic}", "a send_timeout", self.send_timeout):
            msg_id = await super().enqueue(payload, **options)
        self.record.given([msg_id], self._given([payload], options))
        return msg_id

    async def batch_enqueue(self, payloads: Iterable[object], **options: Any) -> list[str]:
        """Append several messages; see Producer."""
        listed = list(payloads)
        with timely(self.record, f"a call of a producer of {self.topic}", "a send_timeout", self.send_timeout):
            msg_ids = await super().batch_enqueue(listed, **options)
        self.record.given(msg_ids, self._given(listed, options))
        return msg_ids

    def _given(self, payloads: Sequence[object], options: Mapping[str, Any]) -> list[Given]:
        """Return what handlers should receive; empty if this cannot be known here."""
        field = options.get("partition_key")
        known = self.writes_json and options.get("dedup_id") is None and not any(isinstance(one, Message) for one in payloads)
        if not known or (field is not None and not all(isinstance(value_of(one, field), str | int) for one in payloads)):
            return []
        headers = dict(options.get("headers") or {})
        keys = [options.get("key") if field is None else str(value_of(one, field)) for one in payloads]
        return [
            Given(msgspec.json.decode(msgspec.json.encode(one)), key, headers, options.get("timeout"))
            for one, key in zip(payloads, keys, strict=True)
        ]


def value_of(payload: object, field: str) -> object:
    """Return a field of a payload that is a mapping; None for any other payload."""
    return cast("Mapping[str, object]", payload).get(field) if isinstance(payload, Mapping) else None


class Outsider:
    """The process of a producer or an admin, which neither crashes nor pauses."""

    ttl = 0.0

    def __init__(self, name: str, time: float = math.inf) -> None:
        """Create the process.

        Args:
            name: its name in the trace.
            time: seconds that its calls may take.
        """
        self.name = name
        self.time = time

    async def suffer(self, befalls: Mapping[Kind, float]) -> None:
        """Do nothing."""


class Grower(Outsider):
    """The process of `Simulation.grow`, which may crash or pause between two steps.

    Attributes:
        crashed: whether it has crashed.
        scope: encloses all that it does.
    """

    def __init__(self, name: str, time: float, fails: Callable[[Grower, Kind, float], None]) -> None:
        """Create the process.

        Args:
            name: its name in the trace.
            time: seconds that its calls may take.
            fails: called with "grower_crash" or "grower_pause" and its seconds when such a fault happens to it.
        """
        super().__init__(name, time)
        self.crashed = False
        self.scope = anyio.CancelScope()
        self._fails = fails

    async def suffer(self, befalls: Mapping[Kind, float]) -> None:
        """Crash or pause here if such a fault happens. A process that has crashed sends nothing more."""
        for kind in OF_GROWERS if befalls else ():
            if kind in befalls:
                self._fails(self, kind, befalls[kind])
                await checkpoint()
        if self.crashed:  # its tasks wake once more to be cancelled
            raise ConnectionFailed("", "the process has crashed")


class SimulatedAdmin(Admin):
    """An Admin whose calls are timed."""

    record: Record
    seconds = 30.0


def _timed(name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(call)
    async def timed(admin: SimulatedAdmin, *args: Any, **options: Any) -> Any:  # noqa: ANN401 -- whatever the call returns
        with timely(admin.record, f"`{name}` of an admin", "a timeout", admin.seconds):
            return await call(admin, *args, **options)

    return timed


for _name, _call in vars(Admin).items():
    if inspect.iscoroutinefunction(_call) and not _name.startswith("_") and _name != "close":
        setattr(SimulatedAdmin, _name, _timed(_name, _call))
