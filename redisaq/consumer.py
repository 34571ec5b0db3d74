"""Consumer: takes its share of a topic's partitions and works on their messages.

In: what producers appended. Out: calls of the user's handler, acknowledgements for those that returned. At least once, in order per
partition (or key), by one live owner a partition. One `process`, `process_batch` or `messages` runs at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack, overload

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from redisaq.actors.actor import Actor
from redisaq.brokers.access import Access, RedisURL
from redisaq.brokers.steps.topics import make_or_grow
from redisaq.consuming.context import Surroundings, inside
from redisaq.consuming.pulling import Messages, Offers
from redisaq.consuming.runtime import ConsumerRuntime, Plan, for_pulling
from redisaq.consuming.statistics import ConsumerStatistics, statistics_of
from redisaq.core.codec import EntryDecoder
from redisaq.describing import name_of, text_of
from redisaq.environment import current_environment, silence_within, when_forked
from redisaq.error_groups import leaves_of, split_off
from redisaq.errors import ConsumerError
from redisaq.logs import logger_for
from redisaq.message import BatchCallback, Callback, Message
from redisaq.settings import (
    ConsumerOptions,
    ConsumerSettings,
    check_count,
    check_handler,
    check_name,
    check_seconds,
    consumer_settings,
    shows_options,
)

T = TypeVar("T")
A = TypeVar("A")

STEPS_TO_BEGIN = 3
"""After so many turns of the event loop a run that was started before has begun: trio shuffles the tasks of one turn, and `messages` begins
its own in the next."""


class Consumer(Generic[T]):
    """One member of a consumer group."""

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
        """Take the settings; nothing is opened yet.

        Args:
            topic: the topic to consume.
            redis_url: redis://, rediss://, unix://, memory://name or embedded://[path]; None: what REDISAQ_URL says when it connects, or
                else redis://localhost:6379/0.
            payload_type: what payloads are: a msgspec Struct, dataclass, TypedDict, union…; None: whatever the deserializer gives.
            options: see `redisaq.settings.ConsumerOptions`.

        Raises:
            SettingsError: a value cannot work.
        """
        self.topic = check_name("topic", topic)
        self._settings = consumer_settings(options)
        self.group_name = self._settings.group_name
        self._logger = logger_for("redisaq.consumer", self._settings.logger, debug=self._settings.debug)
        silence = silence_within(self._settings.heartbeat_ttl)
        self._access = Access(redis_url, self._settings.namespace, user="Consumer", silence=silence)
        self._decoder: EntryDecoder[T] = EntryDecoder(self.topic, self._settings.deserializer, payload_type)
        self._attached: list[Actor[Any]] = []
        self._handled = self._failed = self._trimmed = 0
        self.forked()
        when_forked(self)

    def forked(self) -> None:
        """Count as ended and unconnected in a child made by fork: the run is the parent's. The child calls this by itself."""
        self._connected = False
        self._runtime: ConsumerRuntime | None = None
        self._ended: anyio.Event | None = None

    # -- opening and closing ---------------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Open the link; join nothing.

        Optional: `process`, `process_batch` and `messages` open it if this has not been done, and then close it again.

        Raises:
            ConnectionFailed: the server cannot be reached, or refused us; at once, without waiting for it.
            WrongThreadError: the consumer is in use by the event loop of another thread. Every other method may raise it, too.
        """
        with self._access:
            if self._connected:
                return
            broker = self._access.broker
            await broker.connect()
            if self._settings.init_partitions is not None:
                await make_or_grow(broker, self.topic, self._settings.init_partitions)
            self._connected = True

    async def close(self) -> None:
        """Stop, giving handlers no time, and close the link. May be called in any order, from any task, twice."""
        with self._access:
            try:
                await self._stop(urgent=True)
            finally:
                self._connected = False
                await self._access.close()

    async def __aenter__(self) -> Self:
        """Connect; closed again if that fails."""
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close."""
        await self.close()

    # -- consuming -----------------------------------------------------------------------------------------------------------------

    async def process(
        self,
        callback: Callback[T],
        *,
        until_empty: bool = False,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Give each message to `callback` until cancelled or stopped.

        A message is acknowledged when the callback returns; when it raises, the retry policy says what becomes of it. When the lease of
        its partition ends, the callback is cancelled and the next owner gets the message. Cancelled, callbacks are cancelled, what is done
        is acknowledged, the rest goes to the next owner at once.

        Args:
            callback: async, or plain (it runs in a worker thread and should be able to stand being abandoned there).
            until_empty: return when the whole group has nothing left.
            task_status: `await nursery.start(consumer.process, callback)` returns when the first assignment is in.

        Raises:
            SettingsError: `callback` cannot be a handler: it is a class, has a `yield`, or takes another number of arguments than one.
            ConnectionFailed: the first connection failed. Later ones are tried for ever.
            ConsumerError: what ended the consumer, as its cause. A callback's exception never does.
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
        """Give lists of messages to `callback`, each of one partition, in order.

        As `process`; a list is acknowledged, or fails, as a whole, unless the callback raises `PartialFailure`. It may take as long as
        the shortest timeout of its messages says; one that says nothing has the consumer's.

        Args:
            callback: of a list of 1 to `batch_size` messages.
            batch_size: default: the consumer's.
            batch_wait: seconds for which a list may wait to be full.
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
        """Return a context manager whose object iterates over the messages, for a loop of your own.

        A message may be kept and entered later, or in another task (`tasks.start_soon(work, message)`). At most `batch_size` are handed
        out and not settled, and one more while one of them is not entered. When the loop asks for the next message, one that nobody
        references any more and nobody entered has failed (`NotHandled`), and so has one whose body was cancelled from outside. If the loop
        ends instead, they stay with the group and have used no attempt. Python frees a message in a reference cycle only with its next
        garbage collection, and the last message of a loop that drops it with `continue` when the loop is given another.

        A body that takes longer than the message's timeout, or else the consumer's, is cancelled and has failed. `until_empty` ends the
        iteration when the whole group has nothing left. Errors of the block pass as they are.

        Raises:
            ConnectionFailed: the first connection failed. Later ones are tried for ever.
            ConsumerError: what ended the consumer, as its cause, unless the block raised.
        """

        async def run(offers: Offers[Message[T]], task_status: TaskStatus[None]) -> None:
            plan = Plan("pull", None, self._settings.batch_size, offers=offers, until_empty=until_empty)
            await self._run(plan, task_status)

        return Messages(run, self._request_stop, most=self._settings.batch_size)

    async def stop(self) -> None:
        """Drain: no new message is begun, running handlers may finish within `drain_timeout`; then `process()` returns, and so does this.

        A run that was started just before (`start_soon`) is ended, too. Without a run nothing happens; a later one is not affected. Called
        from a handler it only asks for the end and returns at once.
        """
        with self._access:
            await self._stop(urgent=False)

    def attach(self, actor: Actor[Any]) -> None:
        """Let an actor of yours live beside the consumer's own: started after them at the next run, stopped before them."""
        self._attached.append(actor)

    @property
    def assignment(self) -> Mapping[int, int]:
        """The partitions owned now, each with its fencing token."""
        owned = self._runtime.owned() if self._runtime is not None else ()
        return MappingProxyType({one.partition: one.token for one in owned})

    def statistics(self) -> ConsumerStatistics:
        """Return state, member, partitions and counters as they stand."""
        return statistics_of(self._runtime, self._handled, self._failed, self._trimmed)

    def healthy(self, *, within: float = 10.0) -> bool:
        """Return whether it does what it is there for: it runs, the server answers, and it is a member of its group.

        It is for readiness probes. It is not for liveness: a restart does not mend a server that is away. A member without partitions is
        healthy, and so is a consumer that waits for a topic that does not exist yet.

        Args:
            within: seconds beyond `heartbeat_interval` that the last answered heartbeat may be old: a blocked event loop sends none.

        Raises:
            SettingsError: `within` is no number of seconds.
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
            await runtime.run(task_status)
        except BaseExceptionGroup as group:
            raise_ended(group)
        finally:
            inside.reset(token)
            self._handled += runtime.handled
            self._failed += runtime.failed
            self._trimmed += runtime.trimmed
            self._runtime = None
            if opened:  # nobody else would close what nobody else opened
                self._connected = False
                with anyio.CancelScope(shield=True):
                    await self._access.close()
            ended.set()

    def _new_runtime(self, plan: Plan) -> ConsumerRuntime:
        settings = for_pulling(self._settings) if plan.mode == "pull" else self._settings
        around = Surroundings(self.topic, settings, self._access.broker, current_environment().bound(), self._logger)
        attached, self._attached = self._attached, []
        return ConsumerRuntime(around, plan, self._decoder, attached)

    def _request_stop(self) -> None:
        if self._runtime is not None:
            self._runtime.stop()

    async def _stop(self, *, urgent: bool) -> None:
        if self._runtime is None:  # a run that was started just now, with `start_soon`, is to end, too
            for _ in range(STEPS_TO_BEGIN):
                await checkpoint()
        runtime, ended = self._runtime, self._ended
        if runtime is None or ended is None:
            return
        runtime.stop(urgent=urgent)
        if inside.get() is not runtime.around:  # a handler that waited for its own end would wait for ever
            await ended.wait()


def raise_ended(group: BaseExceptionGroup[BaseException]) -> None:
    """Raise what a run ended with: one ConsumerError; but interrupts, and cancellation, as they are."""
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
