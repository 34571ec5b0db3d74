"""A consumer: takes its share of a topic's partitions and handles their messages.

It calls your handler with each message and acknowledges the message when the handler returns. Delivery is at least once, in order within a
partition (or key), and each partition has one live owner. One `process`, `process_batch` or `messages` runs at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack, overload

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from redisaq.actors.actor import Actor
from redisaq.brokers.access import Access, RedisURL
from redisaq.brokers.growth import make_or_grow
from redisaq.callables import both
from redisaq.consuming.context import Surroundings, inside
from redisaq.consuming.pulling import Messages, Offers
from redisaq.consuming.runtime import ConsumerRuntime, Plan, for_pulling
from redisaq.consuming.statistics import ConsumerStatistics, statistics_of
from redisaq.core.codec import EntryDecoder
from redisaq.describing import name_of, shown, text_of
from redisaq.environment import current_environment, silence_within, when_forked
from redisaq.error_groups import leaves_of, split_off
from redisaq.errors import ConsumerError, SettingsError
from redisaq.events import Event
from redisaq.logs import logger_for
from redisaq.message import BatchCallback, Callback, Message
from redisaq.settings import (
    ConsumerOptions,
    ConsumerSettings,
    check_count,
    check_handler,
    check_name,
    check_plain,
    check_seconds,
    consumer_settings,
    shows_options,
)

T = TypeVar("T")
A = TypeVar("A")

STEPS_TO_BEGIN = 3
"""Turns of the event loop after which a run that was started earlier has begun. Trio shuffles the tasks of one turn, and `messages` starts
its own task in the next."""


class Consumer(Generic[T]):
    """A member of a consumer group, which handles messages of one topic."""

    @overload
    def __init__(
        self: Consumer[Any], topic: str, redis_url: RedisURL | None = ..., *, payload_type: None = None, **options: Unpack[ConsumerOptions]
    ) -> None: ...
    @overload
    def __init__(
        self: Consumer[A], topic: str, redis_url: RedisURL | None = ..., *, payload_type: type[A], **options: Unpack[ConsumerOptions]
    ) -> None: ...
    @overload
    def __init__(
        self, topic: str, redis_url: RedisURL | None = ..., *, payload_type: object, **options: Unpack[ConsumerOptions]
    ) -> None: ...
    @shows_options(ConsumerSettings)
    def __init__(
        self,
        topic: str,
        redis_url: RedisURL | None = None,
        *,
        payload_type: object = None,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        """Create a consumer. It does not connect yet.

        Args:
            topic: the topic to consume.
            redis_url: redis://, rediss://, unix://, redis+cluster://, redis+sentinel://, memory://name or embedded://[path]. None: the
                value of REDISAQ_URL when it connects, otherwise redis://localhost:6379/0.
            payload_type: the type of payloads: a msgspec Struct, dataclass, TypedDict, union… None: whatever the deserializer returns.
            options: see `redisaq.settings.ConsumerOptions`.

        Raises:
            SettingsError: a value is not valid.
        """
        self.topic = check_name("topic", topic)
        self._settings = consumer_settings(options)
        self.group_name = self._settings.group_name
        self._logger = logger_for("redisaq.consumer", self._settings.logger, debug=self._settings.debug)
        silence = silence_within(self._settings.heartbeat_ttl)
        self._access = Access(redis_url, self._settings.namespace, user="Consumer", client=self._settings.client, silence=silence)
        self._decoder: EntryDecoder[T] = EntryDecoder(self.topic, self._settings.deserializer, payload_type)
        self._attached: list[Actor[Any]] = []
        self._handled = self._failed = self._trimmed = 0
        self.forked()
        when_forked(self)

    def forked(self) -> None:
        """Reset to not running and not connected in a forked child; the run belongs to the parent. The child calls this automatically."""
        self._connected = False
        self._runtime: ConsumerRuntime | None = None
        self._ended: anyio.Event | None = None

    # -- opening and closing ---------------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect to the server, without joining the group.

        This is optional: `process`, `process_batch` and `messages` connect if you have not, and then close the connection again.

        Raises:
            ConnectionFailed: the server cannot be reached, or refused the connection. It is raised at once, without waiting for the server.
            WrongThreadError: the event loop of another thread is using the consumer. Every other method may raise it, too.
        """
        with self._access:
            if self._connected:
                return
            broker = self._access.broker
            async with self._access.opening(broker):
                await broker.connect()
                if self._settings.init_partitions is not None:
                    await make_or_grow(broker, self.topic, self._settings.init_partitions)
            self._connected = True

    async def close(self) -> None:
        """Stop without waiting for handlers, and close the connection. You may call it at any time, from any task, more than once."""
        with self._access:
            try:
                await self._stop(urgent=True)
            finally:
                self._connected = False
                await self._access.close()

    async def __aenter__(self) -> Self:
        """Connect. If that fails, close the consumer."""
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close the consumer."""
        await self.close()

    # -- consuming -----------------------------------------------------------------------------------------------------------------

    async def process(
        self,
        callback: Callback[T],
        *,
        until_empty: bool = False,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Call `callback` with each message until cancelled or stopped.

        The message is acknowledged when the callback returns. If it raises, the retry policy decides what happens to the message. When the
        lease of its partition ends, the callback is cancelled and the next owner gets the message. If you cancel `process`, it cancels the
        callbacks, acknowledges finished messages and hands the rest to the next owner at once.

        Args:
            callback: an async function, or a plain one, which runs in a worker thread and must tolerate being abandoned there.
            until_empty: return when the whole group has nothing left.
            task_status: `await nursery.start(consumer.process, callback)` returns when the first assignment has arrived.

        Raises:
            SettingsError: `callback` cannot be a handler: it is a class, contains a `yield`, or does not take exactly one argument.
            ConnectionFailed: the first connection failed. Later ones are retried forever.
            ConsumerError: the consumer failed; the reason is its cause. An exception of the callback never ends the consumer.
        """
        check_handler("callback", callback)
        plan = Plan("one", callback, self._settings.batch_size, until_empty=until_empty, middleware=self._settings.middleware)
        await self._run(plan, task_status)

    async def process_batch(
        self,
        callback: BatchCallback[T],
        *,
        batch_size: int | None = None,
        batch_wait: float = 0.05,
        until_empty: bool = False,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Call `callback` with lists of messages. The messages of a list are from one partition, in order.

        It works like `process`. A list is acknowledged or fails as a whole, unless the callback raises `PartialFailure`. The callback may
        run for the shortest timeout among the messages; the consumer's timeout applies to a message without one.

        Args:
            callback: called with a list of 1 to `batch_size` messages.
            batch_size: the most messages in a list. None: the consumer's `batch_size`.
            batch_wait: seconds that a list may wait until it is full.
            until_empty: return when the whole group has nothing left.
            task_status: as in `process`.
        """
        check_handler("callback", callback)
        size = self._settings.batch_size if batch_size is None else check_count("batch_size", batch_size, most=100_000)
        wait = check_seconds("batch_wait", batch_wait, zero=True)
        middleware = self._settings.middleware
        plan = Plan("batch", callback, size, batch_size=size, batch_wait=wait, until_empty=until_empty, middleware=middleware)
        await self._run(plan, task_status)

    def messages(self, *, until_empty: bool = False) -> Messages[T]:
        """Return a context manager that gives you an iterator over the messages, for a loop of your own.

        You may keep a message and enter it later, or in another task (`tasks.start_soon(work, message)`). At most `batch_size` messages
        are handed out and not settled, plus one while one of them has not been entered.

        When the loop asks for the next message, a message has failed (`NotHandled`) if it was never entered and nothing references it any
        more, or if its body was cancelled from outside. If the loop ends instead, these messages stay with the group and have used no
        attempt. Python frees a message in a reference cycle only at the next garbage collection. If a loop drops a message with
        `continue`, Python frees it when the loop receives the next one.

        A body that runs longer than the message's timeout (or the consumer's, if the message has none) is cancelled and has failed.
        `until_empty` ends the iteration when the whole group has nothing left. Errors raised in the block propagate unchanged.

        Raises:
            ConnectionFailed: the first connection failed. Later ones are retried forever.
            ConsumerError: the consumer failed, and the block did not raise; the reason is its cause.
        """

        async def run(offers: Offers[Message[T]], task_status: TaskStatus[None]) -> None:
            plan = Plan("pull", None, self._settings.batch_size, offers=offers, until_empty=until_empty)
            await self._run(plan, task_status)

        return Messages(run, self._request_stop, most=self._settings.batch_size)

    async def stop(self) -> None:
        """Drain: start no new message, and let running handlers finish within `drain_timeout`. Then `process()` returns, and so does this.

        It also stops a run that was started just before with `start_soon`. Without a run it does nothing, and a later run is not affected.
        Called from a handler, it only requests the stop and returns at once.
        """
        with self._access:
            await self._stop(urgent=False)

    def attach(self, actor: Actor[Any]) -> None:
        """Run an actor of yours beside the consumer's own. The next run starts it after them and stops it before them.

        Raises:
            SettingsError: it is not an Actor, but the class of one, for example.
        """
        if not isinstance(actor, Actor):  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types
            raise SettingsError(f"attach takes an Actor, not {shown(actor)}")
        self._attached.append(actor)

    def observe(self, on_event: Callable[[Event], object]) -> None:
        """Also call `on_event` with every event from the next run on, before the function in the consumer's settings.

        Raises:
            SettingsError: it is not a plain function of one argument.
        """
        check_plain("on_event", on_event)
        self._settings = replace(self._settings, on_event=both(on_event, self._settings.on_event))

    @property
    def consumer_name(self) -> str | None:
        """The static name; None: it has none. A new one is used from the next run on."""
        return self._settings.consumer_name

    @consumer_name.setter
    def consumer_name(self, name: str | None) -> None:
        self._settings = replace(self._settings, consumer_name=name)

    @property
    def assignment(self) -> Mapping[int, int]:
        """The partitions that it owns now, each with its fencing token."""
        owned = self._runtime.owned() if self._runtime is not None else ()
        return MappingProxyType({one.partition: one.token for one in owned})

    def statistics(self) -> ConsumerStatistics:
        """Return the current state, member, partitions and counters."""
        return statistics_of(self._runtime, self._handled, self._failed, self._trimmed)

    def healthy(self, *, within: float = 10.0) -> bool:
        """Return whether the consumer runs, the server answers, and the consumer is a member of its group.

        Use it for readiness probes, not for liveness probes: a restart does not repair an unreachable server. A member without partitions
        is healthy, and so is a consumer that waits for a topic that does not exist yet.

        Args:
            within: how old the last answered heartbeat may be, in seconds beyond `heartbeat_interval`. A blocked event loop sends none.

        Raises:
            SettingsError: `within` is not a number of seconds.
        """
        within = check_seconds("within", within)
        runtime, statistics = self._runtime, self.statistics()
        if runtime is None or not statistics.connected:
            return False
        if runtime.member.topic_missing:
            return True
        beat = statistics.last_heartbeat
        return statistics.state in ("running", "draining") and (beat is None or beat <= self._settings.heartbeat_interval + within)

    # -- running -------------------------------------------------------------------------------------------------------------------

    async def _run(self, plan: Plan, task_status: TaskStatus[None]) -> None:
        with self._access:
            await self._run_here(plan, task_status)

    async def _run_here(self, plan: Plan, task_status: TaskStatus[None]) -> None:
        if self._runtime is not None:
            reason = "this consumer runs already; a second run needs a second Consumer"
            raise RuntimeError(reason)
        self._runtime = runtime = self._new_runtime(plan)
        self._ended = ended = anyio.Event()
        token = inside.set(runtime.around)
        opened = not self._connected
        try:
            await self.connect()
            self._attached = []  # the runtime has them; without a connection, the next run starts them
            await runtime.run(task_status)
        except BaseExceptionGroup as group:
            raise_ended(group)
        finally:
            inside.reset(token)
            handled, failed, trimmed = runtime.counts()  # also of partitions whose owners a failure has ended
            self._handled += handled
            self._failed += failed
            self._trimmed += trimmed
            self._runtime = None
            if opened:  # this run opened the connection, so this run closes it
                self._connected = False
                with anyio.CancelScope(shield=True):
                    await self._access.close()
            ended.set()

    def _new_runtime(self, plan: Plan) -> ConsumerRuntime:
        settings = for_pulling(self._settings) if plan.mode == "pull" else self._settings
        broker = self._access.broker
        granting = broker if settings.durability is None else self._access.confirmed
        around = Surroundings(self.topic, settings, broker, current_environment().bound(), self._logger, granting)
        return ConsumerRuntime(around, plan, self._decoder, self._attached)

    def _request_stop(self) -> None:
        if self._runtime is not None:
            self._runtime.stop()

    async def _stop(self, *, urgent: bool) -> None:
        if self._runtime is None:  # a run that was started just now with `start_soon` ends, too
            for _ in range(STEPS_TO_BEGIN):
                await checkpoint()
        runtime, ended = self._runtime, self._ended
        if runtime is None or ended is None:
            return
        runtime.stop(urgent=urgent)
        if inside.get() is not runtime.around:  # a handler that waited for its own end would wait forever
            await ended.wait()


def raise_ended(group: BaseExceptionGroup[BaseException]) -> None:
    """Raise one ConsumerError for the errors that ended a run. Interrupts and cancellation are raised unchanged."""
    _, errors = split_off(group, anyio.get_cancelled_exc_class())
    if errors is None:
        raise group
    leaves = list(leaves_of(errors))
    for leaf in leaves:
        if isinstance(leaf, KeyboardInterrupt | SystemExit):
            raise leaf from None
    cause = leaves[0] if len(leaves) == 1 else errors
    reason = f"the consumer ended: {name_of(type(cause))}: {text_of(cause)}"
    raise ConsumerError(reason) from cause
