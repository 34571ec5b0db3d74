"""What is known of one topic and of one group, as reports come: counters, when each partition was read, who owns it.

Sums over all partitions are kept with each report, since there may be thousands of them. If a counter falls (the server lost it) or was
moved, that is a gap, never a negative rate.
"""

from __future__ import annotations

from array import array
from collections import deque

from msgspec.structs import replace

from redisaq.admin_views import (
    GroupInfo,
    HistoryEntry,
    MemberInfo,
    PartitionInfo,
)
from redisaq.watching import attention
from redisaq.watching.attention import DeadSample, Sample
from redisaq.watching.colours import Slots
from redisaq.watching.counting import Counter, Lately
from redisaq.watching.curves import Series
from redisaq.watching.snapshot import (
    GroupView,
    PartitionView,
)

RATE_OVER = 10.0
"""Seconds over which a rate is measured, unless a round over the partitions takes longer."""

LATELY = 64
"""Partitions in which messages have arrived lately that are known of a topic."""

SUMMED = ("unread", "pending", "retry", "dead", "lost")
"""What a group sums up over its partitions."""

AHEAD = 20.0
"""Seconds by which partitions in trouble come before others when not all can be read."""


class KnownTopic:
    """What is known of a topic."""

    def __init__(self, topic: str, *, curves: bool) -> None:
        self.topic = topic
        self.generation = 0
        self.partitions = 0
        self.acked: bool | None = None
        self.length = self.delayed = 0  # of all streams: kept as reports come, since there may be thousands
        self.looked = array("d")  # when each stream was read, 0 if it was not; for each of these, the numbers that were read then
        self.counts = array("q"), array("q"), array("q")  # length, delayed, added
        self.arrived = Counter()
        self.lately: dict[int, None] = {}  # partitions in which messages have arrived, the last one last
        self.groups: dict[str, KnownGroup] = {}
        self.series = Series() if curves else None

    @property
    def about(self) -> tuple[str, str]:
        """Its name among the findings."""
        return "topic", self.topic

    def saw(self, number: int, length: int, delayed: int, added: int, at: float) -> None:
        """Record what a report says about a partition."""
        missing = [0] * (number + 1 - len(self.looked))
        for column in (self.looked, *self.counts):
            column.extend(missing)
        lengths, delays, addeds = self.counts
        before = self.looked[number]
        if not before:
            self.arrived.start(at)
        elif at <= before:
            return  # another report has been later
        else:
            self.arrived.grow(added - addeds[number], at)
            if added > addeds[number]:
                self.lately.pop(number, None)
                self.lately[number] = None
                if len(self.lately) > LATELY:
                    del self.lately[next(iter(self.lately))]
        self.length += length - lengths[number]
        self.delayed += delayed - delays[number]
        self.looked[number], lengths[number], delays[number], addeds[number] = at, length, delayed, added

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of the streams that were read."""
        return tuple(length for length, at in zip(self.counts[0], self.looked, strict=True) if at)

    def within(self, at: float) -> float:
        """Return how old the oldest of its numbers is."""
        return at - min(filter(None, self.looked), default=at)

    def arriving(self, at: float, over: float = RATE_OVER) -> float | None:
        """Return the messages per second."""
        return self.arrived.rate(at, max(over, 2 * self.within(at)))


class Share:
    """A group's share of a partition, as it was last seen: what is shown of it, and the counters that are not."""

    __slots__ = ("added", "at", "died", "last", "moves", "owner", "redriven", "unowned", "view")

    def __init__(self) -> None:
        self.at = 0.0
        self.owner: int | None = None
        self.last = -1  # the slot of the member that owned it last
        self.unowned: float | None = None  # since when nobody has owned it
        self.view: PartitionView | None = None
        self.added = self.redriven = self.moves = self.died = 0


class _Drawn:
    """The curves of a group."""

    def __init__(self) -> None:
        self.handled, self.backlog, self.oldest, self.retry, self.died = Series(), Series(), Series(), Series(), Series()

    def put(self, end: float, *values: float | None) -> None:
        """Set the values for the 20 s that end at this moment."""
        for series, value in zip((self.handled, self.backlog, self.oldest, self.retry, self.died), values, strict=True):
            series.put(end, value)


class KnownGroup:
    """What is known of a group."""

    def __init__(self, topic: KnownTopic, group: str, *, curves: bool) -> None:
        self.topic = topic
        self.group = group
        self.info: GroupInfo | None = None
        self.at = 0.0
        self.shares: list[Share] = []
        self.sums = dict.fromkeys(SUMMED, 0)  # over all partitions: kept as reports come, since there may be thousands
        self.born = array("d")  # when the oldest message of each partition was enqueued, 0 if there is none
        self.looked = array("d")  # when each partition was read, 0 if it was not
        self.finished, self.died = Counter(), Counter()
        self.fresh, self.fresh_lost = Lately(attention.LATELY), Lately(attention.LATELY)
        self.slots = Slots()
        self.samples: deque[Sample] = deque()
        self.view: GroupView | None = None
        self.series = _Drawn() if curves else None
        self.history: tuple[HistoryEntry, ...] | None = None
        self.unexplained: dict[int, float] = {}  # partitions in which messages have died since their newest dead letter was read
        self.newest_dead: DeadSample | None = None

    @property
    def about(self) -> tuple[str, str, str]:
        """Its name among the findings."""
        return "group", self.topic.topic, self.group

    def saw(self, info: PartitionInfo) -> None:
        """Record what a report says about a partition."""
        number, at = info.partition, info.now.timestamp()
        self.reach(number + 1)
        share = self.shares[number]
        before = share.view
        if before is None:
            self.finished.start(at)
            self.died.start(at)
        elif at <= share.at:
            return
        else:
            waited = before.unread + before.pending + before.retry
            waits = info.unread + info.pending + info.retry
            finished = (info.added - share.added) + (info.redriven - share.redriven) - (waits - waited) - (info.lost - before.lost)
            moved = info.moves != share.moves or info.added < share.added
            self.finished.grow(-1 if moved else finished, at)
            self.died.grow(info.died - share.died, at)
            self.fresh.put(info.died - share.died, at)
            if info.died > share.died:
                self.unexplained[number] = at
            self.fresh_lost.put(info.lost - before.lost, at)
        for name in SUMMED:
            self.sums[name] += getattr(info, name) - (0 if before is None else getattr(before, name))
        share.at, share.added, share.redriven, share.moves, share.died = at, info.added, info.redriven, info.moves, info.died
        view = share.view = _partition_view(share, info)
        self.looked[number] = at
        self.born[number] = 0.0 if view.oldest is None else at - view.oldest

    def reach(self, partitions: int) -> None:
        """Know so many partitions."""
        missing = partitions - len(self.shares)
        self.shares.extend(Share() for _ in range(missing))
        for column in (self.born, self.looked):
            column.extend([0.0] * missing)

    def within(self, at: float) -> float:
        """Return how old the oldest of its numbers is."""
        return at - min(filter(None, self.looked), default=at)


def find_owners(group: KnownGroup, partitions: int, at: float) -> None:
    """Record which member owns which partition, and since when the others have had no owner."""
    info = group.info
    if info is None:
        return
    owners: dict[int, int] = {}
    for member in info.members:
        slot = group.slots.of(member.incarnation)
        if slot is not None and lives(member):
            owners.update(dict.fromkeys(member.partitions, slot))
    group.reach(partitions)
    for number, share in enumerate(group.shares):
        owner = owners.get(number)
        if owner is not None:
            share.last = owner
        if owner != share.owner or (owner is None) != (share.unowned is not None):
            share.owner, share.unowned = owner, None if owner is not None else at
            if share.view is not None:
                share.view = replace(share.view, owner=owner, unowned=share.unowned)


def staleness(share: Share) -> float:
    """Return what to sort by: when it was read, and of a partition in trouble as if that was longer ago."""
    if share.view is None:
        return 0.0
    trouble = share.unowned is not None or (share.view.oldest or 0.0) > attention.BEHIND
    return share.at - (AHEAD if trouble else 0.0)


def lives(member: MemberInfo) -> bool:
    """Return whether the member's lease has not run out."""
    return member.expires_in is not None and member.expires_in > 0


def _partition_view(share: Share, info: PartitionInfo) -> PartitionView:
    return PartitionView(
        partition=info.partition,
        owner=share.owner,
        unowned=share.unowned,
        token=info.token,
        length=info.length,
        unread=info.unread,
        pending=info.pending,
        retry=info.retry,
        dead=info.dead,
        delayed=info.delayed,
        lost=info.lost,
        oldest=info.oldest,
        retry_due=info.retry_due,
        last_delivered=info.last_delivered,
        deliveries=info.deliveries or None,
        looked=share.at,
    )
