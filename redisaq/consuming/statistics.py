"""The state and counters of one consumer, as frozen structs."""

from __future__ import annotations

from typing import Literal

import msgspec

from redisaq.consuming.runtime import ConsumerRuntime


class PartitionStatistics(msgspec.Struct, frozen=True):
    """One owned partition.

    Attributes:
        partition: its number.
        token: the token under which it is owned.
        position: the highest entry id read, "" before the first.
        in_flight: messages whose handler runs.
        waiting: messages that were read and wait for a handler.
        handled: how many handlers returned since it was acquired.
        failed: how many handlers raised.
        trimmed: how many entries trimming took before they were settled.
        waiting_for: the older partition that it waits for, if the topic grew by it and the group is not done with what was there before;
            None if it is read, or if that is not known yet.
        waiting_for_messages: how many messages of that partition are not done; at most 1,000 are counted, after ten seconds, then each
            minute. None before that, and if it waits for nothing.
        waited: for how many seconds it has waited; None if it waits for nothing.
    """

    partition: int
    token: int
    position: str
    in_flight: int
    waiting: int
    handled: int
    failed: int
    trimmed: int = 0
    waiting_for: int | None = None
    waiting_for_messages: int | None = None
    waited: float | None = None


class RunningMessage(msgspec.Struct, frozen=True):
    """A message that is in a handler, or in the body of a loop over `messages()`.

    Attributes:
        msg_id: its id.
        partition: its partition.
        key: its key.
        since: for how many seconds. Without `on_event` and logging at DEBUG, this counts from when the consumer noticed: at a heartbeat, or
            when it was asked for statistics.
        entry_id: its stream entry.
        attempt: the number of the delivery, from 1.
    """

    msg_id: str
    partition: int
    key: str | None
    since: float
    entry_id: str
    attempt: int


class ConsumerStatistics(msgspec.Struct, frozen=True):
    """One consumer.

    Attributes:
        state: "stopped", "joining" (also while the topic does not exist), "running", "disconnected" (joining or running, while the server
            does not answer) or "draining".
        member: the incarnation, "" while stopped.
        partitions: the owned ones, by number.
        handled: handlers that returned, over all partitions and runs.
        failed: handlers that raised.
        trimmed: entries of its partitions that trimming took before they were done with.
        connected: it runs, and the server answers its heartbeats; False from one heartbeat interval after the first that it does not.
        last_heartbeat: seconds since the last heartbeat that was answered was sent, None before the first.
        running: the messages that are in handlers, longest first.
    """

    state: Literal["stopped", "joining", "running", "disconnected", "draining"]
    member: str
    partitions: tuple[PartitionStatistics, ...]
    handled: int
    failed: int
    trimmed: int = 0
    connected: bool = False
    last_heartbeat: float | None = None
    running: tuple[RunningMessage, ...] = ()


def statistics_of(runtime: ConsumerRuntime | None, handled: int, failed: int, trimmed: int) -> ConsumerStatistics:
    """Return the runtime's statistics; `handled`, `failed` and `trimmed` are the sums of earlier runs."""
    if runtime is None:
        return ConsumerStatistics("stopped", "", (), handled, failed, trimmed)
    contact, clock = runtime.around.contact, runtime.around.environment.clock
    partitions = tuple(
        PartitionStatistics(
            partition=owned.partition,
            token=owned.token,
            position=owned.flights.position.decode(),
            in_flight=owned.flights.running,
            waiting=owned.flights.waiting,
            handled=owned.flights.handled,
            failed=owned.flights.failures,
            trimmed=owned.flights.trimmed,
            waiting_for=None if owned.barrier is None else owned.barrier.waiting_for,
            waiting_for_messages=None if owned.barrier is None else owned.barrier.messages,
            waited=None if owned.barrier is None or owned.barrier.passed else clock() - owned.barrier.since,
        )
        for owned in runtime.owned()
    )
    counts = runtime.counts()
    state: Literal["joining", "running", "disconnected"] = "running" if runtime.member.joined else "joining"
    if not contact.connected:
        state = "disconnected"
    return ConsumerStatistics(
        state="draining" if runtime.stopping else state,
        member=runtime.member.lease.incarnation,
        partitions=partitions,
        handled=handled + counts[0],
        failed=failed + counts[1],
        trimmed=trimmed + counts[2],
        connected=contact.connected,
        last_heartbeat=None if contact.heartbeat is None else clock() - contact.heartbeat,
        running=tuple(
            RunningMessage(flight.msg_id, flight.partition, flight.key, seconds, flight.entry_id, flight.attempt)
            for flight, seconds in runtime.around.runs.running(runtime.owned())
        ),
    )
