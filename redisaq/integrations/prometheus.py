"""Prometheus metrics of producers, consumers and groups (extra `metrics`).

A `Metrics` subscribes to the events of what it watches, and reads statistics when it is scraped. Where OpenTelemetry's conventions for
messaging have a name, the metric has that name as Prometheus writes it (`messaging.client.consumed.messages` becomes
`messaging_client_consumed_messages_total`), with the same attributes as labels. The other names begin with `redisaq_`.

The number of time series is bounded: labels are topics and groups of the program, and at most `ERROR_TYPES` classes of errors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import anyio
from msgspec import structs
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from redisaq.admin import Admin
from redisaq.admin_views import GroupInfo
from redisaq.app import App
from redisaq.consumer import Consumer
from redisaq.consuming.statistics import ConsumerStatistics
from redisaq.describing import name_of
from redisaq.errors import ConnectionFailed, RedisaqError, TopicMissingError
from redisaq.events import (
    Disconnected,
    EntriesTrimmed,
    Event,
    HandlerAbandoned,
    HandlerBlocked,
    HandlerSlow,
    LeaseLost,
    MessageDead,
    MessageFailed,
    MessageRetried,
    MessageStarted,
    MessageSucceeded,
    PartitionAcquired,
    PartitionRevoked,
)
from redisaq.integrations.counts import Counts, Description, Series
from redisaq.producer import Producer

logger = logging.getLogger("redisaq.metrics")

__all__ = ["Metrics"]

ERROR_TYPES = 50
"""Classes of errors that have a time series of their own. What comes after them is counted as OTHER."""
OTHER = "_OTHER"
"""The word of OpenTelemetry's conventions for an error type that is not known."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 300.0)
"""Bounds of the histograms: those of OpenTelemetry's conventions, and three for long work."""

WAITS = (*SECONDS, 1800.0, 3600.0, 21600.0, 86400.0)
"""Bounds for how long messages wait: a backlog may be a day old."""

SYSTEM = "redisaq"
TOPIC, GROUP = "messaging_destination_name", "messaging_consumer_group_name"
LABELS = ("messaging_system", TOPIC, GROUP)

CONSUMED = Description(
    "messaging_client_consumed_messages",
    "Handler runs that have ended; error_type is empty for those that succeeded.",
    (*LABELS, "messaging_operation_name", "error_type"),
    (),
)
TOOK = Description("messaging_process_duration_seconds", "How long handlers ran.", (*LABELS, "messaging_operation_name"), (), SECONDS)
WAITED = Description(
    "redisaq_message_wait_seconds", "How long messages were in their stream when their first handler run began.", LABELS, (), WAITS
)

COUNTED: dict[type[Event], tuple[str, str]] = {
    MessageRetried: ("redisaq_messages_retried", "Messages that will be tried again."),
    MessageDead: ("redisaq_messages_dead", "Messages that became dead letters."),
    LeaseLost: ("redisaq_leases_lost", "Partitions whose lease ended while they were worked on."),
    PartitionAcquired: ("redisaq_partitions_acquired", "Partitions that were taken: each rebalance moves some."),
    PartitionRevoked: ("redisaq_partitions_revoked", "Partitions that were handed over in order."),
    EntriesTrimmed: ("redisaq_entries_trimmed", "Messages lost because their stream was trimmed before they were done with."),
    HandlerSlow: ("redisaq_handlers_slow", "Handlers that ran longer than slow_after."),
    HandlerAbandoned: ("redisaq_handlers_abandoned", "Plain functions that were left running in their thread."),
    HandlerBlocked: ("redisaq_handlers_blocked", "Handlers that blocked the event loop until the lease was lost."),
    Disconnected: ("redisaq_disconnects", "Reports that the server does not answer."),
}
"""Counters of events."""

KEPT = (CONSUMED, TOOK, WAITED, *(Description(name, text, LABELS, ()) for name, text in COUNTED.values()))
"""What events are counted in."""

SENDING = {
    "messaging_client_sent_messages": "Messages that the server accepted.",
    "redisaq_send_retries": "Calls that were sent again: there was no connection, or a stream was gone.",
}
"""Counters of a topic's producers."""

GAUGES = {
    "redisaq_handlers_running": "Messages in a handler.",
    "redisaq_messages_waiting": "Messages read, waiting for a handler.",
    "redisaq_partitions_owned": "Partitions that this process owns.",
    "redisaq_consumers_connected": "Consumers whose heartbeats the server answers.",
    "redisaq_consumers_healthy": "Consumers that are connected and members of their group.",
    "redisaq_group_unread_messages": "Messages that the group has not read.",
    "redisaq_group_pending_messages": "Messages that were delivered and not settled.",
    "redisaq_group_retrying_messages": "Messages that wait until they are tried again.",
    "redisaq_group_dead_letters": "Dead letters of the group.",
    "redisaq_group_backlog_messages": "Messages that are in handlers, or could be now: the number to scale by.",
    "redisaq_group_oldest_seconds": "Age of the oldest message that is not settled, without retries; 0 if there is none.",
}
"""Gauges of a group: what this process does for it, and what `measure_backlogs` has found."""

Value: TypeAlias = tuple[str, tuple[str, ...], float]
"""The value of a metric: its name, its labels' values, the number."""

Measured: TypeAlias = tuple[int, GroupInfo]
"""A group's backlog, and the rest of what it has left to do."""

LOOKS = 5
"""How often statistics are read again that another thread changes meanwhile."""


class _GroupMetrics:
    """The time series of one group of one topic, looked up once: this is used for each message.

    Attributes:
        counts: what to do for an event, by its type.
    """

    def __init__(self, metrics: Metrics, topic: str, group: str) -> None:
        labels = (SYSTEM, topic, group)
        self._metrics = metrics
        self._labels = labels
        self._errors: dict[str, Series] = {}
        self._succeeded = metrics.series(CONSUMED, *labels, "process", "")
        self._took = metrics.series(TOOK, *labels, "process")
        self._waited = metrics.series(WAITED, *labels)
        self.counts: dict[type[Event], Callable[[Any], None]] = {
            MessageStarted: self._count_start,
            MessageSucceeded: self._count_success,
            MessageFailed: self._count_failure,
        }
        for kind, (name, text) in COUNTED.items():
            series = metrics.series(Description(name, text, LABELS, ()), *labels)
            self.counts[kind] = _count_by(series, "count" if kind is EntriesTrimmed else "")

    def _count_start(self, event: MessageStarted) -> None:
        if event.attempt == 1:
            self._waited.observe(event.waited)

    def _count_success(self, event: MessageSucceeded) -> None:
        self._succeeded.add()
        self._count_end(event)

    def _count_failure(self, event: MessageFailed) -> None:
        kind = self._metrics.error_type(type(event.error))
        counter = self._errors.get(kind)
        if counter is None:
            counter = self._errors[kind] = self._metrics.series(CONSUMED, *self._labels, "process", kind)
        counter.add()
        self._count_end(event)

    def _count_end(self, event: MessageSucceeded | MessageFailed) -> None:
        if event.took is not None:
            self._took.observe(event.took)


def _count_by(counter: Series, attribute: str) -> Callable[[Event], None]:
    """Return a function that counts an event as one, or as the number in its attribute."""
    if attribute:
        return lambda event: counter.add(getattr(event, attribute))
    return lambda _: counter.add()


class Metrics:
    """Counts what producers and consumers do, for Prometheus.

    `Metrics().watch(app)` is all that a program needs. How the registry is served is up to the program: `prometheus_client` has a server of
    its own, and an ASGI application. `redisaq worker` counts and serves by itself.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, *, counts: Counts | None = None) -> None:
        """Create the metrics.

        Args:
            registry: where they are registered.
            counts: where events are counted: `redisaq worker` gives memory that outlives the process. None: in this process.

        Raises:
            ValueError: the registry has metrics of these names already: one `Metrics` serves a whole program.
        """
        self._counts = Counts() if counts is None else counts
        self._measured: dict[tuple[str, str], Measured] = {}
        self._groups: dict[tuple[str, str], _GroupMetrics] = {}
        self._error_types: dict[type, str] = {}
        self._watched: list[App[Any] | Consumer[Any] | Producer] = []
        registry.register(_Counted(self._counts))
        registry.register(_Statistics(self._watched, self._measured))

    def watch(self, *watched: App[Any] | Consumer[Any] | Producer) -> None:
        """Count what these do from their next run on.

        An App's topics and consumers are watched, too. Watch each object once: a consumer of an App that is watched is watched already.
        """
        for one in watched:
            if not isinstance(one, Producer):
                one.observe(self.on_event)
            self._watched.append(one)

    def on_event(self, event: Event) -> None:
        """Count an event. `watch` subscribes this; it can also be given as `on_event` to an App or a Consumer."""
        group = self._groups.get((event.topic, event.group))
        if group is None:
            group = self._groups[event.topic, event.group] = _GroupMetrics(self, event.topic, event.group)
        count = group.counts.get(type(event))
        if count is not None:
            count(event)

    async def measure_backlogs(self, admin: Admin, groups: Iterable[tuple[str, str]], *, every: float = 15.0) -> None:
        """Measure what groups have left to do, until cancelled. Each measurement costs the server a look at each partition.

        One process needs to do it for a group. While the server does not answer, or a group cannot be read, its last measurement is not
        shown; the latter is logged.

        Args:
            admin: asks the server.
            groups: topic and group of each.
            every: seconds between two measurements.
        """
        names = list(groups)
        unreadable: dict[tuple[str, str], str] = {}
        while True:
            for topic, group in names:
                reason = ""
                try:
                    backlog = await admin.backlog(topic, group)
                    self._measured[topic, group] = backlog, await admin.group(topic, group)
                except RedisaqError as error:
                    self._measured.pop((topic, group), None)
                    missing = isinstance(error, ConnectionFailed | TopicMissingError)  # these pass, and are reported elsewhere
                    reason = "" if missing else str(error)
                if reason and unreadable.get((topic, group)) != reason:
                    logger.warning("the backlog of group %s of %s cannot be read: %s", group, topic, reason)
                unreadable[topic, group] = reason
            await anyio.sleep(every)

    def series(self, what: Description, *labels: str) -> Series:
        """Return a new time series of a metric."""
        return self._counts.series(structs.replace(what, labels=labels))

    def error_type(self, kind: type) -> str:
        """Return the word for a class of errors; OTHER if there are too many classes."""
        name = self._error_types.get(kind)
        if name is None:
            if len(self._error_types) >= ERROR_TYPES:
                return OTHER
            name = self._error_types[kind] = name_of(kind)
        return name


class _Counted:
    """Reads what events were counted in when the registry is scraped, which may happen in another thread."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values."""
        return [Metric(one.name, one.text, one.kind) for one in KEPT]

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        families = {one.name: one for one in self.describe()}
        for series in self._counts:
            for name, labels, value in series.description.samples(series.values()):
                families[series.description.name].add_sample(name, labels, value)
        return families.values()


class _Statistics:
    """Reads the statistics of what is watched when the registry is scraped, which may happen in another thread."""

    def __init__(self, watched: list[App[Any] | Consumer[Any] | Producer], measured: dict[tuple[str, str], Measured]) -> None:
        self._watched = watched
        self._measured = measured

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values."""
        return self._families().values()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        families = self._families()
        sums: dict[tuple[str, tuple[str, ...]], float] = {}
        for name, labels, value in (*self._sending(), *self._consuming(), *self._measurements()):
            sums[name, labels] = sums.get((name, labels), 0.0) + value
        for (name, labels), value in sums.items():
            families[name].add_metric(labels, value)
        return families.values()

    def _sending(self) -> Iterator[Value]:
        for producer in self._producers():
            labels, seen = (SYSTEM, producer.topic, "send"), producer.statistics()
            yield "messaging_client_sent_messages", labels, seen.sent
            yield "redisaq_send_retries", labels, seen.retried

    def _consuming(self) -> Iterator[Value]:
        for consumer in self._consumers():
            labels, seen = (SYSTEM, consumer.topic, consumer.group_name), _steady(consumer.statistics)
            yield "redisaq_handlers_running", labels, sum(one.in_flight for one in seen.partitions)
            yield "redisaq_messages_waiting", labels, sum(one.waiting for one in seen.partitions)
            yield "redisaq_partitions_owned", labels, len(seen.partitions)
            yield "redisaq_consumers_connected", labels, seen.connected
            yield "redisaq_consumers_healthy", labels, consumer.healthy()

    def _measurements(self) -> Iterator[Value]:
        for (topic, group), (backlog, info) in list(self._measured.items()):
            labels = (SYSTEM, topic, group)
            yield "redisaq_group_unread_messages", labels, info.unread
            yield "redisaq_group_pending_messages", labels, info.pending
            yield "redisaq_group_retrying_messages", labels, info.retry
            yield "redisaq_group_dead_letters", labels, info.dead
            yield "redisaq_group_backlog_messages", labels, backlog
            yield "redisaq_group_oldest_seconds", labels, max((one.oldest or 0.0 for one in info.partitions), default=0.0)

    def _producers(self) -> Iterator[Producer]:
        for one in list(self._watched):
            if isinstance(one, Producer):
                yield one
            elif isinstance(one, App):
                yield from (topic.producer for topic in list(one.topics.values()))

    def _consumers(self) -> Iterator[Consumer[Any]]:
        for one in list(self._watched):
            if isinstance(one, Consumer):
                yield one
            elif isinstance(one, App):
                yield from (subscription.consumer for subscription in one.consumers)

    def _families(self) -> dict[str, Any]:
        sending = ("messaging_system", TOPIC, "messaging_operation_name")
        counters = [CounterMetricFamily(name, text, labels=sending) for name, text in SENDING.items()]
        gauges = [GaugeMetricFamily(name, text, labels=LABELS) for name, text in GAUGES.items()]
        return {family.name: family for family in (*counters, *gauges)}


def _steady(read: Callable[[], ConsumerStatistics]) -> ConsumerStatistics:
    """Read statistics again while the event loop changes them, in another thread."""
    for _ in range(LOOKS):
        try:
            return read()
        except RuntimeError:  # a dict changed while it was read
            continue
    return read()
