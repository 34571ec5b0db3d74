"""Show what would happen to a message of yours, without a server and without waiting.

Input: a handler, the settings of its consumer, and payloads. Output: an Outcome for a message that is delivered once, or a HandlerRun for
messages that go through a real producer and a real consumer until each is done or dead. The code that serializes, decodes, runs the handler
and judges its errors is exactly the code that runs in a consumer.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar, Unpack, cast

from redisaq import events
from redisaq.admin import Admin
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.coordination import Beat
from redisaq.brokers.steps.leases import SetDeliveries
from redisaq.brokers.steps.retrying import StartRetry
from redisaq.consumer import Consumer
from redisaq.consuming.context import Surroundings, inside
from redisaq.consuming.handling import Execution
from redisaq.consuming.lease import Lease
from redisaq.consuming.owned import OwnedPartition
from redisaq.core.codec import EntryDecoder, Serializer, extra_fields, key_of, serialize
from redisaq.core.in_flight import Claim, Flight, InFlight
from redisaq.core.records import Body, microseconds
from redisaq.environment import Environment, current_environment
from redisaq.errors import SettingsError
from redisaq.events import Event
from redisaq.message import BatchCallback, Callback, Message
from redisaq.producer import Producer
from redisaq.settings import (
    ConsumerOptions,
    check_count,
    check_handler,
    check_name,
    check_payloads,
    check_plain,
    check_seconds,
    check_text,
    consumer_settings,
)
from redisaq.testing.outcome import Fate, HandlerRun, Outcome, outcome_of
from redisaq.testing.pace import NO_LIMITS, Limits
from redisaq.testing.virtual import in_event_loop, virtual_run

T = TypeVar("T")

EVER = 1e9
"""Seconds of the lease under which a single message is handled. A real consumer renews its leases with heartbeats."""


class Consent:
    """Stand in for the server when a further attempt begins: it records the attempt and never refuses."""

    async def do(self, _step: SetDeliveries | StartRetry) -> bool:
        """Record an attempt: of pending entries, or of a message that had failed before."""
        return True


class HandlerKit:
    """Try out a handler with the settings of its consumer.

    `deliver` delivers one message once and returns what would become of it; `deliver_batch` does the same with a batch handler. `run` sends
    messages through a producer and a consumer. All three run in virtual time, on the kit's backend and with the kit's seed. Inside an event
    loop use `adeliver`, `adeliver_batch` and `arun`, which run in that loop and in its time.

    Args:
        handler: a handler as for `Consumer.process`, or with `batch` as for `Consumer.process_batch`.
        topic: the topic that the messages name.
        payload_type: as for Consumer.
        serializer: as for Producer.
        batch: whether the handler is a batch handler.
        seed: the seed of virtual time, from which back-offs are drawn.
        backend: "trio" or "asyncio".
        options: options of Consumer.

    Raises:
        SettingsError: a value is invalid.
    """

    def __init__(
        self,
        handler: Callback[Any] | BatchCallback[Any],
        *,
        topic: str = "test",
        payload_type: object = None,
        serializer: Serializer | None = None,
        batch: bool = False,
        seed: int = 0,
        backend: Literal["trio", "asyncio"] = "trio",
        **options: Unpack[ConsumerOptions],
    ) -> None:
        """Create a kit for a handler and the settings of its consumer."""
        check_handler("handler", handler)
        if serializer is not None:
            check_plain("serializer", serializer)
        self._handler: Callable[[Any], Any] = handler
        self._topic = check_name("topic", topic)
        self._payload_type = payload_type
        self._serializer = serializer
        self._batch = batch
        self._seed = seed
        self._backend: Literal["trio", "asyncio"] = backend
        self._options = options
        self._settings = consumer_settings(options)
        self._decoder: EntryDecoder[Any] = EntryDecoder(self._topic, self._settings.deserializer, payload_type)

    # -- one delivery ----------------------------------------------------------------------------------------------------------------

    def deliver(
        self,
        payload: object = None,
        *,
        raw: bytes | None = None,
        key: str | None = None,
        partition_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        attempt: int = 1,
    ) -> Outcome:
        """Deliver one message to the handler, in virtual time, and return what would become of it.

        Args:
            payload: as for `Producer.enqueue`. A Message's own fields apply where you pass no argument.
            raw: the bytes of the payload as in the stream, instead of a payload.
            key: the message's key.
            partition_key: the field of the payload whose value is the key.
            headers: the message's headers.
            timeout: the message's timeout, in seconds.
            attempt: the number of this attempt. A number above the policy's `max_attempts` means a message that killed its process each
                time.

        Raises:
            RuntimeError: an event loop is already running in this thread; use `adeliver`.
            SettingsError: the kit's handler is a batch handler, `attempt` is less than 1, `timeout` is not above 0, `key` is not text, or
                `raw` is not bytes.
            SerializationError, PartitionKeyError: as for `Producer.enqueue`.
        """
        return self._virtually(
            self.adeliver, payload, raw=raw, key=key, partition_key=partition_key, headers=headers, timeout=timeout, attempt=attempt
        )

    async def adeliver(
        self,
        payload: object = None,
        *,
        raw: bytes | None = None,
        key: str | None = None,
        partition_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        attempt: int = 1,
    ) -> Outcome:
        """Do the same as `deliver` in the running event loop. Cancelling it cancels the handler, and no outcome is returned."""
        if self._batch:
            raise SettingsError("this kit's handler is a batch handler: use deliver_batch")
        fields = self._fields(0, payload, raw=raw, key=key, partition_key=partition_key, headers=headers, timeout=timeout)
        return (await self._deliver([fields], attempt))[0]

    def deliver_batch(self, payloads: Iterable[object], *, attempt: int = 1) -> list[Outcome]:
        """Deliver several messages to a batch handler as one batch, and return what would become of each. See `deliver`."""
        return self._virtually(self.adeliver_batch, payloads, attempt=attempt)

    async def adeliver_batch(self, payloads: Iterable[object], *, attempt: int = 1) -> list[Outcome]:
        """Do the same as `deliver_batch` in the running event loop."""
        if not self._batch:
            raise SettingsError("this kit's handler takes single messages: use deliver, or HandlerKit(..., batch=True)")
        return await self._deliver([self._fields(number, payload) for number, payload in enumerate(check_payloads(payloads))], attempt)

    def _fields(
        self,
        number: int,
        payload: object,
        *,
        raw: bytes | None = None,
        key: str | None = None,
        partition_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> list[bytes]:
        """Return the fields of the stream entry that a producer would write."""
        if isinstance(payload, Message):
            message = cast("Message[object]", payload)
            payload = message.payload
            if key is None and partition_key is None:
                key, partition_key = message.key, message.partition_key
            headers = headers if headers is not None else message.headers
            timeout = timeout if timeout is not None else message.timeout
        if key is not None:
            key = check_text("key", key)
        if timeout is not None:
            timeout = check_seconds("timeout", timeout)
        if raw is not None and not isinstance(raw, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types
            raise SettingsError(f"raw must be bytes, not {type(raw).__name__}")
        data = raw if raw is not None else serialize(payload, self._serializer)
        if key is None and partition_key is not None:
            key = key_of(payload, partition_key)
        return [b"i", b"test-%d" % number, b"d", data, *extra_fields(key=key, headers=headers, timeout=timeout)]

    async def _deliver(self, entries: Sequence[Sequence[bytes]], attempt: int) -> list[Outcome]:
        """Handle the entries of one partition with the consumer's own parts, and return what these have recorded."""
        check_count("attempt", attempt, most=1 << 20)
        environment = current_environment().bound()
        told: list[Event] = []
        around, owned = self._parts(environment, told)
        execution = Execution(around, owned, self._handler, timeout=self._settings.timeout)
        ids = [b"%d-%d" % (int(environment.wall_clock() * 1000), number) for number in range(len(entries))]
        messages = {message.entry: message for message in self._record(owned, list(zip(ids, entries, strict=True)), attempt)}
        began = environment.clock()
        token = inside.set(around)
        try:
            if self._batch:
                held = await execution.many(list(messages.values())) if messages else None
            else:
                held = await execution.one(next(iter(messages.values()))) if messages else None
        finally:
            inside.reset(token)
        took = environment.clock() - began
        return [
            outcome_of(
                entry_id,
                messages.get(entry_id),
                around=around,
                owned=owned,
                held=held,
                told=told,
                took=took,
                timeout=self._settings.timeout,
            )
            for entry_id in ids
        ]

    def _parts(self, environment: Environment, told: list[Event]) -> tuple[Surroundings, OwnedPartition]:
        """Return the parts of a consumer that owns one partition, as far as a handler needs them."""
        settings = self._settings

        def tell(event: Event) -> object:
            told.append(event)
            return None if settings.on_event is None else settings.on_event(event)

        logger = settings.logger or logging.getLogger("redisaq.consumer")
        broker = cast("Broker", Consent())
        around = Surroundings(self._topic, replace(settings, on_event=tell), broker, environment, logger, broker)
        lease = Lease("test", EVER, environment)
        lease.observe(environment.clock(), Beat(alive=True, now=microseconds(environment.wall_clock())))
        lease.begin(environment.clock())
        flights = InFlight(
            0, 1, lease.incarnation, policy=settings.retry, decode=self._decoder.decode, window=1 << 30, page=settings.batch_size or 1
        )
        return around, OwnedPartition(flights, lease, lambda _: None, around.gate)

    def _record(self, owned: OwnedPartition, entries: Sequence[tuple[bytes, Sequence[bytes]]], attempt: int) -> list[Flight]:
        """Record messages as read, or as failed before; then they come from where the policy would have put them."""
        flights, now = owned.flights, owned.lease.server_now()
        if attempt == 1:
            return flights.delivered(entries, now)
        if self._settings.retry.blocking:
            claim = Claim(b"", len(entries), 0, flights.standing)
            return flights.claimed(claim, [(entry, fields, attempt) for entry, fields in entries], None, now)
        return flights.due([Body(entry, fields, 0, attempt - 1) for entry, fields in entries], now)

    # -- many messages ---------------------------------------------------------------------------------------------------------------

    def run(
        self, payloads: Iterable[object], *, partitions: int = 1, partition_key: str | None = None, limits: Limits | None = None
    ) -> HandlerRun:
        """Send messages through a producer and a consumer, in virtual time, until each is done or dead.

        Args:
            payloads: as for `Producer.batch_enqueue`.
            partitions: how many partitions the topic has.
            partition_key: as for `Producer.batch_enqueue`.
            limits: how long the run may take; a day by default. Without a limit, a handler that raises RetryAfter each time would run
                forever.

        Raises:
            VirtualTimeExceeded: the run exceeded its limits.
            RuntimeError: an event loop is already running in this thread; use `arun`.
            SerializationError, PartitionKeyError: as for `Producer.batch_enqueue`.
        """
        return self._virtually(
            self.arun, payloads, partitions=partitions, partition_key=partition_key, limits=limits if limits is not None else Limits()
        )

    async def arun(self, payloads: Iterable[object], *, partitions: int = 1, partition_key: str | None = None) -> HandlerRun:
        """Do the same as `run` in the running event loop and its time, where a back-off of minutes takes minutes."""
        environment, url = current_environment().bound(), f"memory://{current_environment().new_id()}"
        told: list[tuple[float, Event]] = []
        began = environment.clock()

        def tell(event: Event) -> object:
            told.append((environment.clock() - began, event))
            return None if self._settings.on_event is None else self._settings.on_event(event)

        options: ConsumerOptions = {**self._options, "on_event": tell}
        messages = check_payloads(payloads)
        namespace = self._settings.namespace
        own: Consumer[Any] = Consumer(self._topic, url, payload_type=self._payload_type, **options)
        async with (
            Producer(self._topic, url, init_partitions=partitions, serializer=self._serializer, namespace=namespace) as producer,
            own as consumer,
            Admin(url, namespace=namespace) as admin,
        ):
            ids = await producer.batch_enqueue(messages, partition_key=partition_key)
            process = consumer.process_batch if self._batch else consumer.process
            await process(self._handler, until_empty=True)
            dead = {letter.msg_id: letter async for letter in admin.dead_letters(self._topic, self._settings.group_name)}
            begun = [event.msg_id for _, event in told if isinstance(event, events.MessageStarted)]
            fates = [
                Fate(msg_id, payload, "dead" if msg_id in dead else "done", begun.count(msg_id), dead.get(msg_id))
                for msg_id, payload in zip(ids, messages, strict=True)
            ]
        return HandlerRun(fates, environment.clock() - began, told)

    # -- virtual time ----------------------------------------------------------------------------------------------------------------

    def _virtually(self, function: Callable[..., Awaitable[T]], *args: object, limits: Limits = NO_LIMITS, **named: object) -> T:
        if in_event_loop():
            name = getattr(function, "__name__", "adeliver")
            raise RuntimeError(f"an event loop is already running in this thread: use `await kit.{name}(...)` in it")
        return virtual_run(partial(function, *args, **named), seed=self._seed, backend=self._backend, limits=limits)
