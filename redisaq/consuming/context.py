"""What every actor of one consumer shares."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import anyio

from redisaq import events
from redisaq.brokers.steps import Broker
from redisaq.brokers.terms import GroupName
from redisaq.consuming.bulletin import Bulletin
from redisaq.consuming.concurrency import Concurrency
from redisaq.consuming.contact import Contact
from redisaq.consuming.gate import Gate
from redisaq.consuming.owned import OwnedPartition
from redisaq.consuming.runs import Runs
from redisaq.core.in_flight import Ending
from redisaq.environment import Environment
from redisaq.message import Message
from redisaq.settings import ConsumerSettings

AT_ONCE = 32
"""How many partitions connect, or are installed, at the same time.

With thousands at once, each turn of the event loop takes seconds. A heartbeat needs several turns, so the lease would run out meanwhile.
"""

SAME_LOSS = 30.0  # seconds within which partitions that find their group gone count as one loss
MOST_BLOCKED = 1000
"""How many entries to remember during whose handling the event loop was blocked: the latest ones."""


class Blocked(NamedTuple):
    """How many times the event loop was blocked while an entry was handled, and for how many seconds at most."""

    times: int
    seconds: float


@dataclass
class Surroundings:
    """The consumer's group, settings, broker, clocks, observers and credit.

    Attributes:
        settings: the user's; if messages are pulled, changed by `for_pulling`.
        granting: does the steps that give leases: the broker, or one that waits for a replica (C7).
        contact: whether the server answers.
        gate: closed while the group is paused.
        history: how the topic has grown, as far as heartbeats have reported (G1).
        look_at_growth: makes the growth watch look again.
        taking: limits how many partitions are taken, or connect again, at the same time: see AT_ONCE.
        kill_refused: the server does not permit CLIENT KILL (T4), and that has been reported.
        deaf: the server does not permit SSUBSCRIBE, and that has been reported.
        given_up: the consumer ends and the server is silent: send it nothing more.
        blocked: by partition and id, entries whose handlers ran here while the event loop was blocked until the lease was lost.
    """

    topic: str
    settings: ConsumerSettings
    broker: Broker
    environment: Environment
    logger: logging.Logger
    granting: Broker
    group: GroupName = field(init=False)
    bulletin: Bulletin = field(init=False)
    concurrency: Concurrency = field(init=False)
    contact: Contact = field(init=False)
    runs: Runs = field(init=False)
    gate: Gate = field(default_factory=Gate)
    history: tuple[int, ...] = ()
    look_at_growth: Callable[[], None] = lambda: None
    taking: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(AT_ONCE))
    kill_refused: bool = False
    deaf: bool = False
    given_up: bool = False
    blocked: dict[tuple[int, bytes], Blocked] = field(default_factory=dict[tuple[int, bytes], "Blocked"])
    _lost_seen: set[int | None] = field(default_factory=set[int | None])
    _lost_told: float = -math.inf

    def __post_init__(self) -> None:
        """Begin in contact, with nothing reported."""
        self.group = GroupName(self.topic, self.settings.group_name)
        self.bulletin = Bulletin(self.topic, self.settings.group_name, self.settings.on_event, self.logger)
        self.concurrency = Concurrency(self.settings.concurrency)
        self.contact = Contact(self.bulletin, self.environment.clock)
        self.runs = Runs(self.bulletin, self.environment.clock, self.settings.slow_after)

    @property
    def dead_maxlen(self) -> int | None:
        """How many dead letters a partition keeps for the group."""
        return self.settings.dead_maxlen

    def tell_group_lost(self, where: int | None) -> None:
        """Report that the server lost the group's data, once for each loss.

        Each partition notices it, and so does the reader of the document.

        Args:
            where: the partition, None for the document. A second notice from the same place means another loss.
        """
        now = self.environment.clock()
        if where in self._lost_seen or now - self._lost_told >= SAME_LOSS:
            self._lost_seen.clear()
        if not self._lost_seen:
            self._lost_told = now
            self.bulletin.publish(events.GroupLost)
        self._lost_seen.add(where)

    def tell_kill_refused(self, owned: OwnedPartition) -> None:
        """Report, once, that the server does not permit CLIENT KILL (T4)."""
        if not self.kill_refused:
            self.kill_refused = True
            self.bulletin.publish(events.KillNotPermitted, owned)

    def event(self, kind: type[events.MessageEvent], message: Message[Any], **more: object) -> events.MessageEvent:
        """Return an event about a message."""
        return self.bulletin.event(kind, message, **more)

    def report(self, owned: OwnedPartition, ending: Ending) -> events.Event | None:
        """Return the event for a settled message that did not simply succeed; None if nothing failed."""
        flight, to = ending.flight, ending.resolution.to
        if to == "done" or not ending.reason:
            return None
        if to == "retry":
            return self.event(events.MessageRetried, flight, again_in=ending.pause, blocking=False)
        if flight.attempt:
            return self.event(events.MessageDead, flight, reason=ending.reason)
        return self.unreadable(owned, flight.entry, ending.reason)

    def unreadable(self, owned: OwnedPartition, entry_id: bytes, reason: str) -> events.EntryUnreadable:
        """Return the event about an unreadable record."""
        shown_id = entry_id.decode("utf-8", "backslashreplace")
        return self.bulletin.event(events.EntryUnreadable, owned, entry_id=shown_id, reason=reason)

    def notifications_refused(self, reason: str) -> None:
        """Report, once, that the server does not permit SSUBSCRIBE."""
        if not self.deaf:
            self.deaf = True
            self.bulletin.publish(events.NotificationsNotPermitted, reason=reason)

    def note_blocked(self, partition: int, entry_id: bytes, seconds: float) -> None:
        """Remember that the event loop was blocked while an entry was handled: this process may be the one that later finds it dead."""
        times, most = self.blocked.pop((partition, entry_id), (0, 0.0))
        self.blocked[partition, entry_id] = Blocked(times + 1, max(most, seconds))
        if len(self.blocked) > MOST_BLOCKED:
            del self.blocked[next(iter(self.blocked))]

    def tell(self, kind: type[events.MessageEvent], message: Message[Any], **more: object) -> None:
        """Report an event about a message."""
        self.bulletin.publish(kind, message, **more)


inside: ContextVar[Surroundings | None] = ContextVar("redisaq_inside", default=None)
"""Set in a consumer's own tasks, its handlers, and bodies of pulled messages. Waiting there for the consumer's end would never return."""
