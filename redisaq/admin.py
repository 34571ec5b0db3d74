"""Administration: inspects topics and groups, handles dead letters, pauses, seeks and deletes.

Methods take names, and return frozen structs or the number of changes. An Admin owns nothing and holds no lease, so you may use it while
producers and consumers work. It reads and changes dead letters in pages, never all at once. You may repeat a call that was interrupted.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import anyio
import msgspec

from redisaq.admin_views import (
    DeadKind,
    DeadKinds,
    DeadLetterInfo,
    DeadMessage,
    DeadPage,
    DeadSummary,
    DelayedMessage,
    GroupInfo,
    GroupStanding,
    HeldUpInfo,
    HistoryEntry,
    MemberInfo,
    MessageSummary,
    PartitionInfo,
    PartitionWaits,
    PendingMessage,
    RetryMessage,
    RunningInfo,
    ScheduleInfo,
    SeekPreview,
    ServerInfo,
    StoredMessage,
    StreamInfo,
    StreamMessage,
    TopicInfo,
    Whereabouts,
    microseconds,
    moment,
)
from redisaq.administering.asking import AT_ONCE, PAGE, SUMMARY, Asking, name_of, numbers_of
from redisaq.administering.changes import Changes
from redisaq.administering.dead import CountingKinds, DeadLetters, Ids, NewestFirst, OldestFirst
from redisaq.administering.groups import held_up_info, history_entry, members_of, partition_info, running_of, waits_of
from redisaq.administering.messages import TOGETHER, EarliestFirst, Following, Listing, Search, id_of, names_of, retry_pages
from redisaq.administering.named import only_one, split
from redisaq.administering.positions import Position, positions_of, preview
from redisaq.administering.reading import (
    DeadLetterDecoder,
    MessageDecoder,
    entry_summary_of,
    summary_of,
)
from redisaq.administering.treating import Treat, Treating
from redisaq.brokers.access import Access, RedisURL
from redisaq.brokers.growth import close_barriers, make_or_grow, waiting_in
from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.administration import (
    Disband,
    DropGroup,
    DropHistory,
    DropTopic,
    GroupView,
    ReadHistory,
    ReadServer,
    Seek,
    SetPaused,
    ViewGroup,
    ViewPartition,
    ViewStream,
)
from redisaq.brokers.steps.coordination import ReadRunning, Watch
from redisaq.brokers.steps.examination import Examine
from redisaq.brokers.steps.messages import (
    CancelDelayed,
    CancelRetry,
    CountBacklog,
    CountDue,
    ListDelayed,
    ListPending,
    ListRetries,
    PendingRow,
    ReadEntries,
    RetryNow,
    Scheduled,
    SummariseEntries,
)
from redisaq.brokers.steps.retrying import (
    ReadDead,
    ReadNewestDead,
    SummariseDead,
)
from redisaq.brokers.steps.schedules import ReadSchedules
from redisaq.brokers.steps.topics import ReadTopics
from redisaq.brokers.terms import GroupName
from redisaq.core.codec import Deserializer
from redisaq.core.diagnosis import Finding, diagnose, refused
from redisaq.core.entry_ids import before_entry, parse_id
from redisaq.core.history import Change as Noted, Taker, ranges_of
from redisaq.core.records import Entry, is_id
from redisaq.core.schedules import TOPIC_ENDS_WITH, decode_schedule
from redisaq.environment import current_environment, silence_within, time_is_up_at, when_forked
from redisaq.errors import ConnectionFailed, GroupBusyError, ServerError, SettingsError, TopicMissingError
from redisaq.identity import label_of
from redisaq.settings import (
    MOST_PARTITIONS,
    check_aware,
    check_client,
    check_count,
    check_flag,
    check_name,
    check_plain,
    check_seconds,
    check_several,
    check_text,
)

__all__ = [
    "Admin",
    "CountingKinds",
    "DeadKind",
    "DeadKinds",
    "DeadLetter",
    "DeadLetterInfo",
    "DeadLetters",
    "DeadMessage",
    "DeadPage",
    "DeadSummary",
    "DelayedMessage",
    "Finding",
    "Following",
    "GroupInfo",
    "GroupStanding",
    "HeldUpInfo",
    "HistoryEntry",
    "Listing",
    "MemberInfo",
    "MessageSummary",
    "PartitionInfo",
    "PartitionWaits",
    "PendingMessage",
    "Position",
    "RetryMessage",
    "RunningInfo",
    "ScheduleInfo",
    "SeekPreview",
    "ServerInfo",
    "StoredMessage",
    "StreamInfo",
    "StreamMessage",
    "Taker",
    "TopicInfo",
    "Treat",
    "Whereabouts",
]

DeadLetter = DeadMessage
"""The name of `DeadMessage` before 0.2. Use the new name: `redisaq.DeadLetter` is another class, which handlers raise."""

P = ParamSpec("P")
R = TypeVar("R")

UNKNOWN_TTL = 12.0
"""Seconds that the lease of a member lasts that did not say so: the default."""


def in_one_loop(method: Callable[Concatenate[Admin, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Admin, P], Coroutine[Any, Any, R]]:
    """Restrict a method of Admin to one event loop at a time."""

    @functools.wraps(method)
    async def guarded(admin: Admin, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with admin._access:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] -- this is a part of the class below
            return await method(admin, *args, **kwargs)

    return guarded


class Admin:
    """Administers the topics of one namespace. Use it as an async context manager."""

    def __init__(
        self,
        redis_url: RedisURL | None = None,
        *,
        namespace: str = "redisaq",
        timeout: float = 30.0,
        client: str | None = None,
    ) -> None:
        """Create an Admin. It does not connect yet.

        Args:
            redis_url: redis://, rediss://, unix://, redis+cluster://, redis+sentinel://, memory://name or embedded://[path]. None: the
                value of REDISAQ_URL when it connects, otherwise redis://localhost:6379/0.
            namespace: the namespace of the producers and consumers.
            timeout: seconds that one call may take, or one step of `dead_letters`, including waiting for the server. Within this time, a
                call that only reads is repeated when a connection breaks. A connection that owes an answer and receives nothing for half
                of this time (0.5 to 6 s) is dropped.
            client: the label of its connections, a part of their names (CLIENT SETNAME); default: "host:pid".

        Raises:
            SettingsError: a value is not valid.
        """
        self._timeout = check_seconds("timeout", timeout)
        self._client = check_client(client)
        self._access = Access(redis_url, namespace, user="Admin", client=self._client, silence=silence_within(self._timeout))
        self._asking = Asking(self._access, self._timeout)
        self.forked()
        when_forked(self)

    def forked(self) -> None:
        """Reset in a forked child. The child calls this automatically."""
        self._environment = current_environment()
        self._changes = Changes(self._access, self._timeout, label_of(self._client, self._environment))
        self._treating = Treating(self._asking, self._changes)

    @property
    def _broker(self) -> Broker:
        return self._access.broker

    @in_one_loop
    async def connect(self) -> None:
        """Connect to the server. This is optional: the first call does it.

        Raises:
            ConnectionFailed: the server cannot be reached, refused the connection, or does not answer within `timeout`. Every other method
                may raise it, too. If a change raises it, `maybe_executed` says whether the change may have been made. You may call the
                method again: the next change first kills what may still be in progress.
            WrongThreadError: the event loop of another thread is using the Admin. Every other method may raise it, too.
        """
        with self._asking.limit():
            await self._broker.connect()

    @in_one_loop
    async def close(self) -> None:
        """Close the connection. Calls in progress raise ConnectionFailed. You may call it at any time, from any task, more than once."""
        await self._asking.close()

    async def __aenter__(self) -> Self:
        """Connect. If that fails, close the Admin."""
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close the Admin."""
        await self.close()

    # -- looking -------------------------------------------------------------------------------------------------------------------

    @in_one_loop
    async def server(self) -> ServerInfo:
        """Return what the server says about itself."""
        with self._asking.limit():
            facts = await self._asking.do(ReadServer())
        return ServerInfo(
            url=facts.url,
            namespace=self._access.namespace,
            name=facts.name,
            now=moment(facts.now / 1000),
            memory=facts.memory,
            max_memory=facts.max_memory,
            evicts=facts.evicts,
            keys=facts.keys,
        )

    @in_one_loop
    async def diagnose(self) -> list[Finding]:
        """Look at the server as redisaq needs it: version, persistence, memory, access rights, clock, replicas, connections.

        It changes nothing. What the user may not ask is a finding, not an error, and so is a server that refuses the connection. If the
        user may not ask for its rights, either, it tries the commands on keys of a topic that cannot exist.

        Raises:
            ConnectionFailed: the server cannot be reached, or does not answer.
        """
        try:
            with self._asking.limit():
                seen = await self._asking.do(Examine())
                if not seen.fails_over:
                    return diagnose(seen)
                ttl, unreadable = await self._shortest_ttl()
                return diagnose(msgspec.structs.replace(seen, ttl=ttl, unreadable=unreadable))
        except ConnectionFailed as error:
            if not error.permanent:
                raise
            from redisaq.brokers.redis.rights import access_rules  # noqa: PLC0415 -- with a real server only

            return [refused(error.reason, access_rules(self._access.namespace))]

    async def _shortest_ttl(self) -> tuple[tuple[float, str] | None, Mapping[str, str]]:
        """Return the shortest heartbeat_ttl of a member that is alive, with its group's name; and what cannot be read, with the reasons."""
        found: list[tuple[float, str]] = []
        unreadable: dict[str, str] = {}
        topics: list[str] = []
        with contextlib.suppress(ServerError):  # that it may not ask for them is a finding already
            topics = await self._asking.do(ReadTopics())
        for topic in topics:
            about = f"topic {topic}"
            try:
                for group in (await self._asking.do(ViewStream(topic, 0))).groups:
                    about = f"group {group} of {topic}"
                    view = await self._asking.do(ViewGroup(GroupName(topic, group)))
                    ttls = [view.presences[one].profile.ttl for one in view.live if one in view.presences]
                    found += [(ttl, about) for ttl in ttls if ttl]
            except ServerError as error:  # the other topics' members may have a shorter one
                unreadable[about] = str(error)
        return min(found, default=None), unreadable

    @in_one_loop
    async def topics(self) -> list[str]:
        """Return the names of all topics of the namespace, sorted."""
        with self._asking.limit():
            return await self._asking.do(ReadTopics())

    @in_one_loop
    async def schedules(self, app: str | None = None) -> list[ScheduleInfo]:
        """Return the cron jobs that programs have written down, those of one program after those of another, sorted by name.

        A job that is no longer in its program is here until its last tick has been discarded, about an hour after that was due. What cannot
        be read is here with `ScheduleInfo.unreadable`, and does not hide the rest.

        Args:
            app: the name of a program (`App(name=…)`); None: all programs.

        Raises:
            SettingsError: the name is not valid.
            ServerError: the jobs of the program that was asked for cannot be read.
        """
        with self._asking.limit():
            if app is not None:
                return await self._schedules_of(f"{check_name('app', app)}{TOPIC_ENDS_WITH}")
            found: list[ScheduleInfo] = []
            for topic in await self._asking.do(ReadTopics()):
                if topic.endswith(TOPIC_ENDS_WITH):
                    try:
                        found += await self._schedules_of(topic)
                    except ServerError as error:
                        found.append(ScheduleInfo.broken(topic.removesuffix(TOPIC_ENDS_WITH), "", str(error)))
            return found

    async def _schedules_of(self, topic: str) -> list[ScheduleInfo]:
        read = await self._asking.do(ReadSchedules(topic))
        program = topic.removesuffix(TOPIC_ENDS_WITH)
        return [ScheduleInfo.of(program, job, decode_schedule(data), read.now / 1e6) for job, data in sorted(read.kept.items())]

    @in_one_loop
    async def topic(self, topic: str, *, partitions: Iterable[int] | None = None) -> TopicInfo:
        """Return a topic's partitions, the number of messages in each, and the topic's groups.

        Args:
            topic: the topic.
            partitions: the numbers of the partitions to look at; None: all of them. One that does not exist is empty.

        Raises:
            TopicMissingError: the topic does not exist.
        """
        topic = check_name("topic", topic)
        with self._asking.limit():
            state = await self._asking.state(topic)
            numbers = range(state.partitions) if partitions is None else numbers_of(partitions)
            views = await self._asking.do_at_once([ViewStream(topic, number) for number in numbers])
        return TopicInfo(
            topic,
            state.generation,
            tuple(StreamInfo(number, view.length, view.delayed, view.added) for number, view in zip(numbers, views, strict=True)),
            tuple(sorted({name for view in views for name in view.groups})),
            state.partitions,
            state.acked,
            held_up_info(state),
            state.history,
            state.pending,
        )

    @in_one_loop
    async def group(self, topic: str, group: str, *, partitions: Iterable[int] | None = None, running: bool = False) -> GroupInfo:
        """Return the state of a group: its members, and its counts for each partition. Each partition is read in one atomic step.

        Args:
            topic: the topic.
            group: the group.
            partitions: the numbers of the partitions to look at; None: all of them. One that does not exist is empty.
            running: ask for what is in handlers, too. Members report it with their heartbeats, for 10 s after each such call, so the first
                call finds nothing: see `MemberInfo.running`.

        Raises:
            TopicMissingError: the topic does not exist, or has no such group; or it has no member, and is in none of `partitions`.
        """
        asked = None if partitions is None else numbers_of(partitions)
        with self._asking.limit():
            name, view, found = await self._asking.look(topic, group, asked)
            state = await self._asking.state(topic)
            waiting = await self._asking.ask(lambda: waiting_in(self._broker, name, state.history)) if state.history else {}
        lease: Mapping[int, str] = {} if view.document is None else view.document.lease
        members = members_of(view)
        if running:
            members = await self._with_running(name, members)
        names = {member.incarnation: member.name for member in members}
        infos = [
            partition_info(number, one, lease.get(number, ""), names, waits_of(waiting.get(number), one, state))
            for number, one in zip(range(len(found)) if asked is None else asked, found, strict=True)
        ]
        return GroupInfo(
            name.topic,
            name.group,
            view.paused,
            tuple(members),
            tuple(infos),
            view.alone,
            view.lapsed,
            view.idle,
            moment(view.now / 1000),
        )

    async def _with_running(self, name: GroupName, members: Sequence[MemberInfo]) -> list[MemberInfo]:
        """Ask the members to report what they have in handlers, and return them with what they have reported."""
        with self._asking.limit():
            with contextlib.suppress(ServerError):  # a user that may only read sees what others have asked for
                await self._asking.do(Watch(name))
            reports = await self._asking.do_at_once([ReadRunning(name, member.incarnation) for member in members])
        return [
            member if report is None else msgspec.structs.replace(member, running=report.count, in_handlers=running_of(report))
            for member, report in zip(members, reports, strict=True)
        ]

    @in_one_loop
    async def partitions(self, topic: str, group: str, partitions: Iterable[int]) -> list[PartitionInfo]:
        """Return a group's counts for some partitions, and nothing else: this is for topics with thousands of partitions.

        The owner of a partition is the incarnation that holds its token, and has no name; see `group` for the members. `deliveries` is
        empty. A partition that does not exist is empty, and so are those of a group that does not exist.
        """
        name = name_of(topic, group)
        numbers = numbers_of(partitions)
        with self._asking.limit():
            steps = [ViewPartition(name, number, deliveries=False) for number in numbers]
            views = await self._asking.do_at_once(steps)
        return [partition_info(number, view, view.holder, {}) for number, view in zip(numbers, views, strict=True)]

    # -- dead letters --------------------------------------------------------------------------------------------------------------

    def dead_letters(self, topic: str, group: str, *, newest: bool = False, deserializer: Deserializer | None = None) -> DeadLetters:
        """Return an async iterator over a group's dead letters, partition after partition, oldest death first in each.

        It includes dead letters that arrive during the iteration, unless it has already passed their partition. Each step may raise
        TopicMissingError or ConnectionFailed. After ConnectionFailed you may continue the iteration.

        Args:
            topic: the topic.
            group: the group.
            newest: True: newest death first, over all partitions together, without those that arrive during the iteration. It keeps up to
                1,000 dead letters at once, besides two of each partition.
            deserializer: called with a payload's bytes; None: JSON. If it raises, `DeadMessage.unreadable` says why.
        """
        if deserializer is not None:
            check_plain("deserializer", deserializer)
        name = name_of(topic, group)
        decoder = DeadLetterDecoder(name.topic, name.group, deserializer)
        if not check_flag("newest", newest):
            return DeadLetters(self._access, OldestFirst(self._asking, name, decoder).advance)

        async def numbers() -> list[int]:
            return [number for number, view in enumerate(await self._asking.look_in_time(name)) if view.dead]

        reader = NewestFirst(self._asking, numbers, partial(ReadNewestDead, name))

        async def advance() -> DeadMessage | None:
            found = await reader.advance()
            return None if found is None else decoder.decode(found[0], found[1].dead_id, found[1].body)

        return DeadLetters(self._access, advance)

    @in_one_loop
    async def dead_summaries(self, topic: str, group: str, *, partitions: Iterable[int], count: int = PAGE) -> list[DeadSummary]:
        """Return the newest dead letters of some partitions without payloads and tracebacks, the newest first.

        The server reads `count` dead letters of each partition and sends a few hundred bytes for each.

        Args:
            topic: the topic.
            group: the group.
            partitions: their numbers. A number beyond the topic's partitions has no dead letters.
            count: the most dead letters of one partition, up to 1,000.

        Raises:
            SettingsError: `count` is not from 1 to 1,000, or a partition is not a number.
        """
        name = name_of(topic, group)
        most = check_count("count", count, most=1000)
        numbers = numbers_of(partitions)
        steps = [SummariseDead(name, number, b"", most, SUMMARY) for number in numbers]
        with self._asking.limit():
            pages = await self._asking.do_at_once(steps)
        found = [summary_of(topic, group, number, one) for number, page in zip(numbers, pages, strict=True) for one in page]
        return sorted(found, key=lambda one: parse_id(one.dead_id.encode()), reverse=True)

    @in_one_loop
    async def dead_page(
        self,
        topic: str,
        group: str,
        *,
        partitions: Iterable[int],
        count: int = PAGE,
        before: str | None = None,
        kind: str | None = None,
        limit: int = 10_000,
    ) -> DeadPage:
        """Return a page of a group's dead letters without payloads and tracebacks: the newest death first, over some partitions together.

        Those that died at the same moment, to the id, are on one page, so it may have some more than `count`.

        Args:
            topic: the topic.
            group: the group.
            partitions: their numbers. A number beyond the topic's partitions has no dead letters.
            count: about how many dead letters.
            before: `DeadPage.older` of the page before this one. None: begin with the newest.
            kind: return only those of this kind: see `DeadSummary.kind`.
            limit: about the most dead letters to look at.

        Raises:
            SettingsError: `count` or `limit` is not positive, a partition is not a number, or `before` is not an id.
        """
        name, numbers = name_of(topic, group), numbers_of(partitions)
        count, limit = check_count("count", count), check_count("limit", limit)
        if before is not None and not is_id(check_text("before", before).encode()):
            raise SettingsError("before must be the id of a dead letter, such as 1700000000000-0")

        async def all_of_them() -> Sequence[int]:
            return numbers

        def step(number: int, below: bytes, most: int) -> SummariseDead:
            return SummariseDead(name, number, below, most, SUMMARY)

        reader = NewestFirst(self._asking, all_of_them, step, b"" if before is None else before.encode())
        letters: list[DeadSummary] = []
        looked, last = 0, b""
        while (found := await reader.advance()) is not None:
            number, one = found
            if one.dead_id != last and (len(letters) >= count or looked >= limit):
                return DeadPage(tuple(letters), looked, last.decode())
            looked, last = looked + 1, one.dead_id
            summary = summary_of(topic, group, number, one)
            letters += [summary] if kind in (None, summary.kind) else []
        return DeadPage(tuple(letters), looked, "")

    def dead_kinds(self, topic: str, group: str) -> CountingKinds:
        """Return an async iterator that counts all dead letters of a group by kind of failure, and yields what it has counted so far.

        Each step counts 200 letters of each of up to 10 partitions, from the newest back; the last item has `complete`. Stop whenever you
        have seen enough. Letters that arrive meanwhile are not counted, and what is redriven or purged meanwhile may be. The server looks
        at each letter, and sends a line for each kind. Each step may raise TopicMissingError or ConnectionFailed. After ConnectionFailed
        you may continue the iteration.

        Args:
            topic: the topic.
            group: the group.
        """
        return CountingKinds(self._asking, name_of(topic, group))

    @in_one_loop
    async def dead_letter(
        self, topic: str, group: str, partition: int, dead_id: str, *, deserializer: Deserializer | None = None
    ) -> DeadMessage | None:
        """Return one dead letter, or None if it is not there (any more).

        Args:
            topic: the topic.
            group: the group.
            partition: the partition's number.
            dead_id: the id of the dead letter itself.
            deserializer: as for `dead_letters`.

        Raises:
            SettingsError: `dead_id` is not an id.
        """
        name = name_of(topic, group)
        after = before_entry(dead_id)
        with self._asking.limit():
            page = await self._asking.do(ReadDead(name, check_count("partition", partition, least=0), after=after, count=1))
        decoder = DeadLetterDecoder(name.topic, name.group, deserializer)
        return next((decoder.decode(partition, one.dead_id, one.body) for one in page if one.dead_id == dead_id.encode()), None)

    @in_one_loop
    async def redrive(self, topic: str, group: str, ids: Ids | None = None) -> int:
        """Retry dead letters at once, in the order in which they died. The message and its id stay the same; attempts count from 1 again.

        Each redriven message starts a new life (see `DeadMessage.life`).

        Args:
            topic: the topic.
            group: the group.
            ids: message ids, or dead letters from `dead_letters` or `dead_summaries`. Ids that are not found are skipped. A message id
                selects every dead letter of that message, since a message may die more than once. Finding message ids reads all dead
                letters, in pages.
                None: all dead letters that exist now.

        Returns:
            The number of messages that will be retried.

        Raises:
            TopicMissingError: the topic or the group does not exist.
        """
        return await self._treating.at_once("redriven", name_of(topic, group), ids)

    def redriving(self, topic: str, group: str) -> contextlib.AbstractAsyncContextManager[Treat]:
        """Return a context manager for redriving many dead letters in several calls, which the group's history shows as one change.

        It gives a function that does what `redrive` does, and returns the same. The history says so before the first one, and how many at
        the end of the block, however it ends; a call that breaks or is cancelled is not counted there. If only such calls were made, the
        history keeps that it has begun. What was redriven stays redriven.

        Args:
            topic: the topic.
            group: the group.
        """
        return self._treating.in_parts("redriven", name_of(topic, group))

    @in_one_loop
    async def purge(self, topic: str, group: str, ids: Ids | None = None) -> int:
        """Delete dead letters permanently; see `redrive` for the arguments.

        Returns:
            The number of deleted dead letters.
        """
        return await self._treating.at_once("purged", name_of(topic, group), ids)

    def purging(self, topic: str, group: str) -> contextlib.AbstractAsyncContextManager[Treat]:
        """Return a context manager for deleting many dead letters in several calls: see `redriving`."""
        return self._treating.in_parts("purged", name_of(topic, group))

    # -- single messages -----------------------------------------------------------------------------------------------------------

    def pending(self, topic: str, group: str, *, deserializer: Deserializer | None = None) -> Listing[Any, PendingMessage]:
        """Return an async iterator over messages that were delivered to a group and are not settled: they are in handlers, or will be soon.

        The order is partition after partition, oldest entry first in each. A message that is settled or delivered during the iteration may
        be missing. Each step may raise TopicMissingError or ConnectionFailed. After ConnectionFailed you may continue the iteration.

        Args:
            topic: the topic.
            group: the group.
            deserializer: called with a payload's bytes; None: JSON. If it raises, `unreadable` of the message says why.
        """
        name, decoder = name_of(topic, group), _decoder(topic, deserializer)
        names: dict[str, str] = {}

        async def look() -> int:
            with self._asking.limit():
                _, view, partitions = await self._asking.look(topic, group)
            names.update(names_of(view.document))
            return len(partitions)

        async def page(partition: int, last: tuple[str, PendingRow] | None) -> list[tuple[str, PendingRow]]:
            after = b"" if last is None else last[1].entry_id
            (found,) = await self._asking.do_each([ListPending(name, partition, after, PAGE)])
            return [(found.holder, row) for row in found.rows]

        def make(partition: int, row: tuple[str, PendingRow]) -> PendingMessage:
            owner, entry = row
            return decoder.pending(partition, entry, name.group, owner, names.get(owner, ""))

        return Listing(self._access, look, page, make)

    def retries(self, topic: str, group: str, *, deserializer: Deserializer | None = None) -> Listing[Any, RetryMessage]:
        """Return an async iterator over messages that failed and wait for a retry; see `pending` for the rest.

        The order is partition after partition, earliest due time first in each. A message stays among them while its handler runs again.
        """
        name, decoder = name_of(topic, group), _decoder(topic, deserializer)

        async def look() -> int:
            return len(await self._asking.look_in_time(name))

        async def page(partition: int, last: Scheduled | None) -> Sequence[Scheduled]:
            (found,) = await self._asking.do_each([ListRetries(name, partition, last, PAGE)])
            return found.rows

        return Listing(self._access, look, page, lambda partition, row: decoder.retry(partition, row, name.group))

    def delayed(self, topic: str, *, deserializer: Deserializer | None = None) -> Listing[Any, DelayedMessage]:
        """Return an async iterator over messages that are not in their streams yet; see `pending` for the rest.

        The order is partition after partition, earliest due time first in each. A message whose time has come stays among them until a
        consumer of the topic moves it to its stream.
        """
        topic, decoder = check_name("topic", topic), _decoder(topic, deserializer)

        async def look() -> int:
            return len(await self._asking.some(topic))

        async def page(partition: int, last: Scheduled | None) -> Sequence[Scheduled]:
            (found,) = await self._asking.do_each([ListDelayed(topic, partition, last, PAGE)])
            return found.rows

        return Listing(self._access, look, page, decoder.delayed)

    @in_one_loop
    async def next_delayed(
        self,
        topic: str,
        *,
        count: int = PAGE,
        after: tuple[datetime, str] | None = None,
        partitions: Iterable[int] | None = None,
        deserializer: Deserializer | None = None,
    ) -> list[DelayedMessage]:
        """Return a topic's delayed messages, over its partitions together, earliest due time first.

        While it reads, it keeps up to 1,000 messages at once, or one of each partition if there are more partitions.

        Args:
            topic: the topic.
            count: the most messages.
            after: `due` and `msg_id` of a message: return those that come after it, also of other topics. None: the first ones.
            partitions: read only these. None: all of them.
            deserializer: called with a payload's bytes; None: JSON.

        Raises:
            TopicMissingError: the topic does not exist.
        """
        decoder, count = _decoder(topic, deserializer), check_count("count", count)
        numbers = await self._asking.some(topic) if partitions is None else numbers_of(partitions)
        start: Scheduled | None = None
        if after is not None:
            due = microseconds(check_aware("the first of after", after[0]))
            start = Scheduled(after[1].encode(), b"%d" % due, due, None)
        rows = EarliestFirst(self._asking, topic, numbers, start)
        return [decoder.delayed(number, row) for number, row in await rows.read(count)]

    @in_one_loop
    async def count_delayed(self, topic: str, moments: Sequence[datetime], *, partitions: Iterable[int] | None = None) -> list[int]:
        """Return, for each of these moments, how many of a topic's delayed messages are due before it.

        Args:
            topic: the topic.
            moments: the moments, aware.
            partitions: count only in these. None: all of them.

        Raises:
            TopicMissingError: the topic does not exist.
        """
        numbers = await self._asking.some(topic) if partitions is None else numbers_of(partitions)
        edges = [microseconds(check_aware("each of moments", one)) for one in check_several("moments", moments)]
        found = await self._asking.do_each([CountDue(topic, number, edges) for number in numbers])
        return [sum(counts) for counts in zip(*found, strict=True)] if found else [0] * len(edges)

    @in_one_loop
    async def message_summaries(
        self,
        topic: str,
        *,
        partitions: Iterable[int],
        count: int = 10,
        before: str | None = None,
        after: str | None = None,
        size: int = SUMMARY,
    ) -> list[MessageSummary]:
        """Return the newest messages of some partitions' streams without most of their payloads, the newest first; or those after an entry.

        The server reads `count` entries of each partition and sends a few hundred bytes for each; see `peek` for whole messages.

        Args:
            topic: the topic.
            partitions: their numbers. A number beyond the topic's partitions has no messages.
            count: the most messages of one partition, up to 1,000.
            before: an entry id: return entries with lower ids. None: the newest.
            after: an entry id: return entries with greater ids instead, the oldest first, as a group that has got so far gets them.
            size: how many bytes of a payload, and of a key, to return.

        Raises:
            SettingsError: `count` is not from 1 to 1,000, a partition is not a number, or `before` or `after` is not an entry id, or both
                are given.
        """
        topic, most = check_name("topic", topic), check_count("count", count, most=AT_ONCE)
        if before is not None and after is not None:
            raise SettingsError("give before or after, not both")
        below, above = (_entry_id(name, one) for name, one in (("before", before), ("after", after)))
        numbers, limit = numbers_of(partitions), check_count("size", size, least=0)
        pages = await self._asking.do_each([SummariseEntries(topic, number, below, most, limit, above) for number in numbers])
        found = [entry_summary_of(topic, number, one) for number, page in zip(numbers, pages, strict=True) for one in page]
        return sorted(found, key=lambda one: (parse_id(one.entry_id.encode()), -one.partition), reverse=after is None)

    def messages(self, topic: str, *, deserializer: Deserializer | None = None) -> Listing[Any, StreamMessage]:
        """Return an async iterator over the messages that are in a topic's streams when its first step begins; see `pending` for the rest.

        The order is partition after partition, oldest entry first in each. What is trimmed meanwhile may be missing.

        Args:
            topic: the topic.
            deserializer: called with a payload's bytes; None: JSON. If it raises, `unreadable` of the message says why.
        """
        topic, decoder = check_name("topic", topic), _decoder(topic, deserializer)
        ends: list[bytes] = []

        async def look() -> int:
            partitions = len(await self._asking.some(topic))
            newest = await self._asking.do_each([SummariseEntries(topic, number, b"", 1, 0) for number in range(partitions)])
            ends[:] = [found[0].entry_id if found else b"0-0" for found in newest]
            return partitions

        async def page(partition: int, last: Entry | None) -> list[Entry]:
            (rows,) = await self._asking.do_each([ReadEntries(topic, partition, b"" if last is None else last[0], PAGE)])
            return [row for row in rows if parse_id(row[0]) <= parse_id(ends[partition])]

        return Listing(self._access, look, page, lambda partition, row: decoder.entry(partition, *row))

    @in_one_loop
    async def peek(
        self, topic: str, partition: int | None = None, count: int = 10, *, deserializer: Deserializer | None = None
    ) -> list[StreamMessage]:
        """Return the newest messages of a topic's streams, newest first, whatever groups have done with them.

        Args:
            topic: the topic.
            partition: read only this partition.
            count: the most messages, at most 1,000. As many of each partition are read, so this is for small numbers.
            deserializer: called with a payload's bytes; None: JSON.

        Raises:
            TopicMissingError: the topic does not exist.
            SettingsError: there is no such partition.
        """
        decoder, count = _decoder(topic, deserializer), check_count("count", count, most=AT_ONCE)
        numbers = await self._asking.some(topic, partition)
        found: list[tuple[tuple[int, int], StreamMessage]] = []
        for start in range(0, len(numbers), TOGETHER):
            some = numbers[start : start + TOGETHER]
            for number, page in zip(some, await self._asking.do_each([ReadEntries(topic, one, None, count) for one in some]), strict=True):
                found += [(parse_id(entry_id), decoder.entry(number, entry_id, fields)) for entry_id, fields in page]
            found.sort(key=lambda one: one[0], reverse=True)
            del found[count:]
        return [message for _, message in found]

    def follow(
        self, topic: str, partition: int | None = None, *, interval: float = 0.5, deserializer: Deserializer | None = None
    ) -> Following:
        """Return an async iterator over the messages that are enqueued from its first step on; it never ends.

        The order is that of their entries within a partition, and approximately that of time over all. It reads the streams again and
        again, and belongs to no group. Each step may raise TopicMissingError or ConnectionFailed. After ConnectionFailed you may continue
        the iteration, and miss nothing unless it was trimmed.

        Args:
            topic: the topic.
            partition: follow only this partition.
            interval: seconds between two looks.
            deserializer: called with a payload's bytes; None: JSON.
        """
        topic, interval = check_name("topic", topic), check_seconds("interval", interval)
        return Following(self._asking, topic, partition, decoder=_decoder(topic, deserializer), interval=interval)

    @in_one_loop
    async def find(
        self,
        topic: str,
        msg_id: str,
        *,
        partition: int | None = None,
        entry_id: str | None = None,
        limit: int = 1_000_000,
        deserializer: Deserializer | None = None,
    ) -> Whereabouts:
        """Return where a message is: its entry, and what each group has done with it; or that it is delayed, or not found.

        No index of message ids exists. The delayed messages are checked first, which is quick, then all streams are searched from their
        newest entries back. If the message is in no stream any more, the retries and dead letters of all groups are searched. If it is in a
        stream, dead letters are searched only for groups that have neither begun nor kept it.

        A message that moves during the search may be reported where it was. `timeout` limits each step of the search, not all of it.

        Args:
            topic: the topic.
            msg_id: the message's id, from `enqueue`.
            partition: search only this partition.
            entry_id: the id of its entry, if you know it: then no stream is searched. It needs `partition`.
            limit: the most entries, retries and dead letters to look at.
            deserializer: called with a payload's bytes; None: JSON.

        Raises:
            TopicMissingError: the topic does not exist.
            SettingsError: there is no such partition, or the entry id is not valid.
        """
        msg_id, limit = check_text("msg_id", msg_id), check_count("limit", limit)
        if entry_id is not None and (partition is None or not is_id(check_text("entry_id", entry_id).encode())):
            raise SettingsError("entry_id needs the partition, and looks like 1700000000000-0")
        numbers = await self._asking.some(topic, partition)
        search = Search(
            self._asking,
            topic,
            msg_id,
            limit=limit,
            decoder=_decoder(topic, deserializer),
            dead=lambda group: DeadLetterDecoder(topic, group, deserializer),
        )
        return await search.run(numbers, b"" if entry_id is None else entry_id.encode())

    @in_one_loop
    async def cancel(self, topic: str, msg_id: str, group: str | None = None) -> bool:
        """Delete a delayed message; or, with `group`, a message that waits for a retry in that group.

        A handler that runs is not stopped: its message is not tried again, whatever comes of it. Nothing else is deleted: a message that
        is in its stream stays there, and other groups still get it. A `dedup_id` stays used until its window ends. Finding the retry of a
        message reads all retries of the group, in pages.

        Args:
            topic: the topic.
            msg_id: the message's id.
            group: the group whose retry to delete; None: delete the delayed message.

        Returns:
            Whether it was there.

        Raises:
            TopicMissingError: the topic or the group does not exist.
        """
        wanted = check_text("msg_id", msg_id).encode()
        async with self._changes.in_order() as change:
            if group is None:
                info = await self.topic(topic, partitions=[0])  # every group is there
                names = [GroupName(info.topic, one) for one in info.groups]
                change.intent = intent = self._changes.intent(names, Noted("cancelled while delayed", count=1, msg_id=msg_id))
                numbers = range(info.partition_count)
                done = await change.make(self._broker.do_each([CancelDelayed(topic, number, wanted) for number in numbers]))
                await (intent.end() if any(done) else intent.withdraw())
                return any(done)
            name, _, views = await self._asking.look(topic, group)
            change.intent = intent = self._changes.intent(name, Noted("cancelled", count=1, msg_id=msg_id))
            for partition in range(len(views)):
                found = [row.id async for rows in retry_pages(self._asking, name, partition) for row in rows if id_of(row) == wanted]
                for entry_id in found:
                    if await change.make(self._broker.do(CancelRetry(name, partition, entry_id))):
                        await intent.end()
                        return True
            await intent.withdraw()
            return False

    @in_one_loop
    async def retry_now(self, topic: str, group: str, ids: Iterable[str | RetryMessage] | None = None) -> int:
        """Let messages that wait for a retry be tried again at once, in the order of their due times. Attempts are counted as before.

        They come after those that are due already. With `ordering="key"`, those of one key still run one after another.

        Args:
            topic: the topic.
            group: the group.
            ids: message ids, or messages from `retries`. Ids that are not found, or due already, are skipped. Finding message ids reads all
                retries, in pages. None: all retries that exist now.

        Returns:
            The number of messages that were not due yet.

        Raises:
            TopicMissingError: the topic or the group does not exist.
        """
        ids = None if ids is None else list(check_several("ids", ids))
        async with self._changes.in_order() as change:
            name, _, views = await self._asking.look(topic, group)
            msg_ids, named = split(name, () if ids is None else ids, (RetryMessage,), "retry")
            wanted = {one.encode() for one in msg_ids}
            change.intent = intent = self._changes.intent(name, Noted("retried now", msg_id=only_one(ids)))
            total = 0
            for partition, view in enumerate(views):
                left = view.retry  # no more: a message that fails again meanwhile is left alone
                while ids is None and left > 0:
                    made = await change.make(self._broker.do(RetryNow(name, partition, None, min(PAGE, left))))
                    total, left = total + made, left - made if made else 0
                found = {one.entry_id.encode(): one.due for one in named.get(partition, ())}
                if msg_ids:
                    rows = [row async for rows in retry_pages(self._asking, name, partition) for row in rows if id_of(row) in wanted]
                    found |= {row.id: moment((row.due or 0) / 1000) for row in rows}
                in_order = sorted(found, key=found.__getitem__)  # whatever the order of `ids`
                for start in range(0, len(in_order), PAGE):
                    page = in_order[start : start + PAGE]
                    total += await change.make(self._broker.do(RetryNow(name, partition, page, len(page))))
            await (intent.end(count=total) if total else intent.withdraw())
            return total

    @in_one_loop
    async def backlog(self, topic: str, group: str) -> int:
        """Return how many messages the group could work on now: unread, pending, and retries and delayed messages that are due.

        This is the number to scale by. To a group that does not exist, all entries are unread.

        Raises:
            TopicMissingError: the topic does not exist.
        """
        name = name_of(topic, group)
        with self._asking.limit():
            partitions = (await self._asking.state(topic)).partitions
            return sum(await self._asking.do_each([CountBacklog(name, number) for number in range(partitions)]))

    @in_one_loop
    async def oldest_age(self, topic: str, group: str) -> float | None:
        """Return the age in seconds of the oldest entry that the group has not settled, without retries; None if there is none.

        To a group that does not exist, all entries are unread.

        Raises:
            TopicMissingError: the topic does not exist.
        """
        name = name_of(topic, group)
        with self._asking.limit():
            partitions = (await self._asking.state(topic)).partitions
            views = await self._asking.do_each([ViewPartition(name, number, deliveries=False) for number in range(partitions)])
        ages = (partition_info(number, view, view.holder, {}).oldest for number, view in enumerate(views))
        return max((age for age in ages if age is not None), default=None)

    # -- moving, pausing, deleting ---------------------------------------------------------------------------------------------------

    @in_one_loop
    async def seek(self, topic: str, group: str, to: Position) -> None:
        """Move a group to another position. The group must have no live members, or be paused.

        `seek` redelivers every entry at or after the position as if it were new. Pending and retrying copies of those entries are dropped.
        Entries before the position are not delivered, but those that are pending or waiting for a retry are still finished: no message that
        was started is forgotten. Dead letters and delayed messages stay as they are.

        In a paused group, running handlers finish. Their messages are delivered again if they are at or after the position. A message that
        a member has read and not started is delivered once, perhaps before messages that precede it. If the topic has grown, `seek` waits
        until the pause is as old as the longest `heartbeat_ttl` of the members: then each has heard of it.

        Args:
            topic: the topic.
            group: the group.
            to: "earliest"; "latest", which is after the existing entries; an aware datetime, for entries enqueued then or later by the
                server's clock; or a mapping from partitions to the id of the next entry ("1700000000000-0"), which moves only these
                partitions. A position after the last entry means "latest".

        Raises:
            GroupBusyError: members are alive and the group is not paused. Nothing was moved.
            SettingsError: `to` is not a valid position, or names a partition that does not exist.
            TopicMissingError: the topic or the group does not exist.
        """
        where = to if isinstance(to, str) else to.isoformat() if isinstance(to, datetime) else ""
        async with self._changes.in_order() as change:
            while True:
                state = await self._asking.state(topic)
                name, view, partitions = await self._asking.look(topic, group)
                positions = positions_of(to, len(partitions))
                sought = Noted("sought", partitions=ranges_of(positions), count=len(positions), to=where)
                change.intent = change.intent or self._changes.intent(name, sought)
                if view.live and not view.paused:
                    raise GroupBusyError(f"group {group} of {topic} has {len(view.live)} live member(s): pause it, or stop them", view.live)
                if state.history:  # G4: partitions that the topic grew by wait again
                    await self._let_pause_be_known(topic, group, view)
                    await change.make(close_barriers(self._broker, name, state.history))
                for partition, position in positions.items():
                    await change.make(self._broker.do(Seek(name, partition, position)))
                if (await self._asking.state(topic)).generation == state.generation:
                    break  # else it has grown meanwhile
            await change.intent.end(partitions=sought.partitions, count=sought.count)

    async def _let_pause_be_known(self, topic: str, group: str, view: GroupView) -> None:
        """Wait until the pause is so old that every member that still lives has heard of it, and reads nothing."""
        if not view.live:
            return
        said = [view.presences[one].profile.ttl if one in view.presences else 0.0 for one in view.live]
        left = view.paused_at / 1e6 + max((ttl or UNKNOWN_TTL for ttl in said), default=UNKNOWN_TTL) - view.now / 1e6
        if self._environment.monotonic() + left >= time_is_up_at():
            raise GroupBusyError(f"group {group} of {topic} is paused too short a time: its members know in {left:.1f} s", view.live)
        if left > 0:
            await anyio.sleep(left)

    @in_one_loop
    async def grow(self, topic: str, partitions: int) -> int:
        """Let a topic have this many partitions, while it is in use. A topic never shrinks: a smaller number changes nothing.

        Each message of a key is handled after the earlier ones of that key, also if the key moves to a new partition: that waits until each
        group is done with what was in the older ones before (`PartitionInfo.waits`). Call it again if it is interrupted; any producer or
        consumer that notices completes it, too.

        Args:
            topic: the topic.
            partitions: how many, up to 65,536.

        Returns:
            How many it has.

        Raises:
            SettingsError: the number is not from 1 to 65,536.
            TopicMissingError: the topic does not exist.
        """
        wanted = check_count("partitions", partitions, most=MOST_PARTITIONS)
        async with self._changes.in_order() as change:
            state = await self._asking.state(topic)
            if state.partitions < wanted:
                groups = (await self.topic(topic, partitions=[0])).groups  # every group is there
                grown = Noted("grown", partitions=((state.partitions, wanted - 1),), count=wanted)
                change.intent = intent = self._changes.intent([GroupName(topic, one) for one in groups], grown)
                state = await change.make(make_or_grow(self._broker, topic, wanted))
                await intent.end(count=state.partitions)
            return state.partitions

    @in_one_loop
    async def preview_seek(self, topic: str, group: str, to: Position, *, limit: int = 100_000) -> list[SeekPreview]:
        """Return what `seek` would do, for each partition that it would move. Nothing changes.

        What arrives or is delivered meanwhile may be counted or not. "earliest" and "latest" cost one look at each partition; for other
        positions the server counts the entries between the present position and that one.

        Args:
            topic: the topic.
            group: the group.
            to: as for `seek`.
            limit: the most entries to count, over all partitions.

        Raises:
            SettingsError: `to` is not a valid position, or names a partition that does not exist.
            TopicMissingError: the topic or the group does not exist.
        """
        left = check_count("limit", limit)
        with self._asking.limit():
            _, _, partitions = await self._asking.look(topic, group)
        previews: list[SeekPreview] = []
        for number, position in positions_of(to, len(partitions)).items():
            found, counted = await preview(self._asking, partitions[number], position, topic=topic, number=number, limit=left)
            previews.append(found)
            left -= counted
        return previews

    @in_one_loop
    async def pause(self, topic: str, group: str) -> None:
        """Stop the group's members, and any that start later, from starting messages. They keep their partitions.

        Members are notified at once, or notice with their next heartbeat if the notification is lost. Running handlers finish.

        Raises:
            TopicMissingError: the topic or the group does not exist.
        """
        async with self._changes.in_order() as change:
            name, _, _ = await self._asking.look(topic, group)
            await change.make(self._broker.do(SetPaused(name, paused=True, change=Noted("paused", by=self._changes.by))))

    @in_one_loop
    async def resume(self, topic: str, group: str) -> None:
        """Let a paused group continue.

        Raises:
            TopicMissingError: the topic or the group does not exist.
        """
        async with self._changes.in_order() as change:
            name, _, _ = await self._asking.look(topic, group)
            await change.make(self._broker.do(SetPaused(name, paused=False, change=Noted("resumed", by=self._changes.by))))

    @in_one_loop
    async def delete_group(self, topic: str, group: str, *, force: bool = False) -> None:
        """Delete a group: its position, pending messages, retries and dead letters. The messages stay in the topic.

        Args:
            topic: the topic.
            group: the group.
            force: delete the group even if members are alive. They lose their partitions at the next heartbeat. Members that continue
                create the group again, from the start position in their settings.

        Raises:
            GroupBusyError: members are alive. Nothing was deleted.
            TopicMissingError: the topic or the group does not exist.
        """
        async with self._changes.in_order() as change:
            try:
                name, _, partitions = await self._asking.look(topic, group)
            except TopicMissingError:
                # An administrator of an older version has left its history behind.
                with contextlib.suppress(ServerError):
                    await change.make(self._broker.do(Disband(name_of(topic, group), force=False)))
                raise
            change.intent = intent = self._changes.intent(name, Noted("deleted"))
            live = await change.make(self._broker.do(Disband(name, force=force, keeps_history=True)))
            if live and not force:
                await intent.withdraw()
                raise GroupBusyError(f"group {group} of {topic} has {len(live)} live member(s): stop them first", live)
            await change.make(self._broker.do_each([DropGroup(name, number) for number in range(len(partitions))]))
            await change.make(self._broker.do(DropHistory(name)))

    @in_one_loop
    async def delete_topic(self, topic: str, *, force: bool = False) -> None:
        """Delete a topic completely: its messages, delayed messages, deduplication marks and groups.

        Stop the topic's producers first: redisaq does not track them, and one that continues creates the topic again. The call scans every
        key of the server once.

        Args:
            topic: the topic.
            force: delete the topic even if members of its groups are alive.

        Raises:
            GroupBusyError: members of a group are alive. Nothing was deleted.
            TopicMissingError: the topic does not exist.
        """
        async with self._changes.in_order() as change:
            topic = check_name("topic", topic)
            info = await self.topic(topic)
            names = [GroupName(topic, group) for group in info.groups]
            if not force:
                live = [member for name in names for member in (await self._asking.do(ViewGroup(name))).live]
                if live:
                    raise GroupBusyError(f"groups of {topic} have {len(live)} live member(s): stop them first", live)
            change.intent = self._changes.intent(names, Noted("topic deleted"))
            for name in names:
                await change.make(self._broker.do(Disband(name, force=True, keeps_history=True)))
            await change.make(self._broker.do(DropTopic(topic)))

    @in_one_loop
    async def history(self, topic: str, group: str, *, count: int = PAGE, before: str | None = None) -> list[HistoryEntry]:
        """Return what happened in a group, the latest first: members that came and went, and what administrators did.

        The group keeps about the last 1,000 changes. What an administrator does in several steps is noted before the first one, and that
        note is replaced at the end. So a call that still works, or was interrupted, is there as `HistoryEntry.unfinished`, even if its
        process is gone. A deletion takes the history with it. Members and administrators of older versions write none.

        Args:
            topic: the topic.
            group: the group.
            count: the most changes to return.
            before: the `entry_id` of a change: return those before it. None: the latest.

        Raises:
            SettingsError: `before` is not the id of a change.
        """
        name, count = name_of(topic, group), check_count("count", count)
        if before is not None and not is_id(check_text("before", before).encode()):
            raise SettingsError("before must be the entry_id of a change")
        with self._asking.limit():
            found = await self._asking.do(ReadHistory(name, count, b"" if before is None else before.encode()))
        return [history_entry(one.entry_id, one.change) for one in found]


def _entry_id(name: str, entry_id: str | None) -> bytes:
    """Return an entry's id for a step; b"" for None."""
    if entry_id is not None and not is_id(check_text(name, entry_id).encode()):
        raise SettingsError(f"{name} must be an entry id, such as 1700000000000-0")
    return b"" if entry_id is None else entry_id.encode()


def _decoder(topic: str, deserializer: Deserializer | None) -> MessageDecoder:
    if deserializer is not None:
        check_plain("deserializer", deserializer)
    return MessageDecoder(topic, deserializer)
