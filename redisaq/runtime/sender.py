"""Sends one producer's messages, effectively once over broken connections (E).

In: prepared messages, from any task. Out: nothing, once the server has them all; or an error that names those whose fate is unknown.

Before anything is sent, an anchor is known for each stream: an id that stood there (E2). When the connection breaks under an append,
whether it happened cannot be
told from here. So the connection is killed, by what the server knows it by, lest the append runs late (E1); then the streams are read
from the anchors on, and what is missing is sent
again, in order (E4). Meanwhile nothing later of this producer passes. If trimming has taken the evidence, nobody can tell any more:
AmbiguousEnqueueError, never a guess.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import anyio

from redisaq.brokers.base import Broker, ReaderMark, TopicState
from redisaq.brokers.producing import Delayed
from redisaq.brokers.retention import Terms
from redisaq.core.backoff import full_jitter
from redisaq.core.partitioner import RoundRobin, partition_for
from redisaq.core.retention import anchor_age
from redisaq.environment import Environment
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, QueueFull
from redisaq.runtime.topics import make_or_grow

Prepared = tuple[str, str | None, list[bytes]]
"""A message's id, its key, its fields."""

Placed = tuple[int, str, list[bytes]]
"""A message's partition, its id, its fields: it stays there, however often it is sent (E6)."""

Step = Callable[[Sequence[Placed]], Awaitable[list[bytes | None]]]
"""Sends messages; answers None for each whose stream is missing."""

FRESH = 0.5  # seconds for which the known partition count is trusted: an increase reaches a running producer within this time
FIRST_POLL, LAST_POLL = 0.02, 0.5  # seconds between two looks at a full partition


class Begun(NamedTuple):
    """A call whose first try has not done it all: what is left, when it began; where that broke, the anchors before it, and the error."""

    left: list[Placed]
    began_at: float
    anchors: dict[int, bytes]
    broken: ConnectionFailed | None


class Sender:
    """See the module."""

    def __init__(
        self,
        topic: str,
        *,
        init_partitions: int,
        maxlen: int | None,
        approximate: bool,
        max_backlog: int | None,
        terms: Terms,
    ) -> None:
        """Take where to and how; see Producer."""
        self._topic = topic
        self._init_partitions = init_partitions
        self._maxlen = maxlen
        self._approximate = approximate
        self._max_backlog = max_backlog
        self._terms = terms
        self._broker: Broker
        self._round_robin: RoundRobin | None = None
        self._environment = Environment()
        self._checked_at = 0.0
        self._anchors: dict[int, bytes] = {}
        self._anchors_until = 0.0  # where entries are trimmed: when they are too old to begin a call with (E3)
        self._recoveries = 0
        self._recovered: anyio.Event | None = None
        self.state: TopicState | None = None
        self.retried = 0

    # -- opening -------------------------------------------------------------------------------------------------------------------

    async def open(self, broker: Broker, environment: Environment) -> TopicState:
        """Reach the server and make the topic, or let it grow to what it should have."""
        self._broker = broker
        await self._broker.connect()
        state = await make_or_grow(self._broker, self._topic, self._init_partitions, terms=self._terms)
        self._environment = environment
        if self._round_robin is None:  # at random: of many producers that send one message each, not all are to fill partition 0
            self._round_robin = RoundRobin(environment.random.randrange(1 << 16))
        self._checked_at = environment.clock()
        self.state = state
        return state

    def close(self) -> None:
        """Forget what was seen: the next sending opens anew."""
        self.state = None
        self._anchors.clear()
        self._let_pass()

    # -- sending -------------------------------------------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Prepared]) -> None:
        """Append them all, in order, over as many tries as that takes within `send_timeout`.

        Raises:
            ConnectionFailed: the server could not be reached in time; nothing of what is left was appended.
            AmbiguousEnqueueError: it cannot be told whether what is left was appended.
            QueueFull: a partition stayed full.
        """
        # Nothing is in the way, as nearly always: one try, without what the others need.
        state, now = self.state, self._environment.clock()
        fresh = state is not None and 0 <= now - self._checked_at < FRESH and len(self._anchors) >= state.partitions
        fresh = fresh and (now < self._anchors_until or state is None or not state.acked)
        if state is None or not fresh or self._recovered is not None or self._max_backlog is not None:
            await self._send(messages, self._append_now)
            return
        placed = self._place(messages, state.partitions)
        anchors = self._anchors_of(placed)
        try:
            answers = await self._append_now(placed)
        except ConnectionFailed as error:
            await self._send((), self._append_now, begun=Begun(placed, now, anchors, error))
            return
        if None in answers:
            left = await self._make_again(placed, answers, state.partitions)
            self.retried += 1
            await self._send((), self._append_now, begun=Begun(left, now, anchors, None))

    async def delay(self, messages: Sequence[Prepared], due: int) -> None:
        """Keep them all until `due` (server time, microseconds), as `send` appends them."""

        async def keep(placed: Sequence[Placed]) -> list[bytes | None]:
            # A microsecond apart, so that they come in the order of the call.
            delayed = [Delayed(partition, fields[1], due + place, fields) for place, (partition, _, fields) in enumerate(placed)]
            return [b"" if kept else None for kept in await self._broker.delay(self._topic, delayed)]

        await self._send(messages, keep)

    async def send_once(self, message: Prepared, *, dedup_id: str, window: float, due: int | None) -> str:
        """Append or delay one message unless `dedup_id` was used; return the id of the message that stands (E7).

        Without a key the id itself says which partition, so that every call with it comes to the same one. What was sent may be repeated
        as long as the mark is sure to stand; with a shorter window it is looked for, as without a mark (E1, E2).
        """
        msg_id, key, fields = message
        standing = b""

        async def append(placed: Sequence[Placed]) -> list[bytes | None]:
            nonlocal standing
            answer = await self._broker.append_once(
                self._topic,
                placed[0][0],
                fields,
                dedup_id=dedup_id,
                window=window,
                due=due,
                maxlen=self._maxlen,
                approximate=self._approximate,
            )
            standing = answer or b""
            return [answer]

        lasts = window >= 2 * self._terms.send_timeout
        await self._send([(msg_id, dedup_id if key is None else key, fields)], append, repeatable=lasts)
        return standing.decode() or msg_id  # no answer came: it was found where it belongs

    async def _send(self, messages: Sequence[Prepared], step: Step, *, repeatable: bool = False, begun: Begun | None = None) -> None:
        give_up_at = (self._environment.clock() if begun is None else begun.began_at) + self._terms.send_timeout
        failures = 0
        left: list[Placed] = [] if begun is None else begun.left
        placed = begun is not None
        while True:
            try:
                if begun is not None and begun.broken is not None:
                    broken, anchors, begun = begun.broken, begun.anchors, None
                    left = await self._after(broken, left, anchors, step=step, give_up_at=give_up_at)
                    if not left:
                        return
                while self._recovered is not None:  # E4: nothing later passes what is being recovered
                    await self._recovered.wait()
                partitions = await self._partitions()
                if not placed:
                    left, placed = self._place(messages, partitions), True
                if self._max_backlog is not None:
                    await self._wait_for_room(left, give_up_at)
                left = await self._take_step(left, step, partitions, repeatable=repeatable, give_up_at=give_up_at)
            except ConnectionFailed as error:
                failures += 1
                if self.state is None or not await self._pause(error, failures, give_up_at):
                    raise
            if placed and not left:
                return
            self.retried += 1

    def _place(self, messages: Sequence[Prepared], partitions: int) -> list[Placed]:
        place = (self._round_robin or RoundRobin()).next
        return [(place(partitions) if key is None else partition_for(key, partitions), msg_id, fields) for msg_id, key, fields in messages]

    async def _take_step(self, placed: list[Placed], step: Step, partitions: int, *, repeatable: bool, give_up_at: float) -> list[Placed]:
        """Return what has not been appended, since its stream is gone; the stream is made again first (E5)."""
        if self.state is not None and self.state.acked:
            await self._renew_anchors()
        if len(self._anchors) < partitions:
            await self._learn_anchors(partitions)
        anchors = self._anchors_of(placed)
        try:
            answers = await step(placed)
        except ConnectionFailed as error:
            if repeatable:
                raise
            return await self._after(error, placed, anchors, step=step, give_up_at=give_up_at)
        return [] if None not in answers else await self._make_again(placed, answers, partitions)

    def _anchors_of(self, placed: list[Placed]) -> dict[int, bytes]:
        """Return what stands now in the streams these go to (E2)."""
        return self._anchors.copy() if len(placed) > 1 else {placed[0][0]: self._anchors[placed[0][0]]}

    async def _after(
        self, error: ConnectionFailed, placed: list[Placed], anchors: dict[int, bytes], *, step: Step, give_up_at: float
    ) -> list[Placed]:
        """Return what has not been appended by a try that broke; raise the error if nothing was sent."""
        if not error.maybe_executed:
            raise error
        return await self._recover(placed, anchors, error, step=step, give_up_at=give_up_at)

    async def _make_again(self, placed: list[Placed], answers: Sequence[bytes | None], partitions: int) -> list[Placed]:
        """Make the streams again (E5); return what found none."""
        with contextlib.suppress(ConnectionFailed):  # the next try meets the missing stream again
            self.state = await self._broker.make_topic(self._topic, partitions, terms=self._terms)
        return [message for message, answer in zip(placed, answers, strict=True) if answer is None]

    async def _append_now(self, placed: Sequence[Placed]) -> list[bytes | None]:
        entries = [(partition, fields) for partition, _, fields in placed]
        answers = await self._broker.append(self._topic, entries, maxlen=self._maxlen, approximate=self._approximate)
        self._note(entries, answers)
        return answers

    def _note(self, entries: Sequence[tuple[int, list[bytes]]], answers: Sequence[bytes | None]) -> None:
        """Let what was appended be the anchors of what comes next (E2)."""
        if len(entries) == 1:
            if answers[0] is not None:
                self._anchors[entries[0][0]] = answers[0]
        else:  # of each partition the last one stays
            self._anchors.update([(entry[0], answer) for entry, answer in zip(entries, answers, strict=True) if answer is not None])

    async def _renew_anchors(self) -> None:
        """Learn anchors anew before they are so old that a call could outlive what they stand for (E2, E3)."""
        now = self._environment.clock()
        if now < self._anchors_until:
            return
        self._anchors_until = now + anchor_age(self._terms.send_timeout)  # before asking: of many tasks one asks
        known = list(self._anchors)
        try:
            anchors = await self._broker.anchors(self._topic, known) if known else []
        except BaseException:
            self._anchors_until = 0.0
            raise
        self._anchors.update({partition: anchor or b"0-0" for partition, anchor in zip(known, anchors, strict=True)})

    async def _learn_anchors(self, partitions: int) -> None:
        """Learn an id that stands in each stream of which none is known (E2)."""
        unknown = [partition for partition in range(partitions) if partition not in self._anchors]
        for partition, anchor in zip(unknown, await self._broker.anchors(self._topic, unknown), strict=True):
            self._anchors.setdefault(partition, anchor or b"0-0")

    # -- recovering ------------------------------------------------------------------------------------------------------------------

    async def _recover(
        self, placed: list[Placed], anchors: dict[int, bytes], broken: ConnectionFailed, *, step: Step, give_up_at: float
    ) -> list[Placed]:
        """Find out what of a broken append happened, and send the rest (E1 to E4); return what has no stream."""
        self._recoveries += 1
        if self._recovered is None:
            self._recovered = anyio.Event()
        try:
            return await self._recover_now(placed, anchors, broken, step=step, give_up_at=give_up_at)
        finally:
            self._recoveries -= 1
            if self._recoveries <= 0:
                self._let_pass()

    def _let_pass(self) -> None:
        if self._recovered is not None:
            self._recovered.set()
            self._recovered = None

    async def _recover_now(
        self, placed: list[Placed], anchors: dict[int, bytes], broken: ConnectionFailed, *, step: Step, give_up_at: float
    ) -> list[Placed]:
        used: list[tuple[int, str, str]] = []
        left, failures, error = placed, 0, broken
        while True:
            if error.maybe_executed and error.connection is not None and error.connection not in used:
                used.append(error.connection)  # E1: every connection that may still carry an append of ours
            failures += 1
            if self.state is None:
                raise self._ambiguous(left, "the producer was closed under the call") from broken
            if not await self._pause(error, failures, give_up_at):
                raise self._ambiguous(left, f"{error.reason}, and no answer within send_timeout") from broken
            self.retried += 1
            try:
                if not await self._broker.kill([ReaderMark(*connection) for connection in used]):
                    raise self._ambiguous(left, "the connection broke, and the server does not permit CLIENT KILL") from broken
                left = await self._missing(left, anchors)
                answers = await step(left) if left else []
                return [message for message, answer in zip(left, answers, strict=True) if answer is None]
            except ConnectionFailed as again:
                error = again

    async def _missing(self, placed: list[Placed], anchors: dict[int, bytes]) -> list[Placed]:
        """Return what is not in its stream."""
        by_partition: dict[int, list[Placed]] = defaultdict(list)
        for message in placed:
            by_partition[message[0]].append(message)
        missing: set[str] = set()
        for partition, some in by_partition.items():
            found = await self._broker.find(self._topic, partition, anchors[partition], [msg_id.encode() for _, msg_id, _ in some])
            absent = [message for message, entry_id in zip(some, found.present, strict=True) if entry_id is None]
            if absent and not found.complete:  # E2
                raise self._ambiguous(absent, "the connection broke, and trimming has taken what would tell")
            missing.update(msg_id for _, msg_id, _ in absent)
        return [message for message in placed if message[1] in missing]

    def _ambiguous(self, placed: Sequence[Placed], reason: str) -> AmbiguousEnqueueError:
        return AmbiguousEnqueueError([msg_id for _, msg_id, _ in placed], reason)

    async def _pause(self, error: ConnectionFailed, failures: int, give_up_at: float) -> bool:
        """Wait before another try; False if there is none."""
        wait = full_jitter(failures, base=0.05, most=2.0, random=self._environment.random)
        if error.permanent or self._environment.clock() + wait >= give_up_at:
            return False
        await anyio.sleep(wait)
        return True

    # -- looking ---------------------------------------------------------------------------------------------------------------------

    async def _partitions(self) -> int:
        """Return the partition count, looked up again when it was last seen too long ago."""
        now = self._environment.clock()
        if self.state is None or not 0 <= now - self._checked_at < FRESH:
            self._checked_at = now  # set before asking: of many tasks one looks
            state = await self._broker.topic(self._topic)
            if state is None or not self._stands(state):  # lost with the server's data (E5), perhaps made again by somebody else
                count = self.state.partitions if self.state else self._init_partitions
                state = await self._broker.make_topic(self._topic, count, terms=self._terms)
            self.state = state
        return self.state.partitions

    def _stands(self, state: TopicState) -> bool:
        """Tell whether the topic keeps what this producer asks (E3)."""
        return state.send_timeout >= self._terms.send_timeout and (state.acked or not self._terms.acked)

    async def _wait_for_room(self, placed: Sequence[Placed], give_up_at: float) -> None:
        """Wait until each partition may take what is meant for it (back-pressure)."""
        wanted: dict[int, int] = defaultdict(int)
        for partition, _, _ in placed:
            wanted[partition] += 1
        most, pause = self._max_backlog or 0, FIRST_POLL
        if any(count > most for count in wanted.values()):
            raise QueueFull(f"{max(wanted.values())} messages for one partition of {self._topic}: max_backlog allows {most} in all")
        while True:
            waiting = await self._broker.backlog(self._topic, list(wanted), enough=most)
            full = [partition for (partition, count), backlog in zip(wanted.items(), waiting, strict=True) if backlog + count > most]
            if not full:
                return
            if self._environment.clock() + pause >= give_up_at:
                raise QueueFull(f"partition {full[0]} of {self._topic} still holds {max(waiting)} waiting messages (max_backlog {most})")
            await anyio.sleep(pause)
            pause = min(LAST_POLL, pause * 2)
