"""Sends one producer's messages, effectively once over broken connections (E).

In: prepared messages, from any task. Out: nothing, once the server has them all; or an error that names those whose fate is unknown.

Before anything is sent, an anchor is known for each stream: an id that stood there (E2). When the connection breaks under an append,
whether it happened cannot be told from here. So the connection is killed, by what the server knows it by, so that the append does not run
late (E1); then the streams are read from the anchors on, and what is missing is sent again, in order (E4). Meanwhile nothing later of this
producer passes. If trimming has taken the evidence, nobody can tell any more: AmbiguousEnqueueError, never a guess.

Every call ends within `send_timeout`, whether the server answers or not: what is asked of it is limited by `time_limit`, what is waited for
here by the same moment. A connection that says nothing for half of that breaks, so the other half is left to kill, look and send again.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

import anyio

from redisaq.brokers.base import Broker, ReaderMark, TopicState
from redisaq.brokers.producing import Delayed
from redisaq.brokers.retention import Terms
from redisaq.brokers.topics import make_or_grow
from redisaq.core.partitioner import RoundRobin, partition_for
from redisaq.core.retention import anchor_age
from redisaq.core.retry import full_jitter
from redisaq.environment import Environment, time_is_up_at, time_limit
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, QueueFull, ServerError

Prepared = tuple[str, str | None, list[bytes]]
"""A message's id, its key, its fields."""

Placed = tuple[int, str, list[bytes]]
"""A message's partition, its id, its fields: it stays there, however often it is sent (E6)."""

Step = Callable[[Sequence[Placed]], Awaitable[list[bytes | None]]]
"""Sends messages; answers None for each whose stream is missing."""

FRESH = 0.5  # seconds for which the known partition count is trusted: an increase reaches a running producer within this time
FIRST_POLL, LAST_POLL = 0.02, 0.5  # seconds between two looks at a full partition


class Call:
    """A call that its first try has not done, or could not begin.

    Attributes:
        step: how its messages are sent.
        give_up_at: when its time is up.
        repeatable: what was sent may simply be sent again (E7).
        messages: as they were prepared; None once they are placed.
        left: what is not known to be in its stream.
        doubtful: what is left may be in its stream all the same.
        unknown: what is not left, since nobody can tell any more whether it is in its stream (E2).
        broken: why a try broke that is to be recovered from; None otherwise.
        anchors: of before that try.
    """

    __slots__ = ("anchors", "broken", "doubtful", "give_up_at", "left", "messages", "repeatable", "step", "unknown")

    def __init__(self, step: Step, give_up_at: float, messages: Sequence[Prepared] | None = None, *, repeatable: bool = False) -> None:
        self.step = step
        self.give_up_at = give_up_at
        self.repeatable = repeatable
        self.messages = messages
        self.left: list[Placed] = []
        self.doubtful = False
        self.unknown: list[Placed] = []
        self.broken: ConnectionFailed | None = None
        self.anchors: dict[int, bytes] = {}

    def answered(self, left: list[Placed], answers: Sequence[bytes | None]) -> None:
        """Take the answers of a try: what found no stream is left.

        Raises:
            ServerError: of one partition a later message was accepted, and an earlier one was not: it cannot be sent behind it (C3).
        """
        self.doubtful = False
        refused: dict[int, None] = {}
        for (partition, _, _), answer in zip(left, answers, strict=True):
            if answer is None:
                refused[partition] = None
            elif partition in refused:
                reason = f"NOSTREAM the stream of partition {partition} was made while a call was appending to it: the order would be lost"
                raise ServerError(reason, appended=answers)
        self.left = [message for message, answer in zip(left, answers, strict=True) if answer is None]


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
        self._checked_at = environment.monotonic()
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
            AmbiguousEnqueueError: it cannot be told whether the messages that it names were appended.
            QueueFull: a partition stayed full.
        """
        # Nothing is in the way, as nearly always: one try, without what the others need.
        state, now = self.state, self._environment.monotonic()
        fresh = state is not None and 0 <= now - self._checked_at < FRESH and len(self._anchors) >= state.partitions
        fresh = fresh and (now < self._anchors_until or state is None or not state.acked)
        if state is None or not fresh or self._recovered is not None or self._max_backlog is not None:
            await self._finish(Call(self._append_now, self._give_up_at(now), messages))
            return
        placed = self._place(messages, state.partitions)
        anchors = self._anchors_of(placed)
        try:
            answers = await self._append_now(placed)
        except ConnectionFailed as error:
            call = Call(self._append_now, self._give_up_at(now))
            call.left, call.anchors = placed, anchors
            self._note_break(call, error)
            await self._finish(call, error)
            return
        if None in answers:
            call = Call(self._append_now, self._give_up_at(now))
            call.answered(placed, answers)
            await self._make_again(state.partitions, call)
            self.retried += 1
            await self._finish(call)

    async def delay(self, messages: Sequence[Prepared], due: int) -> None:
        """Keep them all until `due` (server time, microseconds), as `send` appends them."""

        async def keep(placed: Sequence[Placed]) -> list[bytes | None]:
            # A microsecond apart, so that they come in the order of the call.
            delayed = [Delayed(partition, fields[1], due + place, fields) for place, (partition, _, fields) in enumerate(placed)]
            return [b"" if kept else None for kept in await self._broker.delay(self._topic, delayed)]

        await self._finish(Call(keep, self._give_up_at(self._environment.monotonic()), messages))

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
        messages = [(msg_id, dedup_id if key is None else key, fields)]
        await self._finish(Call(append, self._give_up_at(self._environment.monotonic()), messages, repeatable=lasts))
        return standing.decode("utf-8", "backslashreplace") or msg_id  # no answer came: it was found where it belongs

    async def grow(self, partitions: int) -> int:
        """Let the topic grow to so many partitions; return how many it has. Asked again over broken connections: it never shrinks.

        Raises:
            ConnectionFailed: the server could not be reached within `send_timeout`.
            AmbiguousEnqueueError: nor did it answer, and may have done it.
        """
        give_up_at = self._give_up_at(self._environment.monotonic())
        failures, doubtful = 0, False
        with time_limit(give_up_at - self._environment.monotonic()):
            while True:
                try:
                    self.state = state = await self._broker.grow_topic(self._topic, partitions)
                except ConnectionFailed as error:
                    failures += 1
                    doubtful = doubtful or error.maybe_executed
                    if self.state is None or not await self._pause(error, failures, give_up_at):
                        if doubtful:
                            raise AmbiguousEnqueueError((), f"{error.reason}, and no answer within send_timeout") from error
                        raise
                    self.retried += 1
                else:
                    return state.partitions

    def _give_up_at(self, began_at: float) -> float:
        """Return when the time of a call is up that began then: it may be within the time of another."""
        return min(began_at + self._terms.send_timeout, time_is_up_at())

    async def _finish(self, call: Call, error: ConnectionFailed | None = None) -> None:
        """Go on with a call until all of it is done, or its time is up; `error` is what its first try broke with."""
        failures = 0
        with time_limit(call.give_up_at - self._environment.monotonic()):
            while True:
                try:
                    if error is not None and call.broken is None:
                        raise error
                    error = None
                    await self._go_on(call)
                except ConnectionFailed as again:
                    error = None
                    failures += 1
                    if self.state is None or not await self._pause(again, failures, call.give_up_at):
                        self._fail(call, again)
                if call.messages is None and not call.left:
                    break
                self.retried += 1
        if call.unknown:
            raise self._ambiguous(call.unknown, "the connection broke, and trimming has taken what would tell")

    async def _go_on(self, call: Call) -> None:
        """Take a call one try further."""
        if call.broken is not None:
            await self._recover(call)
            if not call.left:
                return
        await self._let_recover(call.give_up_at)
        partitions = await self._partitions()
        if call.messages is not None:
            call.left, call.messages = self._place(call.messages, partitions), None
        if self._max_backlog is not None:
            await self._wait_for_room(call.left, call.give_up_at)
        await self._take_step(call, partitions)

    def _fail(self, call: Call, error: ConnectionFailed) -> NoReturn:
        """Raise what a call ends with whose time is up: the error, if nothing of what is left can have been appended."""
        uncertain = call.unknown + (call.left if call.doubtful else [])
        if not uncertain:
            raise error.unsent() from error
        if self.state is None:
            raise self._ambiguous(uncertain, "the producer was closed under the call") from error
        raise self._ambiguous(uncertain, f"{error.reason}, and no answer within send_timeout") from error

    async def _let_recover(self, give_up_at: float) -> None:
        """Wait while an earlier call is being recovered: nothing later passes it (E4)."""
        while self._recovered is not None:
            with anyio.move_on_after(give_up_at - self._environment.monotonic()) as waiting:
                await self._recovered.wait()
            if waiting.cancelled_caught:
                reason = "an earlier call of this producer has still not been looked for: nothing was sent"
                raise ConnectionFailed(f"topic {self._topic}", reason, silent=True)

    def _place(self, messages: Sequence[Prepared], partitions: int) -> list[Placed]:
        place = (self._round_robin or RoundRobin()).next
        if len(messages) == 1:  # as most are: a comprehension is a call more
            ((msg_id, key, fields),) = messages
            return [(place(partitions) if key is None else partition_for(key, partitions), msg_id, fields)]
        return [(place(partitions) if key is None else partition_for(key, partitions), msg_id, fields) for msg_id, key, fields in messages]

    async def _take_step(self, call: Call, partitions: int) -> None:
        """Send what is left; make the streams again that are gone (E5)."""
        if self.state is not None and self.state.acked:
            await self._renew_anchors()
        if len(self._anchors) < partitions:
            await self._learn_anchors(partitions)
        call.anchors = self._anchors_of(call.left)
        try:
            answers = await call.step(call.left)
        except ConnectionFailed as error:
            self._note_break(call, error)
            if call.broken is None:
                raise
            await self._recover(call)
            return
        call.answered(call.left, answers)
        if call.left:
            await self._make_again(partitions, call)

    def _anchors_of(self, placed: list[Placed]) -> dict[int, bytes]:
        """Return what stands now in the streams these go to (E2)."""
        return self._anchors.copy() if len(placed) > 1 else {placed[0][0]: self._anchors[placed[0][0]]}

    def _note_break(self, call: Call, error: ConnectionFailed) -> None:
        """Note that a try broke: if anything of it was sent, it may be there."""
        if error.maybe_executed:
            call.doubtful = True
            if not call.repeatable:
                call.broken = error

    async def _make_again(self, partitions: int, call: Call) -> None:
        """Make the streams again that what is left did not find (E5)."""
        with contextlib.suppress(ConnectionFailed), time_limit(call.give_up_at - self._environment.monotonic()):
            # If this breaks, the next try meets the missing stream again.
            self.state = await self._broker.make_topic(self._topic, partitions, terms=self._terms)

    async def _append_now(self, placed: Sequence[Placed]) -> list[bytes | None]:
        if len(placed) == 1:
            ((partition, _, fields),) = placed
            entries = [(partition, fields)]
        else:
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
        now = self._environment.monotonic()
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

    async def _recover(self, call: Call) -> None:
        """Find out what of a broken try happened, and send the rest (E1 to E4); what has no stream is left."""
        self._recoveries += 1
        if self._recovered is None:
            self._recovered = anyio.Event()
        try:
            await self._recover_now(call)
        finally:
            self._recoveries -= 1
            if self._recoveries <= 0:
                self._let_pass()

    def _let_pass(self) -> None:
        if self._recovered is not None:
            self._recovered.set()
            self._recovered = None

    async def _recover_now(self, call: Call) -> None:
        error, call.broken = call.broken, None
        used: list[tuple[int, str, str]] = []
        failures = 0
        while error is not None:
            if error.maybe_executed and error.connection is not None and error.connection not in used:
                used.append(error.connection)  # E1: every connection that may still carry an append of ours
            failures += 1
            if self.state is None or not await self._pause(error, failures, call.give_up_at):
                self._fail(call, error)
            self.retried += 1
            try:
                if not await self._broker.kill([ReaderMark(*connection) for connection in used]):
                    uncertain = call.unknown + call.left
                    raise self._ambiguous(uncertain, "the connection broke, and the server does not permit CLIENT KILL") from error
                await self._find(call)
                if call.left:
                    await self._send_again(call)
            except ConnectionFailed as again:
                error = again
            else:
                return

    async def _send_again(self, call: Call) -> None:
        try:
            answers = await call.step(call.left)
        except ConnectionFailed as error:
            call.doubtful = error.maybe_executed
            raise
        call.answered(call.left, answers)

    async def _find(self, call: Call) -> None:
        """Look for what is left of a call; what is not in its stream stays left, unless that cannot be told (E2)."""
        by_partition: dict[int, list[Placed]] = defaultdict(list)
        for message in call.left:
            by_partition[message[0]].append(message)
        missing: set[str] = set()
        unknown: set[str] = set()
        for partition, some in by_partition.items():
            found = await self._broker.find(self._topic, partition, call.anchors[partition], [msg_id.encode() for _, msg_id, _ in some])
            absent = {msg_id for (_, msg_id, _), entry_id in zip(some, found.present, strict=True) if entry_id is None}
            (missing if found.complete else unknown).update(absent)
        call.unknown += [message for message in call.left if message[1] in unknown]
        call.left = [message for message in call.left if message[1] in missing]
        call.doubtful = False  # their connections are killed, and they are not there

    def _ambiguous(self, placed: Sequence[Placed], reason: str) -> AmbiguousEnqueueError:
        return AmbiguousEnqueueError([msg_id for _, msg_id, _ in placed], reason)

    async def _pause(self, error: ConnectionFailed, failures: int, give_up_at: float) -> bool:
        """Wait before another try; False if there is none."""
        wait = full_jitter(failures, base=0.05, most=2.0, random=self._environment.random)
        if error.permanent or self._environment.monotonic() + wait >= give_up_at:
            return False
        await anyio.sleep(wait)
        return True

    # -- looking ---------------------------------------------------------------------------------------------------------------------

    async def _partitions(self) -> int:
        """Return the partition count, looked up again when it was last seen too long ago."""
        now = self._environment.monotonic()
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
            if self._environment.monotonic() + pause >= give_up_at:
                raise QueueFull(f"partition {full[0]} of {self._topic} still holds {max(waiting)} waiting messages (max_backlog {most})")
            await anyio.sleep(pause)
            pause = min(LAST_POLL, pause * 2)
