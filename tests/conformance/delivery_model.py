"""The expected state of one partition's messages, as plain data; and a world in which to compare it.

The model knows each message by its name and where it is. A Side carries operations out in one world and answers in names: what differs by
nature (entry ids, times of now) is left out or compared by its order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from redisaq.brokers.steps.coordination import make_groups
from redisaq.brokers.steps.leases import Claim, Fence, Install, Release, SetDeliveries
from redisaq.brokers.steps.producing import AppendOnce, Delayed, delay
from redisaq.brokers.steps.retrying import Purge, ReadDead, StartRetry, TakeDue, redrive
from redisaq.brokers.steps.settling import Acknowledge, ReadRemaining, Resolve
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import GroupName, Reader
from redisaq.core.records import Body, Failure, Resolution
from tests.conformance.census import bring_forward, census, expire_marks, lose_token
from tests.conformance.worlds import World

GROUP = GroupName("orders", "billing")
FUTURE = 4_000_000_000_000_000  # the year 2096; beyond 2^52, a server would write scores in another way
STRIDE = 3_000_000_000_000_000  # what makes such a time past
NOW_FROM, NOW_TO = 1_600_000_000_000_000, 1_990_000_000_000_000
SAFELY_PAST = 1_000_000_000_000_000  # what takes a time of now back

Source = Literal["stream", "retry"]
Goal = Literal["done", "retry", "dead"]
Place = Literal["delayed", "unread", "pending", "retry", "dead", "done"]


@dataclass(frozen=True)
class Hand:
    """A message as an owner has been given it."""

    source: Source
    name: bytes
    life: int = 0
    attempt: int = 1


@dataclass(frozen=True)
class Order:
    """What is to become of it."""

    hand: Hand
    to: Goal
    due: int
    used: bool
    failure: Failure

    @property
    def unused(self) -> int:
        """How many attempts are stored as unused for a retry."""
        return 0 if self.used else 1


@dataclass
class Message:
    """Where a message is; for `retry` and dead letters, also what is stored there."""

    place: Place
    due: int = 0
    life: int = 0
    attempt: int = 1
    unused: int = 0
    failure: Failure | None = None
    deliveries: int = 1  # while it is pending
    trimmed: bool = False  # its entry is gone from the stream


@dataclass
class Model:
    """One partition, for one group.

    Attributes:
        messages: all that there ever were, by name.
        stream: their names, in the order in which they came into the stream, those that were trimmed not among them.
        dead: names, in the order of dying.
        marks: deduplication ids whose windows are open, and who was first.
    """

    messages: dict[bytes, Message] = field(default_factory=dict[bytes, Message])
    stream: list[bytes] = field(default_factory=list[bytes])
    dead: list[bytes] = field(default_factory=list[bytes])
    marks: dict[str, bytes] = field(default_factory=dict[str, bytes])

    def enter(self, name: bytes, due: int | None) -> None:
        """Let a new message be in the stream, or delayed."""
        self.messages[name] = Message("unread") if due is None else Message("delayed", due=due)
        if due is None:
            self.stream.append(name)

    def places(self) -> dict[bytes, str]:
        """Return where each message is that is not done."""
        return {name: message.place for name, message in self.messages.items() if message.place != "done"}

    def at(self, place: Place) -> list[bytes]:
        """Return who is there."""
        return [name for name, message in self.messages.items() if message.place == place]

    def unread(self, count: int) -> list[bytes]:
        """Return the first that were never delivered."""
        return [name for name in self.stream if self.messages[name].place == "unread"][:count]

    def trim(self, maxlen: int) -> None:
        """Drop the oldest entries: what was not delivered is gone, what is pending has lost its body."""
        surplus = max(0, len(self.stream) - maxlen)
        for name in self.stream[:surplus]:
            message = self.messages[name]
            message.trimmed = True
            if message.place == "unread":
                message.place = "done"
        del self.stream[:surplus]

    def resolve(self, order: Order, dead_maxlen: int | None) -> bool:
        """Apply a resolution under the current token; return whether it changed anything (S1)."""
        hand, message = order.hand, self.messages[order.hand.name]
        if hand.source == "stream":
            if message.place != "pending":
                return False
        else:
            if message.place != "retry" or (message.life, message.attempt) != (hand.life, hand.attempt):
                return False
            if order.to == "retry" and (message.due, message.unused, message.failure) == (order.due, order.unused, order.failure):
                return False
        message.place, message.due, message.failure = order.to, order.due, order.failure
        message.life, message.attempt, message.unused = hand.life, hand.attempt, order.unused
        if order.to == "dead":
            self.dead.append(hand.name)
            if dead_maxlen is not None:
                self.bury(self.dead[: max(0, len(self.dead) - dead_maxlen)])
        return True

    def bury(self, names: Sequence[bytes]) -> None:
        """Drop these dead letters."""
        for name in list(names):
            self.dead.remove(name)
            self.messages[name].place = "done"

    def redrive(self, names: Sequence[bytes]) -> None:
        """Give these dead letters their next life; each world sets its own due times."""
        for name in list(names):
            self.dead.remove(name)
            message = self.messages[name]
            message.place, message.due, message.failure = "retry", -1, None
            message.life, message.attempt, message.unused = message.life + 1, 0, 0

    def pass_time(self) -> None:
        """Let what was due in the future be due."""
        for message in self.messages.values():
            if message.place in ("delayed", "retry") and message.due >= FUTURE:
                message.due -= STRIDE


class Side:
    """One world, with one broker that owns its partition 0."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.broker = world.broker()
        self._names: dict[bytes, bytes] = {}  # entry id -> name
        self._reader: Reader | None = None

    async def begin(self) -> None:
        """Make topic and group."""
        await self.broker.do(MakeTopic(GROUP.topic, 1))
        await make_groups(self.broker, GROUP, [0], latest=False)

    async def end(self) -> None:
        """Close everything."""
        if self._reader is not None:
            await self._reader.close()
        await self.broker.close()

    def look(self) -> list[tuple[bytes, str]]:
        """Return where each message is, from the store itself; learn the ids of its entries."""
        found = census(self._world, GROUP, 0)
        for place, name, entry_id in found:
            if name is not None and entry_id is not None:
                assert self._names.setdefault(entry_id, name) == name, f"{place}: another message under the same entry id"
        return sorted((self._names[entry_id or b""] if name is None else name, place) for place, name, entry_id in found)

    def pass_time(self) -> None:
        """Let what was due in the future be due."""
        bring_forward(self._world, GROUP, 0, (FUTURE, FUTURE + STRIDE), STRIDE)

    def lose_token(self) -> None:
        """Let no token stand."""
        lose_token(self._world, GROUP, 0)

    def expire_marks(self) -> None:
        """Let the windows of all deduplication marks be over."""
        expire_marks(self._world, GROUP, 0)

    def trim(self, maxlen: int) -> None:
        """Drop the oldest entries."""
        self._world.trim(GROUP.topic, 0, maxlen)

    def _entry_id(self, name: bytes) -> bytes:
        return next((entry_id for entry_id, other in self._names.items() if other == name), b"1-1")

    async def take_over(self, token: int) -> object:
        """Become the owner under this token, and read on a new connection."""
        installed = await self.broker.do(Install(GROUP, 0, token, f"member-{token}", foreign=True))
        assert await self.broker.do(Fence(GROUP, 0, token, installed.readers))
        if self._reader is not None:
            await self._reader.close()
        self._reader = await self.broker.open_reader(GROUP, 0, token, f"member-{token}")
        return installed.done, installed.token, len(installed.readers)

    async def append(self, names: Sequence[bytes]) -> object:
        ids = await self.broker.append(GROUP.topic, [(0, _fields(name)) for name in names], maxlen=None, approximate=False)
        return [entry_id is None for entry_id in ids]

    async def delay(self, dues: Mapping[bytes, int]) -> object:
        return await delay(self.broker, GROUP.topic, [Delayed(0, name, due, _fields(name)) for name, due in dues.items()])

    async def append_once(self, name: bytes, dedup_id: str, due: int | None) -> object:
        return await self.broker.do(
            AppendOnce(GROUP.topic, 0, _fields(name), dedup_id=dedup_id, window=3600.0, due=due, maxlen=None, approximate=False)
        )

    async def read(self, count: int) -> list[bytes]:
        assert self._reader is not None
        return [fields[1] for _, fields in await self._reader.read(count, 0) if fields is not None]

    async def claim(self, token: int, count: int) -> object:
        page = await self.broker.do(Claim(GROUP, 0, token, after=b"", count=count))
        trimmed = [self._names[entry_id] for entry_id in page.trimmed]
        return [(entry.fields[1], entry.deliveries) for entry in page.entries], trimmed, page.last is None

    async def set_deliveries(self, token: int, counts: Mapping[bytes, int]) -> object:
        return await self.broker.do(SetDeliveries(GROUP, 0, token, {self._entry_id(name): count for name, count in counts.items()}))

    async def release(self, token: int) -> object:
        return await self.broker.do(Release(GROUP, 0, token))

    async def ack(self, token: int, names: Sequence[bytes]) -> object:
        return await self.broker.do_each([Acknowledge(GROUP, 0, token, [self._entry_id(name) for name in names])])

    async def resolve(self, token: int, orders: Sequence[Order], dead_maxlen: int | None) -> object:
        return await self.broker.do(Resolve(GROUP, 0, token, [self._resolution(order) for order in orders], dead_maxlen=dead_maxlen))

    def _resolution(self, order: Order) -> Resolution:
        hand = order.hand
        body = Body(self._entry_id(hand.name), tuple(_fields(hand.name)), hand.life, hand.attempt, order.failure)
        return Resolution(hand.source, order.to, body, order.due, order.used)

    async def start_retry(self, token: int, hand: Hand) -> object:
        entry_id = self._entry_id(hand.name)
        return await self.broker.do(StartRetry(GROUP, 0, token, entry_id=entry_id, life=hand.life, attempt=hand.attempt))

    async def due(self, token: int, count: int) -> tuple[list[tuple[bytes, int, int, Failure | None]], int, int | None]:
        """Return retries, how many were moved, and when the next one is due (None, or -1 if that is a time of now)."""
        found = await self.broker.do(TakeDue(GROUP, 0, token, count=count))
        retries = [(body.fields[1], body.life, body.attempt, body.failure) for body in found.retries]
        assert all(self._names[body.entry_id] == body.fields[1] for body in found.retries)
        return retries, found.moved, found.next_due if found.next_due is None else _plain(found.next_due)

    async def dead(self, after: int, count: int) -> object:
        """Return a page of dead letters, after so many of them."""
        ids = await self.dead_ids()
        page = await self.broker.do(ReadDead(GROUP, 0, after=ids[after - 1] if 0 < after <= len(ids) else b"", count=count))
        return [(one.body.fields[1], one.body.life, one.body.attempt, one.body.failure) for one in page]

    async def dead_ids(self) -> list[bytes]:
        """Return the ids of all dead letters, in the order of dying."""
        return [one.dead_id for one in await self.broker.do(ReadDead(GROUP, 0, after=b"", count=1 << 20))]

    async def redrive(self, places: Sequence[int] | None, count: int) -> object:
        """Redrive, and make these due for good: a server's clock may be set back, and they would wait."""
        redriven = await redrive(self.broker, GROUP, 0, await self._ids_at(places), count=count)
        bring_forward(self._world, GROUP, 0, (NOW_FROM, NOW_TO), SAFELY_PAST)
        return redriven

    async def purge(self, places: Sequence[int] | None) -> object:
        return await self.broker.do(Purge(GROUP, 0, await self._ids_at(places)))

    async def _ids_at(self, places: Sequence[int] | None) -> list[bytes] | None:
        """Return the ids of the dead letters at these places; for a place without one, an unused id."""
        if places is None:
            return None
        ids = await self.dead_ids()
        return [ids[place] if place < len(ids) else b"1-1" for place in places]

    async def remaining(self) -> object:
        return await self.broker.do_each([ReadRemaining(GROUP, 0)])


def _plain(due: int) -> int:
    return -1 if NOW_FROM - SAFELY_PAST < due < NOW_TO - SAFELY_PAST else due


def _fields(name: bytes) -> list[bytes]:
    return [b"i", name]
