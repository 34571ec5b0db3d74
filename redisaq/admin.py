"""Admin: looks after topics and groups: what is where, dead letters, pausing, seeking, deleting.

In: names. Out: frozen structs, and counts of what was changed. It owns nothing and holds no lease, so it may be used while producers and
consumers work. What always holds: dead letters are read and treated in pages, never all at once; what was cut short may be asked for
again.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar

import anyio

from redisaq.admin_views import DeadLetterDecoder, DeadMessage, GroupInfo, MemberInfo, PartitionInfo, StreamInfo, TopicInfo, message_id
from redisaq.brokers.access import Access, RedisURL
from redisaq.brokers.changes import Changes
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.administration import (
    END,
    START,
    Disband,
    DropGroup,
    DropTopic,
    GroupView,
    PartitionView,
    Seek,
    SetPaused,
    ViewGroup,
    ViewPartition,
    ViewStream,
)
from redisaq.brokers.steps.retrying import DeadLetterEntry, Purge, ReadDead, Redrive
from redisaq.brokers.steps.topics import ReadTopic, ReadTopics, TopicState
from redisaq.brokers.terms import GroupName
from redisaq.core.codec import Deserializer
from redisaq.core.entry_ids import before_entry, before_time, parse_id
from redisaq.core.retry import full_jitter
from redisaq.describing import shown
from redisaq.environment import current_environment, silence_within, time_is_up_at, time_limit, when_forked
from redisaq.errors import ConnectionFailed, GroupBusyError, SettingsError, TopicMissingError
from redisaq.settings import check_count, check_name, check_plain, check_seconds

__all__ = ["Admin", "DeadLetter", "DeadLetters", "DeadMessage", "GroupInfo", "MemberInfo", "PartitionInfo", "StreamInfo", "TopicInfo"]

DeadLetter = DeadMessage
"""Its name before 0.2, which `redisaq.DeadLetter`, for handlers to raise, has too: use the new one."""

P = ParamSpec("P")
R = TypeVar("R")

PAGE = 100
"""Dead letters that are in hand at once."""

Position = Literal["earliest", "latest"] | datetime | Mapping[int, str]
"""Where `seek` may go to."""

T = TypeVar("T")


def in_one_loop(method: Callable[Concatenate[Admin, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Admin, P], Coroutine[Any, Any, R]]:
    """Let a method of Admin be used by one event loop at a time."""

    @functools.wraps(method)
    async def guarded(admin: Admin, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with admin._access:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] -- this is a part of the class below
            return await method(admin, *args, **kwargs)

    return guarded


class Admin:
    """Looks after the topics of one namespace; an async context manager."""

    def __init__(self, redis_url: RedisURL | None = None, *, namespace: str = "redisaq", timeout: float = 30.0) -> None:
        """Take the settings; nothing is opened yet.

        Args:
            redis_url: redis://, rediss://, unix://, memory://name or embedded://[path]; None: what REDISAQ_URL says when it connects, or
                else redis://localhost:6379/0.
            namespace: that of the producers and consumers.
            timeout: seconds that one call may take, whether the server can be reached or answers; of `dead_letters`, each step. What only
                looks is asked again meanwhile when a connection breaks. A connection over which nothing comes for half of that while an
                answer is owed is given up (0.5 to 6 s).

        Raises:
            SettingsError: a value cannot work.
        """
        self._timeout = check_seconds("timeout", timeout)
        self._access = Access(redis_url, namespace, user="Admin", silence=silence_within(self._timeout))
        self._closings = 0
        self.forked()
        when_forked(self)

    def forked(self) -> None:
        """Begin anew in a child made by fork. The child calls this by itself."""
        self._environment = current_environment()
        self._changes = Changes(self._access, self._timeout)

    @property
    def _broker(self) -> Broker:
        return self._access.broker

    @in_one_loop
    async def connect(self) -> None:
        """Open the link. Optional: the first call does it.

        Raises:
            ConnectionFailed: the server cannot be reached, or refused us, or does not answer within `timeout`. Every other method may
                raise it, too; after a change `maybe_executed` tells whether it may have been made. It may be called again: what may
                still be under way is killed before the next change.
            WrongThreadError: the admin is in use by the event loop of another thread. Every other method may raise it, too.
        """
        with time_limit(self._timeout):
            await self._broker.connect()

    @in_one_loop
    async def close(self) -> None:
        """Close the link; calls under way raise ConnectionFailed. May be called in any order, from any task, twice."""
        self._closings += 1
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

    # -- looking -------------------------------------------------------------------------------------------------------------------

    @in_one_loop
    async def topics(self) -> list[str]:
        """Return the names of all topics of the namespace, sorted."""
        with time_limit(self._timeout):
            return await self._ask(lambda: self._broker.do(ReadTopics()))

    @in_one_loop
    async def topic(self, topic: str) -> TopicInfo:
        """Return a topic's partitions, with what each holds, and its groups.

        Raises:
            TopicMissingError: there is no such topic.
        """
        topic = check_name("topic", topic)
        with time_limit(self._timeout):
            state = await self._state(topic)
            views = await self._ask(lambda: self._broker.do_each([ViewStream(topic, number) for number in range(state.partitions)]))
        return TopicInfo(
            topic,
            state.generation,
            tuple(StreamInfo(number, view.length, view.delayed) for number, view in enumerate(views)),
            tuple(sorted({name for view in views for name in view.groups})),
        )

    @in_one_loop
    async def group(self, topic: str, group: str) -> GroupInfo:
        """Return how a group stands: its members, and its share of each partition. Each partition is looked at in one atomic step.

        Raises:
            TopicMissingError: there is no such topic, or no such group of it.
        """
        with time_limit(self._timeout):
            name, view, partitions = await self._look(topic, group)
        members: list[MemberInfo] = []
        lease: Mapping[int, str] = {}
        if view.document is not None:
            lease = view.document.lease
            for member, entry in sorted(view.document.members.items()):
                for incarnation in (entry.incarnation, *entry.successors):
                    expiry = view.members.get(incarnation)
                    left = None if expiry is None else (expiry - view.now) / 1_000_000
                    owned = tuple(sorted(number for number, owner in lease.items() if owner == incarnation))
                    members.append(MemberInfo(member, incarnation, left, owned, waiting=incarnation != entry.incarnation))
        names = {member.incarnation: member.name for member in members}
        infos = [_partition_info(number, one, lease.get(number, ""), names) for number, one in enumerate(partitions)]
        return GroupInfo(name.topic, name.group, view.paused, tuple(members), tuple(infos), view.alone, view.lapsed)

    # -- dead letters --------------------------------------------------------------------------------------------------------------

    def dead_letters(self, topic: str, group: str, *, deserializer: Deserializer | None = None) -> DeadLetters:
        """Return an async iterator over a group's dead letters, partition after partition, each in the order of dying.

        Those that come while it goes on are met, too, if their partition is not behind yet. Its steps may raise TopicMissingError and
        ConnectionFailed; after the latter it may be continued.

        Args:
            topic: the topic.
            group: the group.
            deserializer: gets a payload's bytes; None: JSON. What it raises becomes `DeadMessage.unreadable`.
        """
        if deserializer is not None:
            check_plain("deserializer", deserializer)
        name = _name(topic, group)
        decoder = DeadLetterDecoder(name.topic, name.group, deserializer)

        async def look() -> int:
            with time_limit(self._timeout):
                _, _, partitions = await self._look(topic, group)
                return len(partitions)

        async def page(partition: int, after: bytes) -> list[DeadLetterEntry]:
            with time_limit(self._timeout):
                return await self._dead_page(name, partition, after, PAGE)

        return DeadLetters(self._access, decoder, look, page)

    @in_one_loop
    async def redrive(self, topic: str, group: str, ids: Iterable[str | DeadMessage] | None = None) -> int:
        """Let dead letters be tried again: the same message and id, a new life, attempts from 1, at once; in the order of dying.

        Args:
            topic: the topic.
            group: the group.
            ids: message ids (a message may have died more than once: each is meant), or dead letters as `dead_letters` gave them; others
                are passed over. None: all that are there now. Message ids are looked for, which reads all dead letters in pages.

        Returns:
            How many will be tried again.

        Raises:
            TopicMissingError: there is no such topic or group.
        """
        async with self._changes.in_order() as change:
            name, _, partitions = await self._look(topic, group)

            async def act(partition: int, dead_ids: Sequence[bytes]) -> int:
                return await change.make(self._broker.do(Redrive(name, partition, dead_ids, count=len(dead_ids))))

            if ids is not None:
                return await self._treat(name, partitions, ids, act)
            total = 0
            for partition, view in enumerate(partitions):
                left = view.dead  # no more: what dies again meanwhile would be tried again for ever
                while left > 0 and (moved := await change.make(self._broker.do(Redrive(name, partition, None, count=min(PAGE, left))))):
                    left -= moved
                    total += moved
            return total

    @in_one_loop
    async def purge(self, topic: str, group: str, ids: Iterable[str | DeadMessage] | None = None) -> int:
        """Drop dead letters for good; see `redrive` for the arguments.

        Returns:
            How many there were.
        """
        async with self._changes.in_order() as change:
            name, _, partitions = await self._look(topic, group)

            async def act(partition: int, dead_ids: Sequence[bytes]) -> int:
                return await change.make(self._broker.do(Purge(name, partition, dead_ids)))

            if ids is not None:
                return await self._treat(name, partitions, ids, act)
            return sum([await change.make(self._broker.do(Purge(name, partition, None))) for partition in range(len(partitions))])

    async def _treat(
        self,
        name: GroupName,
        partitions: Sequence[PartitionView],
        ids: Iterable[str | DeadMessage],
        act: Callable[[int, Sequence[bytes]], Awaitable[int]],
    ) -> int:
        """Do something with the dead letters of these ids, a page at a time, in the order of dying; return the sum."""
        msg_ids, named = _split(name, ids)
        total = 0
        for partition, view in enumerate(partitions):
            wanted = named.get(partition, set())
            after, left = b"", view.dead if msg_ids else 0  # those that were there: a message that dies again meanwhile is left alone
            while left > 0 and (page := await self._dead_page(name, partition, after, min(PAGE, left))):
                after, left = page[-1].dead_id, left - len(page)
                if found := [dead.dead_id for dead in page if dead.dead_id in wanted or message_id(dead.body) in msg_ids]:
                    total += await act(partition, found)
                    wanted.difference_update(found)
            rest = sorted(wanted, key=parse_id)  # however they were given: the order of a key is that of dying
            for start in range(0, len(rest), PAGE):
                total += await act(partition, rest[start : start + PAGE])
        return total

    # -- moving, pausing, deleting ---------------------------------------------------------------------------------------------------

    @in_one_loop
    async def seek(self, topic: str, group: str, to: Position) -> None:
        """Let a group go on somewhere else. Its members must be gone, or the group paused.

        What stands at or behind the position is delivered next, as new: what of it was pending or in `retry` is no longer. What stands
        before it is not delivered; but what of it is pending, or to be tried again, is still finished: nothing that was begun is
        forgotten. Dead letters stay dead letters; delayed messages stay delayed. In a paused group handlers go on that were running, and
        what they have in hand comes again if it stands behind the position. What members have read and not begun comes once, perhaps
        before what stands in front of it.

        Args:
            topic: the topic.
            group: the group.
            to: "earliest"; "latest": after what is there; an aware datetime: what was enqueued then or later, by the server's clock; or
                for some partitions the id of the entry that is to be the next ("1700000000000-0"). A position after the last entry is
                "latest".

        Raises:
            GroupBusyError: members are alive and the group is not paused; nothing was moved.
            SettingsError: `to` cannot be understood, or names a partition that is not there.
            TopicMissingError: there is no such topic or group.
        """
        async with self._changes.in_order() as change:
            name, view, partitions = await self._look(topic, group)
            positions = _positions(to, len(partitions))
            if view.live and not view.paused:
                raise GroupBusyError(f"group {group} of {topic} has {len(view.live)} live member(s): pause it, or stop them", view.live)
            for partition, position in positions.items():
                await change.make(self._broker.do(Seek(name, partition, position)))

    @in_one_loop
    async def pause(self, topic: str, group: str) -> None:
        """Let the group's members begin nothing more, those that start later included; they keep their partitions.

        They hear of it at once, or with their next heartbeat if a doorbell is lost. Handlers that run are finished.

        Raises:
            TopicMissingError: there is no such topic or group.
        """
        async with self._changes.in_order() as change:
            name, _, _ = await self._look(topic, group)
            await change.make(self._broker.do(SetPaused(name, paused=True)))

    @in_one_loop
    async def resume(self, topic: str, group: str) -> None:
        """Let a paused group go on.

        Raises:
            TopicMissingError: there is no such topic or group.
        """
        async with self._changes.in_order() as change:
            name, _, _ = await self._look(topic, group)
            await change.make(self._broker.do(SetPaused(name, paused=False)))

    @in_one_loop
    async def delete_group(self, topic: str, group: str, *, force: bool = False) -> None:
        """Delete a group with all that is its own: its position, what is pending, retries, dead letters. The messages stay in the topic.

        Args:
            topic: the topic.
            group: the group.
            force: even while members are alive. They lose their partitions at the next heartbeat, and those that go on make the group
                anew, from where they are told to start.

        Raises:
            GroupBusyError: members are alive; nothing was deleted.
            TopicMissingError: there is no such topic or group.
        """
        async with self._changes.in_order() as change:
            name, _, partitions = await self._look(topic, group)
            live = await change.make(self._broker.do(Disband(name, force=force)))
            if live and not force:
                raise GroupBusyError(f"group {group} of {topic} has {len(live)} live member(s): stop them first", live)
            await change.make(self._broker.do_each([DropGroup(name, number) for number in range(len(partitions))]))

    @in_one_loop
    async def delete_topic(self, topic: str, *, force: bool = False) -> None:
        """Delete a topic: messages, delayed ones, marks of deduplication, and every group of it. Nothing is left.

        Producers are not known to anybody: stop them first. One that goes on makes the topic anew. Looks at every key of the server once.

        Args:
            topic: the topic.
            force: even while members of its groups are alive.

        Raises:
            GroupBusyError: members of a group are alive; nothing was deleted.
            TopicMissingError: there is no such topic.
        """
        async with self._changes.in_order() as change:
            topic = check_name("topic", topic)
            info = await self.topic(topic)
            names = [GroupName(topic, group) for group in info.groups]
            if not force:
                live = [member for name in names for member in (await self._ask(partial(self._broker.do, ViewGroup(name)))).live]
                if live:
                    raise GroupBusyError(f"groups of {topic} have {len(live)} live member(s): stop them first", live)
            for name in names:
                await change.make(self._broker.do(Disband(name, force=True)))
            await change.make(self._broker.do(DropTopic(topic)))

    # -- what they have in common ----------------------------------------------------------------------------------------------------

    async def _state(self, topic: str) -> TopicState:
        topic = check_name("topic", topic)
        state = await self._ask(lambda: self._broker.do(ReadTopic(topic)))
        if state is None:
            raise TopicMissingError(f"there is no topic {topic}")
        return state

    async def _look(self, topic: str, group: str) -> tuple[GroupName, GroupView, list[PartitionView]]:
        name = _name(topic, group)
        state = await self._state(topic)
        partitions = await self._ask(lambda: self._broker.do_each([ViewPartition(name, number) for number in range(state.partitions)]))
        view = await self._ask(lambda: self._broker.do(ViewGroup(name)))
        known = view.paused or view.members or view.document is not None
        if not known and not any(partition.there for partition in partitions):
            raise TopicMissingError(f"topic {topic} has no group {group}")
        return name, view, partitions

    async def _dead_page(self, name: GroupName, partition: int, after: bytes, count: int) -> list[DeadLetterEntry]:
        return await self._ask(lambda: self._broker.do(ReadDead(name, partition, after=after, count=count)))

    async def _ask(self, look: Callable[[], Awaitable[T]]) -> T:
        """Return what `look` finds; over a connection that breaks, or says nothing, ask again within the time of the call."""
        failures, closings = 0, self._closings
        while True:
            try:
                return await look()
            except ConnectionFailed as error:
                failures += 1
                pause = full_jitter(failures, base=0.05, most=2.0, random=self._environment.random)
                refused = error.permanent or not (error.maybe_executed or error.silent)
                if refused or self._closings > closings or self._environment.monotonic() + pause >= time_is_up_at():
                    raise
            await anyio.sleep(pause)


class DeadLetters:
    """An async iterator over dead letters; see `Admin.dead_letters`. It holds one page at a time, and needs no closing."""

    def __init__(
        self,
        access: Access,
        decoder: DeadLetterDecoder,
        look: Callable[[], Awaitable[int]],
        page: Callable[[int, bytes], Awaitable[list[DeadLetterEntry]]],
    ) -> None:
        """Make one; nothing is asked yet.

        Args:
            access: guards what it is asked.
            decoder: of the group's dead letters.
            look: returns how many partitions there are.
            page: returns a partition's dead letters after an id.
        """
        self._access = access
        self._decoder = decoder
        self._look = look
        self._ask_page = page
        self._partitions = -1
        self._partition = 0
        self._after = b""
        self._page: list[DeadMessage] = []

    def __aiter__(self) -> Self:
        """Return itself: there is one position."""
        return self

    async def __anext__(self) -> DeadMessage:
        """Return the next one, from a page that is in hand or asked for now."""
        with self._access:
            return await self._next()

    async def _next(self) -> DeadMessage:
        if self._partitions < 0:
            self._partitions = await self._look()
        while not self._page:
            if self._partition == self._partitions:
                raise StopAsyncIteration
            page = await self._ask_page(self._partition, self._after)
            self._page = [self._decoder.decode(self._partition, dead.dead_id, dead.body) for dead in reversed(page)]
            self._after = page[-1].dead_id if page else b""
            self._partition += not page
        return self._page.pop()


def _name(topic: str, group: str) -> GroupName:
    return GroupName(check_name("topic", topic), check_name("group_name", group))


def _partition_info(number: int, view: PartitionView, owner: str, names: Mapping[str, str]) -> PartitionInfo:
    return PartitionInfo(
        partition=number,
        owner=owner,
        owner_name=names.get(owner, ""),
        token=view.token,
        length=view.length,
        unread=view.unread,
        pending=view.pending,
        retry=view.retry,
        dead=view.dead,
        delayed=view.delayed,
        last_delivered=view.last_delivered.decode(),
        deliveries=view.deliveries,
        lost=view.lost,
    )


def _split(name: GroupName, ids: Iterable[str | DeadMessage]) -> tuple[set[str], dict[int, set[bytes]]]:
    """Return the message ids, and by partition the ids of dead letters."""
    if isinstance(ids, str):
        raise SettingsError("ids must be several: put the one into a list")
    msg_ids: set[str] = set()
    named: dict[int, set[bytes]] = {}
    for one in ids:
        if isinstance(one, DeadMessage):
            if (one.topic, one.group) != (name.topic, name.group):
                raise SettingsError(f"this dead letter is of group {one.group} of {one.topic}: {one.dead_id}")
            named.setdefault(one.partition, set()).add(one.dead_id.encode())
        elif isinstance(one, str) and one:  # pyright: ignore[reportUnnecessaryIsInstance] -- callers without types
            msg_ids.add(str.__str__(one))
        else:
            raise SettingsError(f"ids must be message ids or dead letters, not {shown(one)}")
    return msg_ids, named


def _positions(to: Position, partitions: int) -> dict[int, bytes]:
    """Return for each partition that is to be moved the position after which it goes on."""
    if isinstance(to, Mapping):
        positions: dict[int, bytes] = {}
        for given, entry_id in to.items():
            number = check_count("a partition's number", given, least=0)
            if number >= partitions:
                raise SettingsError(f"there is no partition {number}: the topic has {partitions}")
            positions[number] = before_entry(entry_id)
        return positions
    if isinstance(to, datetime):
        return dict.fromkeys(range(partitions), before_time(to))
    if not isinstance(to, str) or to not in ("earliest", "latest"):
        raise SettingsError(f"to must be 'earliest', 'latest', an aware datetime, or entry ids by partition, not {shown(to)}")
    return dict.fromkeys(range(partitions), START if to == "earliest" else END)
