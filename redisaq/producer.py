"""A producer: appends messages to a topic's partitions.

Any task may call it, in one event loop at a time. A call returns message ids once the server has the messages. A whole batch is checked
before any of it is sent. Messages that one call sends to one partition are stored there in the order of the call.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Literal, Self, cast

import anyio
import msgspec

from redisaq.brokers.access import Access, RedisURL
from redisaq.brokers.steps.topics import Terms
from redisaq.core.codec import NOT_SERIALIZED, Serializer, extra_fields, key_of, serialize
from redisaq.core.payloads import SERIALIZER, check_all, encode_json
from redisaq.core.records import microseconds
from redisaq.core.retention import IDLE
from redisaq.environment import Environment, current_environment, silence_within, time_is_up_at, time_limit, when_forked
from redisaq.errors import ConnectionFailed, PayloadTooLarge, SettingsError
from redisaq.logs import logger_for
from redisaq.message import Message
from redisaq.middleware import Outgoing, Sending
from redisaq.producing.sender import Sender
from redisaq.settings import (
    MOST_PARTITIONS,
    check_acks,
    check_aware,
    check_client,
    check_count,
    check_name,
    check_payloads,
    check_plain,
    check_retention,
    check_seconds,
    check_str,
    check_text,
)

SEND_TIMEOUT = 30.0
"""Seconds that one call may take, if a producer is given no other limit."""


class ProducerStatistics(msgspec.Struct, frozen=True):
    """A producer's counters.

    Attributes:
        connected: whether the connection has been opened and not closed.
        sent: messages of the calls that have succeeded.
        retried: how often a call was sent again because there was no connection or a stream was gone.
        bytes: size of the payloads of `sent`.
        partitions: the topic's partitions, as last seen; 0 before the first connection.
        waiting: calls that enqueue and are in progress, also those that wait for a connection.
    """

    connected: bool
    sent: int
    retried: int
    bytes: int
    partitions: int
    waiting: int


class Producer:
    """Appends messages to one topic."""

    def __init__(
        self,
        topic: str,
        redis_url: RedisURL | None = None,
        *,
        init_partitions: int = 1,
        maxlen: int | None = None,
        approximate: bool = True,
        retention: Literal["acked"] | None = None,
        retention_idle: float = IDLE,
        max_backlog: int | None = None,
        max_payload: int = 1 << 20,
        send_timeout: float = SEND_TIMEOUT,
        acks: Literal["primary", "replica"] = "primary",
        serializer: Serializer | None = None,
        on_send: Callable[[Outgoing], object] | None = None,
        client: str | None = None,
        namespace: str = "redisaq",
        debug: bool = False,
        logger: logging.Logger | None = None,
    ) -> None:
        """Create a producer. It does not connect yet.

        Args:
            topic: 1 to 256 characters, no braces, no control characters.
            redis_url: redis://, rediss://, unix://, redis+cluster://, redis+sentinel://, memory://name or embedded://[path]; None: the
                value of REDISAQ_URL when it connects, otherwise redis://localhost:6379/0.
            init_partitions: the least partitions of the topic: it is created with this many, or grows to them. A topic never shrinks.
            maxlen: entries kept per partition. Older ones are trimmed whether handled or not. None: no limit.
            approximate: let the server keep somewhat more than `maxlen`, which is much cheaper.
            retention: "acked" lets consumers trim entries that every group has finished, once they are older than twice the largest
                `send_timeout` of the topic's producers. The setting is stored with the topic and applies from then on. A topic without
                groups is not trimmed. You may combine it with `maxlen`: then both trim.
            retention_idle: seconds without a member after which a group no longer protects entries from trimming; default: a day. Among
                several producers, the largest value applies. While no group has a member, nothing is trimmed, however long that lasts.
            max_backlog: entries of one partition that may wait for the slowest group. `enqueue` waits for room, at most `send_timeout`,
                then raises QueueFull. None: no limit.
            max_payload: the most bytes of one message: its serialized payload, its key and its headers.
            send_timeout: seconds that one call may take, including waiting for the server to be reachable, to answer and to have room. A
                connection that owes an answer and receives nothing for half of that (0.5 to 6 s) is dropped. The other half is left to
                find out which messages arrived and to send the rest.
            acks: "replica": `enqueue` returns only once a replica has the message, and a failover to such a replica keeps it. It costs one
                WAIT for all calls that are joined in one write. If no replica confirms it within `send_timeout`, AmbiguousEnqueueError
                says so. The memory broker has no replicas and ignores it. Default: the primary alone answers.
            serializer: turns a payload into str or bytes; default: JSON.
            on_send: called with each message before it is serialized, for example to add headers. `enqueue` raises what it raises. See
                `redisaq.middleware.Outgoing`.
            client: the label of its connections, a part of their names (CLIENT SETNAME); default: "host:pid".
            namespace: the first part of every key.
            debug: log from level DEBUG, to standard error if no logging is configured. Other producers are not affected.
            logger: where to log; default: "redisaq.producer".

        Raises:
            SettingsError: a value is not valid.
        """
        self.topic = check_name("topic", topic)
        self._max_payload = check_count("max_payload", max_payload)
        if serializer is not None:
            check_plain("serializer", serializer)
        self._serializer = serializer
        if on_send is not None:
            check_plain("on_send", on_send)
        self._on_send = on_send
        self._logger = logger_for("redisaq.producer", logger, debug=debug)
        self._environment: Environment = current_environment()
        self._send_timeout = check_seconds("send_timeout", send_timeout)
        self._confirmed = check_acks(acks)
        silence = silence_within(self._send_timeout)
        client = check_client(client)
        self._access = Access(redis_url, namespace, user="Producer", client=client, silence=silence, time=self._send_timeout)
        self._new_sender = functools.partial(
            Sender,
            self.topic,
            init_partitions=check_count("init_partitions", init_partitions, most=MOST_PARTITIONS),
            maxlen=None if maxlen is None else check_count("maxlen", maxlen),
            approximate=approximate,
            max_backlog=None if max_backlog is None else check_count("max_backlog", max_backlog),
            terms=Terms(
                send_timeout=self._send_timeout,
                acked=check_retention(retention) is not None,
                idle=check_seconds("retention_idle", retention_idle),
            ),
            confirmed=self._confirmed,
        )
        self._sent = self._bytes = 0
        self._begin()
        when_forked(self)

    def _begin(self) -> None:
        self._sender = self._new_sender()
        self._connecting: anyio.Event | None = None
        self._id_prefix = ""
        self._issued = self._waiting = 0

    def forked(self) -> None:
        """Reset in a forked child, which gets message ids of its own. The child calls this automatically."""
        self._environment.random.seed()
        self._environment = current_environment()
        self._begin()

    # -- opening and closing ---------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect to the server and create the topic. This is optional: the first enqueue does it.

        If you cancel it, the producer may or may not be connected, and remains usable.

        Raises:
            ConnectionFailed: the server cannot be reached or refused the connection (raised at once, without waiting for it), or it does
                not answer.
            WrongThreadError: the event loop of another thread is using the producer. Every other method may raise it, too.
        """
        with self._access:
            await self._connect()

    async def _connect(self) -> None:
        closings = self._access.closings
        with time_limit(self._send_timeout):
            while self._sender.state is None:
                if self._connecting is not None:
                    await self._wait_for(self._connecting)
                    self._access.check_open(closings)  # a call in progress does not connect again
                    continue
                self._connecting = anyio.Event()
                try:
                    await self._open()
                finally:
                    self._connecting.set()
                    self._connecting = None

    async def _wait_for(self, connecting: anyio.Event) -> None:
        with anyio.move_on_after(time_is_up_at() - self._environment.monotonic()):
            await connecting.wait()
            return
        raise ConnectionFailed(f"topic {self.topic}", "another call has not reached the server within send_timeout", silent=True)

    async def _open(self) -> None:
        self._environment = current_environment().bound()
        self._id_prefix = self._id_prefix or self._environment.new_id()
        broker = self._access.confirmed if self._confirmed else self._access.broker
        async with self._access.opening(broker):
            state = await self._sender.open(broker, self._environment)
        self._logger.debug("producing to topic %s with %d partition(s)", self.topic, state.partitions)

    async def close(self) -> None:
        """Close the connection. Calls in progress fail with ConnectionFailed or AmbiguousEnqueueError. A later call connects again."""
        with self._access:
            self._sender.close()
            await self._access.close()

    async def __aenter__(self) -> Self:
        """Connect. If that fails, close the producer."""
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close the producer."""
        await self.close()

    # -- producing -------------------------------------------------------------------------------------------------------------

    async def enqueue(
        self,
        payload: object,
        *,
        key: str | None = None,
        partition_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_id: str | None = None,
        dedup_window: float = 3600.0,
    ) -> str:
        """Append one message and return its id.

        The message is appended once (E), within `send_timeout`, even if connections break. If you cancel the call, the message may or may
        not have been appended.

        Args:
            payload: a value that the serializer accepts, or a Message, whose fields replace arguments that you do not give.
            key: messages with the same key go to the same partition.
            partition_key: the name of a field of the payload whose value is the key.
            headers: a mapping of str to str, sent with the message.
            timeout: seconds that a handler may spend on the message.
            delay: seconds until the message is due, by this machine's clock, from 0 to 1e9 (about 31 years).
            at: when the message is due, instead of `delay`: an aware datetime, within the same limit. A time in the past means now.
            dedup_id: an id of your choice. A second message with the same id within `dedup_window` is not enqueued; the call returns the
                id of the first one. If messages have keys, those with the same `dedup_id` must have the same key.
            dedup_window: seconds that the server remembers the `dedup_id`.

        Raises:
            ConnectionFailed: the server could not be reached (raised at once on the first connection, within `send_timeout` later).
                Nothing was appended.
            AmbiguousEnqueueError: the connection broke after the message may have been sent, or the server did not answer within
                `send_timeout`, and the evidence whether the message arrived is gone or out of reach.
            QueueFull: the partition stayed full for `send_timeout`.
            SerializationError, PartitionKeyError, PayloadTooLarge, SettingsError: nothing was sent.
            ServerError: the server refused the message (out of memory, no permission).
        """
        due = None if delay is None and at is None else self._due(delay, at)
        if dedup_id is not None:
            dedup_id = check_name("dedup_id", dedup_id)
            dedup_window = check_seconds("dedup_window", dedup_window)
        if self._on_send is not None:
            with Sending(self.topic, self._on_send, self._logger) as sending:
                prepared = self._prepare(
                    payload, sending, key=key, partition_key=partition_key, headers=headers, timeout=timeout, delayed=due is not None
                )
                sending.ids = await self._send([prepared], due, dedup_id, dedup_window)
            return sending.ids[0]
        if key is None and partition_key is None and headers is None and timeout is None and due is None:
            prepared = self._prepare_plain(payload)
        else:
            prepared = self._prepare(
                payload, key=key, partition_key=partition_key, headers=headers, timeout=timeout, delayed=due is not None
            )
        ids = await self._send([prepared], due, dedup_id, dedup_window)
        return ids[0]

    async def enqueue_due(self, payload: object, *, due: int, key: str, timeout: float | None, dedup_id: str, dedup_window: float) -> str:
        """Append one message that is due at a time of the server's clock, and return its id; otherwise as `enqueue`.

        This is for cron jobs, whose ticks must not depend on the clock of the machine that enqueues them.

        Args:
            payload: as for `enqueue`.
            due: microseconds since 1970; it may be in the past.
            key: as for `enqueue`.
            timeout: as for `enqueue`.
            dedup_id: as for `enqueue`.
            dedup_window: as for `enqueue`.
        """
        prepared = self._prepare(payload, key=key, partition_key=None, headers=None, timeout=timeout, delayed=True)
        ids = await self._send([prepared], due, dedup_id, dedup_window)
        return ids[0]

    async def batch_enqueue(
        self,
        payloads: Iterable[object],
        *,
        key: str | None = None,
        partition_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        delay: float | None = None,
        at: datetime | None = None,
    ) -> list[str]:
        """Append several messages in one round trip and return their ids, in the same order.

        `payloads` is a list, a generator or another iterable of payloads. A single payload (str, bytes, a mapping, a record) is refused.
        All messages are checked before any is sent. Arguments and errors are those of `enqueue`, and apply to every message. After a
        ServerError or a ConnectionFailed, some messages may have been appended; the error's `appended` then has the entry id of each. If
        you cancel the call, any number of them may have been appended.
        """
        due = self._due(delay, at)
        several = check_payloads(payloads)
        prepare = functools.partial(
            self._prepare, key=key, partition_key=partition_key, headers=headers, timeout=timeout, delayed=due is not None
        )
        if self._on_send is not None:
            with Sending(self.topic, self._on_send, self._logger) as sending:
                sending.ids = ids = await self._send([prepare(payload, sending) for payload in several], due)
            return ids
        if key is None and partition_key is None and headers is None and timeout is None and due is None:
            return await self._send(self._prepare_plain_ones(several), None)
        return await self._send([prepare(payload) for payload in several], due)

    async def request_partition_increase(self, partitions: int) -> int:
        """Grow the topic to this many partitions, and return how many it has (more, if it already had more).

        Running producers and consumers notice within a second. Each message of a key is handled after the earlier ones of that key, also if
        the key moves to a new partition. That one waits until each group is done with what was in the older ones before.

        Raises:
            ConnectionFailed: as for `enqueue`. The topic has not grown.
            AmbiguousEnqueueError: no answer came within `send_timeout`, so the topic may have grown. It is safe to call it again.
        """
        partitions = check_count("partitions", partitions, most=MOST_PARTITIONS)
        with self._access, time_limit(self._send_timeout):
            await self._connect()
            return await self._sender.grow(partitions)

    def statistics(self) -> ProducerStatistics:
        """Return the current counters."""
        state = self._sender.state
        partitions = state.partitions if state else 0
        return ProducerStatistics(state is not None, self._sent, self._sender.retried, self._bytes, partitions, self._waiting)

    def _due(self, delay: float | None, at: datetime | None) -> int | None:
        """Return when a message is due, in microseconds since 1970; None means now."""
        if delay is not None and at is not None:
            raise SettingsError("give delay or at, not both")
        if delay is not None:
            delay = check_seconds("delay", delay, zero=True)
            if delay == 0:
                return None
            return microseconds(self._environment.wall_clock() + delay)
        if at is None:
            return None
        now, due = self._environment.wall_clock(), check_aware("at", at).timestamp()
        if due <= now:
            return None
        check_seconds("the time until `at`", due - now)
        return microseconds(due)

    def _prepare_plain(self, payload: object) -> tuple[str | None, list[bytes]]:
        """Do the same as `_prepare` in half the time, for a message without extras, as most are."""
        if isinstance(payload, Message):
            return self._prepare(cast("object", payload), key=None, partition_key=None, headers=None, timeout=None, delayed=False)
        data = serialize(payload, self._serializer)
        if len(data) > self._max_payload:
            raise PayloadTooLarge(len(data), self._max_payload)
        return None, [b"d", data]

    def _prepare_plain_ones(self, payloads: Sequence[object]) -> list[tuple[str | None, list[bytes]]]:
        """Do the same as `_prepare_plain` for each payload, without a Python call for each if none needs special treatment."""
        if self._serializer is None and not any(map(_is_special, set(map(type, payloads)))):
            with contextlib.suppress(*NOT_SERIALIZED):  # the loop below refuses the one that cannot be serialized
                datas = list(map(encode_json, payloads))
                if not datas or max(map(len, datas)) <= self._max_payload:
                    check_all(payloads, datas)
                    return [(None, [b"d", data]) for data in datas]
        return [self._prepare_plain(payload) for payload in payloads]

    def _prepare(
        self,
        payload: object,
        sending: Sending | None = None,
        *,
        key: str | None,
        partition_key: str | None,
        headers: Mapping[str, str] | None,
        timeout: float | None,
        delayed: bool,
    ) -> tuple[str | None, list[bytes]]:
        """Return the message's key and the fields that follow its id. Errors are raised before anything is sent."""
        if isinstance(payload, Message):
            message = cast("Message[object]", payload)
            if message.topic != self.topic:
                reason = f"a message for topic {message.topic!r} was given to the producer of {self.topic!r}"
                raise SettingsError(reason)
            payload = message.payload
            if key is None and partition_key is None:
                key, partition_key = message.key, message.partition_key
            headers = headers if headers is not None else message.headers
            timeout = timeout if timeout is not None else message.timeout
        if key is None and partition_key is not None:
            key = key_of(payload, check_str("partition_key", partition_key))
        if sending is not None:
            headers = sending.show(payload, key, headers)
        data = serialize(payload, self._serializer)
        if len(data) > self._max_payload:
            raise PayloadTooLarge(len(data), self._max_payload)
        if key is None and not headers and timeout is None and not delayed:
            return None, [b"d", data]
        return key, self._fields(data, key=key, headers=headers, timeout=timeout, delayed=delayed)

    def _fields(
        self, data: bytes, *, key: str | None, headers: Mapping[str, str] | None, timeout: float | None, delayed: bool
    ) -> list[bytes]:
        """Return the fields of a message with extras, after its id."""
        if key is not None:
            key = check_text("key", key)
        if timeout is not None:
            timeout = check_seconds("timeout", timeout)
        created_ms = int(self._environment.wall_clock() * 1000) if delayed else 0
        fields = [b"d", data, *extra_fields(key=key, headers=headers, timeout=timeout, created_ms=created_ms)]
        size = sum(map(len, fields[1::2]))
        if size > self._max_payload:
            raise PayloadTooLarge(size, self._max_payload)
        return fields

    async def _send(
        self,
        prepared: Sequence[tuple[str | None, list[bytes]]],
        due: int | None,
        dedup_id: str | None = None,
        dedup_window: float = 0.0,
    ) -> list[str]:
        if not prepared:
            return []
        if self._sender.state is None:
            return await self._connect_and_send(prepared, due, dedup_id, dedup_window)
        access = self._access
        access.enter()
        try:
            first = self._issued
            self._issued += len(prepared)
            if len(prepared) == 1:  # the usual case: a comprehension would cost as much as all of this
                ((key, fields),) = prepared
                ids = [f"{self._id_prefix}-{first:x}"]
                todo = [(ids[0], key, [b"i", ids[0].encode(), *fields])]
                size = len(fields[1])
            else:
                ids = [f"{self._id_prefix}-{number:x}" for number in range(first, self._issued)]
                todo = [(msg_id, key, [b"i", msg_id.encode(), *fields]) for msg_id, (key, fields) in zip(ids, prepared, strict=True)]
                size = sum([len(fields[1]) for _, fields in prepared])
            self._waiting += 1
            try:
                if dedup_id is not None:
                    standing = await self._sender.send_once(todo[0], dedup_id=dedup_id, window=dedup_window, due=due)
                    if standing != ids[0]:  # an earlier message has the mark: the server appended nothing
                        return [standing]
                elif due is not None:
                    await self._sender.delay(todo, due)
                else:
                    await self._sender.send(todo)
            finally:
                self._waiting -= 1
            self._sent += len(ids)
            self._bytes += size
            return ids
        finally:
            access.leave()

    async def _connect_and_send(
        self, prepared: Sequence[tuple[str | None, list[bytes]]], due: int | None, dedup_id: str | None, dedup_window: float
    ) -> list[str]:
        with self._access, time_limit(self._send_timeout):  # the limit of the whole call
            self._waiting += 1
            try:
                await self._connect()
            except ConnectionFailed as error:
                raise error.unsent() from error
            finally:
                self._waiting -= 1
            return await self._send(prepared, due, dedup_id, dedup_window)


def _is_special(kind: type[object]) -> bool:
    """Return whether payloads of this type are not serialized by msgspec alone: messages and pydantic models."""
    return issubclass(kind, Message) or hasattr(kind, SERIALIZER)
