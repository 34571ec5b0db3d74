"""What one consumer knows about itself in its group: shared by the coordinator, which changes it, and the emitter, which keeps it alive."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from redisaq.brokers.base import Beat
from redisaq.consuming.lease import Lease
from redisaq.core.document import Document
from redisaq.core.membership import UNKNOWN, is_member, next_forgotten
from redisaq.environment import Environment


@dataclass
class Member:
    """One consumer's place in its group.

    Attributes:
        name: the static name asked for, None for none (M1).
        ttl: seconds that a lease lasts.
        environment: clocks and chance.
        lease: of the current incarnation; ended until it has joined.
        joined: the current incarnation is a member.
        version: of the newest document seen (M3).
        document: the newest one seen; kept when the group is lost (M8).
        partitions: of the topic, 0 while it does not exist.
        next_look: local clock at which another member's time runs out, or the group's freeze (M7, M8), or what somebody could not read is
            forgotten, as of the last answer.
        topic_missing: the topic did not exist when it was last looked for.
        retention: the topic's producers ask for `retention="acked"`, as far as heartbeats have told.
        on_retention: called when that is first told.
        former: earlier incarnations under which nothing runs any more; leases read it live.
    """

    name: str | None
    ttl: float
    environment: Environment
    lease: Lease = field(init=False)
    joined: bool = False
    version: str = ""
    document: Document | None = None
    partitions: int = 0
    next_look: float = math.inf
    topic_missing: bool = False
    retention: bool = False
    on_retention: Callable[[], None] = lambda: None
    former: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        """Begin as a new incarnation (M1)."""
        self.renew_incarnation()

    def renew_incarnation(self) -> None:
        """Be somebody new: whatever the last incarnation held is over (M5)."""
        if self.joined:
            self.lease.end()
        self.joined = False
        self.version = ""
        self.lease = Lease(self.environment.new_id(), self.ttl, self.environment, self.former)

    def observe(self, beat: Beat) -> None:
        """Take from an answer when to look next, and whether the topic is trimmed."""
        document = beat.document or self.document
        forgotten = None if document is None else next_forgotten(document)
        times = [time for time in (beat.next_expiry, beat.frozen_until, forgotten) if time is not None and time > beat.now]
        left = (min(times) - beat.now) / 1e6 if times else math.inf
        self.next_look = self.environment.clock() + left
        if beat.topic is not None and beat.topic.acked and not self.retention:
            self.retention = True
            self.on_retention()

    def news(self, beat: Beat, *, paused: bool) -> bool:
        """True if the answer tells something that the coordinator must act on."""
        grown = beat.topic is None or beat.topic.partitions != self.partitions
        listed = self.document is not None and any(is_member(self.document, one) for one in beat.expired)
        droppable = listed and beat.now >= beat.frozen_until
        # A beat may be the first to see the end of a freeze (M8), or of an entry in `unable`: `observe` then knows no time to look.
        thawed = self.document is not None and beat.now >= beat.frozen_until and UNKNOWN in self.document.lease.values()
        forgotten = None if self.document is None else next_forgotten(self.document)
        overdue = thawed or (forgotten is not None and beat.now >= forgotten)
        return beat.version != self.version or droppable or overdue or grown or beat.paused != paused
