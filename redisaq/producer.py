"""Producer: appends messages to a topic's partitions.

In: payloads from any task, of one event loop after another. Out: their message ids, once the server has them. A batch is checked whole
before anything of it is sent; messages of one call to one partition stand there in the order of the call.
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
from redisaq.core.retention import IDLE
from redisaq.describing import shown
from redisaq.environment import Environment, current_environment, silence_within, time_is_up_at, time_limit, when_forked
from redisaq.errors import ConnectionFailed, PayloadTooLarge, SettingsError
from redisaq.logs import logger_for
from redisaq.message import Message
from redisaq.middleware import Outgoing
from redisaq.producing.sender import Sender
from redisaq.settings import check_count, check_name, check_payloads, check_plain, check_retention, check_seconds, check_str, check_text


class ProducerStatistics(msgspec.Struct, frozen=True):
    """A producer's counters.

    Attributes:
        connected: the link has been opened and not closed.
        sent: messages that the server has taken.
        retried: times that a call was sent again, since its connection could not be had or a stream was gone.
        bytes: of the payloads taken.
        partitions: of the topic, as last seen; 0 before the first connection.
        waiting: calls under way.
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
        send_timeout: float = 30.0,
        serializer: Serializer | None = None,
        on_send: Callable[[Outgoing], object] | None = None,
        namespace: str = "redisaq",
        debug: bool = False,
        logger: logging.Logger | None = None,
    ) -> None:
        """Take the settings; nothing is opened yet.

        Args:
            topic: 1 to 256 characters, no braces, no control characters.
            redis_url: redis://, rediss://, unix://, memory://name or embedded://[path]; None: what REDISAQ_URL says when it connects, or
                else redis://localhost:6379/0.
            init_partitions: the topic is made with so many partitions, or grown to them; a topic never shrinks.
            maxlen: entries kept per partition; older ones are trimmed whether handled or not. None: unbounded.
            approximate: let the server keep somewhat more than `maxlen`, which is much cheaper.
            retention: "acked" lets consumers trim what every group has done with, once it is older than twice the largest `send_timeout`
                of the topic's producers. It is kept with the topic, and holds from then on. Where no group is, nothing is trimmed.
                `maxlen` may be given as well: then both trim.
            retention_idle: seconds without a member after which a group no longer keeps entries from being trimmed; default: a day. Of
                several producers the largest counts. While all groups are without members nothing is trimmed, however long.
            max_backlog: entries of one partition that may wait for the slowest group; `enqueue` waits for room, at most `send_timeout`,
                then raises QueueFull. None: no limit.
            max_payload: bytes that one message may have: its serialized payload, its key and its headers.
            send_timeout: seconds that one call may take, whether the server can be reached, answers, or has room. A connection over
                which nothing comes for half of that while an answer is owed is given up (0.5 to 6 s), so that the other half is left to
                look what arrived and to send the rest.
            serializer: payload to str or bytes; default: JSON.
            on_send: called with each message before it is serialized, to add headers, say; what it raises, `enqueue` raises.
            namespace: the first part of every key.
            debug: log from level DEBUG on, to standard error where no logging is set up; other producers log as before.
            logger: where to log; default: "redisaq.producer".

        Raises:
            SettingsError: a value cannot work.
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
        silence = silence_within(self._send_timeout)
        self._access = Access(redis_url, namespace, user="Producer", silence=silence, time=self._send_timeout)
        self._new_sender = functools.partial(
            Sender,
            self.topic,
            init_partitions=check_count("init_partitions", init_partitions, most=1 << 16),
            maxlen=None if maxlen is None else check_count("maxlen", maxlen),
            approximate=approximate,
            max_backlog=None if max_backlog is None else check_count("max_backlog", max_backlog),
            terms=Terms(
                send_timeout=self._send_timeout,
                acked=check_retention(retention) is not None,
                idle=check_seconds("retention_idle", retention_idle),
            ),
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
        """Begin anew in a child made by fork, with message ids of its own. The child calls this by itself."""
        self._environment.random.seed()
        self._environment = current_environment()
        self._begin()

    # -- opening and closing ---------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Open the link and make the topic. Optional: the first enqueue does it.

        Cancelled, it leaves the producer unconnected or connected, usable in either case.

        Raises:
            ConnectionFailed: the server cannot be reached, or refused us; at once, without waiting for it. Or it does not answer.
            WrongThreadError: the producer is in use by the event loop of another thread. Every other method may raise it, too.
        """
        with self._access:
            await self._connect()

    async def _connect(self) -> None:
        with time_limit(self._send_timeout):
            while self._sender.state is None:
                if self._connecting is not None:
                    await self._wait_for(self._connecting)
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
        state = await self._sender.open(self._access.broker, self._environment)
        self._logger.debug("producing to topic %s with %d partition(s)", self.topic, state.partitions)

    async def close(self) -> None:
        """Close the link; calls under way fail with ConnectionFailed or AmbiguousEnqueueError. A later call opens it again."""
        with self._access:
            self._sender.close()
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

        Over broken connections it is appended once (E), within `send_timeout`. Cancelled, it may or may not have been appended.

        Args:
            payload: what the serializer takes, or a Message whose fields stand where no argument is given.
            key: messages with the same key go to the same partition.
            partition_key: the name of a field of the payload whose value is the key.
            headers: text to text, carried along.
            timeout: seconds that a handler may run on it.
            delay: seconds until it is to be handled, by this machine's clock; from 0 to 1e9 (some 31 years).
            at: when it is to be handled, instead of `delay`: an aware datetime, no further away; a time that has passed means now.
            dedup_id: of your own: a second message with it within `dedup_window` is not enqueued, and the first one's id is returned.
                Where messages have keys, those with the same id must have the same key.
            dedup_window: seconds.

        Raises:
            ConnectionFailed: the server could not be reached (first connection: at once; later: within `send_timeout`); nothing was
                appended.
            AmbiguousEnqueueError: the connection broke after the message may have been sent, or the server did not answer within
                `send_timeout`, and what would tell is gone or out of reach.
            QueueFull: the partition stayed full for `send_timeout`.
            SerializationError, PartitionKeyError, PayloadTooLarge, SettingsError: nothing was sent.
            ServerError: the server refused it (out of memory, no permission).
        """
        due = None if delay is None and at is None else self._due(delay, at)
        if dedup_id is not None:
            dedup_id = check_name("dedup_id", dedup_id)
            dedup_window = check_seconds("dedup_window", dedup_window)
        if key is None and partition_key is None and headers is None and timeout is None and due is None:
            prepared = self._prepare_plain(payload)
        else:
            prepared = self._prepare(
                payload, key=key, partition_key=partition_key, headers=headers, timeout=timeout, delayed=due is not None
            )
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
        """Append some messages in one round trip and return their ids, in the same order.

        `payloads` is a list, a generator or anything else that yields them; one payload (a text, bytes, a mapping, a record) is refused.
        All are checked before any is sent. Arguments and errors are those of `enqueue`, for every message. After a ServerError or a
        ConnectionFailed, some of them may have been appended; `appended` of the error then has the entry id of each of these. Cancelled,
        any number of them may have been.
        """
        due = self._due(delay, at)
        several = check_payloads(payloads)
        if key is None and partition_key is None and headers is None and timeout is None and due is None:
            return await self._send(self._prepare_plain_ones(several), None)
        prepare = functools.partial(
            self._prepare, key=key, partition_key=partition_key, headers=headers, timeout=timeout, delayed=due is not None
        )
        return await self._send([prepare(payload) for payload in several], due)

    async def request_partition_increase(self, partitions: int) -> int:
        """Let the topic grow to so many partitions; return how many it has (more, if it had more).

        Running producers and consumers notice within a second. Keys that move to a new partition may be handled out of order while
        their old partition still holds messages of theirs.

        Raises:
            ConnectionFailed: as for `enqueue`; the topic has not grown.
            AmbiguousEnqueueError: no answer came within `send_timeout`: it may have grown. Asking again does no harm.
        """
        partitions = check_count("partitions", partitions, most=1 << 16)
        with self._access, time_limit(self._send_timeout):
            await self._connect()
            return await self._sender.grow(partitions)

    def statistics(self) -> ProducerStatistics:
        """Return the counters as they stand."""
        state = self._sender.state
        partitions = state.partitions if state else 0
        return ProducerStatistics(state is not None, self._sent, self._sender.retried, self._bytes, partitions, self._waiting)

    def _due(self, delay: float | None, at: datetime | None) -> int | None:
        """Return when a message is due, microseconds since 1970; None for now."""
        if delay is not None and at is not None:
            raise SettingsError("give delay or at, not both")
        if delay is not None:
            delay = check_seconds("delay", delay, zero=True)
            if delay == 0:
                return None
            return int((self._environment.wall_clock() + delay) * 1e6)
        if at is None:
            return None
        if not isinstance(at, datetime) or at.tzinfo is None or at.utcoffset() is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingsError(f"at must be an aware datetime (with a time zone), not {shown(at)}")
        now, due = self._environment.wall_clock(), at.timestamp()
        if due <= now:
            return None
        check_seconds("the time until `at`", due - now)
        return int(due * 1e6)

    def _prepare_plain(self, payload: object) -> tuple[str | None, list[bytes]]:
        """Do the same as `_prepare` for a message without extras, which most are, in half the time."""
        if self._on_send is not None:
            return self._prepare(payload, key=None, partition_key=None, headers=None, timeout=None, delayed=False)
        if isinstance(payload, Message):
            return self._prepare(cast("object", payload), key=None, partition_key=None, headers=None, timeout=None, delayed=False)
        data = serialize(payload, self._serializer)
        if len(data) > self._max_payload:
            raise PayloadTooLarge(len(data), self._max_payload)
        return None, [b"d", data]

    def _prepare_plain_ones(self, payloads: Sequence[object]) -> list[tuple[str | None, list[bytes]]]:
        """Do the same as `_prepare_plain` for each, without a call of Python's for each where nothing is special about them."""
        if self._serializer is None and self._on_send is None and not any(map(_is_special, set(map(type, payloads)))):
            with contextlib.suppress(*NOT_SERIALIZED):  # below, it is one of them that is refused
                datas = list(map(encode_json, payloads))
                if not datas or max(map(len, datas)) <= self._max_payload:
                    check_all(payloads, datas)
                    return [(None, [b"d", data]) for data in datas]
        return [self._prepare_plain(payload) for payload in payloads]

    def _prepare(
        self,
        payload: object,
        *,
        key: str | None,
        partition_key: str | None,
        headers: Mapping[str, str] | None,
        timeout: float | None,
        delayed: bool,
    ) -> tuple[str | None, list[bytes]]:
        """Return the message's key and its fields after the id; raise before anything is sent."""
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
        headers = self._show(payload, key, headers)
        data = serialize(payload, self._serializer)
        if len(data) > self._max_payload:
            raise PayloadTooLarge(len(data), self._max_payload)
        if key is None and not headers and timeout is None and not delayed:
            return None, [b"d", data]
        if key is not None:
            key = check_text("key", key)
        if timeout is not None:
            timeout = check_seconds("timeout", timeout)
        created_ms = int(self._environment.wall_clock() * 1000) if delayed else 0
        fields = [b"d", data, *extra_fields(key=key, headers=headers, timeout=timeout, created_ms=created_ms)]
        size = sum(map(len, fields[1::2]))
        if size > self._max_payload:
            raise PayloadTooLarge(size, self._max_payload)
        return key, fields

    def _show(self, payload: object, key: str | None, headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """Let `on_send` see a message; return its headers."""
        if self._on_send is None:
            return headers
        outgoing = Outgoing(self.topic, payload, key, dict(headers or {}))
        self._on_send(outgoing)
        return outgoing.headers

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
            if len(prepared) == 1:  # as most are: a comprehension costs as much as all of this
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
                    if standing != ids[0]:  # an earlier message has the mark: the server has taken nothing
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
        with self._access, time_limit(self._send_timeout):  # of the whole call
            try:
                await self._connect()
            except ConnectionFailed as error:
                raise error.unsent() from error
            return await self._send(prepared, due, dedup_id, dedup_window)


def _is_special(kind: type[object]) -> bool:
    """Tell whether payloads of this type are written in another way than msgspec's: messages, and pydantic's models."""
    return issubclass(kind, Message) or hasattr(kind, SERIALIZER)
