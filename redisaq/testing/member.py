"""Simulate one member: a Consumer in a process of its own that can crash, pause and start again.

Input: the arguments of `Simulation.member`. Output: runs of its handler and its events, which go to the record. A crash runs no cleanup and
sends nothing more. A pause stops every task of the member, and nothing else.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import anyio
from anyio.lowlevel import checkpoint

from redisaq.brokers.terms import GroupName
from redisaq.consumer import Consumer
from redisaq.describing import name_of, text_of
from redisaq.errors import ConnectionFailed, SettingsError
from redisaq.events import Event
from redisaq.message import Message
from redisaq.outcomes import PartialFailure
from redisaq.settings import RetryPolicy, check_name, check_str
from redisaq.testing.fault_source import FaultSource
from redisaq.testing.faults import OF_HEARTBEATS, Kind
from redisaq.testing.freezing import OWNER, Freezer
from redisaq.testing.record import Record

URL = "memory://simulation"

Mode = Literal["process", "process_batch", "messages"]
"""The method of Consumer with which a member consumes."""

_silent = logging.Logger("redisaq.simulation", logging.CRITICAL + 1)  # noqa: LOG001 -- private; the trace shows more


class SimulatedMember:
    """A consumer in a simulated process.

    Attributes:
        name: its name in the simulation.
        mode: the method of Consumer with which it consumes.
        options: the options of its Consumer.
        crashed: whether it has crashed.
        thawed_at: when its last pause ended; minus infinity if there was none.
        dismissed: whether it was asked to leave, so that nothing restarts it.
        ended: set when its consumer has ended.
        gone: set when its consumer has ended or the member has crashed.
    """

    def __init__(
        self,
        name: str,
        topic: str,
        handler: Callable[[Any], Any],
        options: dict[str, Any],
        *,
        mode: Mode,
        record: Record,
        freezer: Freezer,
        source: FaultSource,
        fails: Callable[[SimulatedMember, Kind, float], None],
    ) -> None:
        """Create a member that has not started yet.

        Args:
            name: its name in the simulation.
            topic: the topic to consume.
            handler: the handler of its messages.
            options: the options of its Consumer.
            mode: the method of Consumer with which it consumes.
            record: receives what happens to it.
            freezer: pauses it.
            source: decides about its faults.
            fails: called with "crash", "pause" or "silent_network" and its seconds when such a fault happens to the member.
        """
        if mode not in get_args(Mode):
            raise SettingsError(f"mode is one of {', '.join(get_args(Mode))}, not {mode!r}")
        self.name = name
        self.mode: Mode = mode
        self.topic = check_name("topic", topic)
        self.handler = handler
        self.options = options
        self.group = GroupName(self.topic, check_name("group_name", options.get("group_name", "default_group")))
        self.ttl = float(options.get("heartbeat_ttl", 12.0))
        self.heartbeat_interval = float(options.get("heartbeat_interval", 3.0))
        self.reads_json = options.get("deserializer") is None
        self.concurrency: int | None = options.get("concurrency")
        self.batch_size = int(options.get("batch_size", 10))
        self.ordering = check_str("ordering", options.get("ordering", "partition"))
        self.retry: RetryPolicy = options.get("retry") or RetryPolicy()
        self.time = math.inf
        self.crashed = False
        self.thawed_at = -math.inf
        self.dismissed = False
        self.ended = anyio.Event()
        self.gone = anyio.Event()
        self.scope = anyio.CancelScope()
        self.consumer: Consumer[Any] | None = None
        self._record = record
        self._freezer = freezer
        self._source = source
        self._fails = fails

    @property
    def suspended(self) -> bool:
        """True while none of its tasks can run."""
        return self._freezer.frozen(self)

    @property
    def live(self) -> bool:
        """True if it is, or should be, a member of its group."""
        return not self.crashed and not self.ended.is_set()

    async def run(self) -> None:
        """Consume until stopped."""
        OWNER.set(self)
        try:
            with self.scope:
                self.consumer = Consumer(self.topic, URL, **self._consumer_options())
                await self._consume(self.consumer)
        except Exception as error:  # noqa: BLE001 -- a consumer never gives up: any error is a violation
            if not self.crashed:
                self._record.violation(f"{self.name} ended by itself: {name_of(type(error))}: {text_of(error)}")
        finally:
            self.ended.set()
            self.gone.set()

    def _consumer_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"logger": _silent} | self.options
        told: Callable[[Event], object] | None = options.get("on_event")

        def tell(event: Event) -> None:
            self._record.event(self, self.group, event)
            if told is not None and not self.crashed:
                told(event)

        return options | {"on_event": tell}

    async def suffer(self, befalls: Mapping[Kind, float]) -> None:
        """Crash, pause or fall silent here if such a fault happens. A process that has crashed sends nothing more."""
        for kind in OF_HEARTBEATS if befalls else ():
            if kind in befalls:
                self._fails(self, kind, befalls[kind])
                await checkpoint()
        if self.crashed:
            await checkpoint()
            raise ConnectionFailed(URL, "the process has crashed")

    async def _consume(self, consumer: Consumer[Any]) -> None:
        # Coroutine functions, not plain ones that return a coroutine: those would add a step, in which the member may pause.
        async def one(message: Message[Any]) -> None:
            await self._handle((message,), message)

        async def some(messages: list[Message[Any]]) -> None:
            await self._handle(messages, messages)

        match self.mode:
            case "process":
                await consumer.process(one)
            case "process_batch":
                await consumer.process_batch(some)
            case "messages":
                async with consumer.messages() as messages:
                    async for message in messages:
                        async with message:
                            await self._handle((message,), message)

    async def _handle(self, messages: Sequence[Message[Any]], argument: object) -> None:
        """Call the handler, and record the result for each message."""
        if self.crashed:  # its tasks wake once more to be cancelled: nothing may begin then
            await checkpoint()
            raise ConnectionFailed(URL, "the process has crashed")
        call = object()
        runs = [self._record.begin(self, self.group, message, call) for message in messages]
        errors: dict[Message[Any], Exception] | None = None
        try:
            slow = self._source.handler(self.name, self.ttl)
            if slow:
                await anyio.sleep(slow)
            result = self.handler(argument)
            if inspect.isawaitable(result):
                await result
            errors = {}
        except PartialFailure as failure:
            errors = failure.of(messages)
            raise
        except Exception as error:
            errors = dict.fromkeys(messages, error)
            raise
        finally:
            for run in runs:
                failed = None if errors is None else errors.get(run.message)
                self._record.end(run, "cancelled" if errors is None else "returned" if failed is None else "raised", failed)
