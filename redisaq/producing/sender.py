"""Sends one producer's messages: carries out what redisaq.core.enqueueing decides, so that each message is appended once, in order (E).

Input: prepared messages, from any task. Output: nothing, once the server has all of them; or an error that names those whose fate is
unknown.

A call that meets no trouble is one step at the broker. Any other call becomes an Enqueue: the sender takes its steps one after the other,
and reports each result to it, until it is over.

Every call ends within `send_timeout`, whether the server answers or not. `time_limit` bounds what the broker does, and the same moment
bounds the waits here. A connection that is silent for half of that time breaks, so the other half is left to kill, look and send again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence

import anyio
from msgspec import structs

from redisaq.brokers.growth import make_or_grow, publish_again, settle_growth
from redisaq.brokers.steps import Broker, producing, topics
from redisaq.brokers.steps.producing import Delayed
from redisaq.brokers.steps.topics import Terms, TopicState
from redisaq.brokers.terms import ReaderMark
from redisaq.core.enqueueing import (
    CLOSED,
    HELD_UP,
    SEALED,
    Answer,
    Enqueue,
    Find,
    Kill,
    Knowledge,
    LearnAnchors,
    MakeTopic,
    Outgoing,
    Pause,
    ReadTopic,
    Sealed,
    Send,
    Step,
    WaitForRoom,
    WaitForTurn,
)
from redisaq.core.partitioner import RoundRobin, partition_for
from redisaq.core.retry import full_jitter
from redisaq.environment import Environment, time_is_up_at, time_limit
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, QueueFull, RedisaqError, ServerError

Prepared = tuple[str, str | None, list[bytes]]
"""A message's id, key and fields."""

Placed = tuple[int, str, list[bytes]]
"""A message's partition, id and fields."""

Way = Callable[[Sequence[Placed], TopicState], Awaitable[Sequence[bytes | Sealed | None]]]
"""Sends messages that were placed when the topic had this state; returns an Answer for each."""

FORMER = 3600.0
"""Seconds by which the clocks of a producer and the server may differ, where it only costs a look if they do not."""

FIRST_POLL, LAST_POLL = 0.02, 0.5  # seconds between two looks at a full partition
NOTE_AGAIN = 10.0  # seconds after which a producer that is held up says so once more


class Sender:
    """Sends one producer's messages."""

    def __init__(
        self,
        topic: str,
        *,
        init_partitions: int,
        maxlen: int | None,
        approximate: bool,
        max_backlog: int | None,
        terms: Terms,
        confirmed: bool,
    ) -> None:
        """Keep the settings; nothing is connected yet.

        Args:
            topic: the topic to send to.
            init_partitions: how many partitions the topic gets if it does not exist.
            maxlen: how many entries a stream keeps; None for all.
            approximate: trim whole nodes of a stream only.
            max_backlog: how many entries of a partition may wait for its slowest group; None for any number.
            terms: what the producer asks of the topic.
            confirmed: the broker waits for a replica (C7), so that what is found must be waited for, too.
        """
        self._confirmed = confirmed
        self._topic = topic
        self._init_partitions = init_partitions
        self._maxlen = maxlen
        self._approximate = approximate
        self._max_backlog = max_backlog
        self._terms = terms
        self._broker: Broker
        self._round_robin: RoundRobin | None = None
        self._environment = Environment()
        self._knowledge = self._nothing_known()
        # For each enqueue that others wait for: the event to set once it no longer blocks these partitions, or is placed again (E4).
        self._waiting: dict[Enqueue, tuple[anyio.Event, frozenset[int], int]] = {}
        self.state: TopicState | None = None
        self._states: dict[int, TopicState] = {}  # by generation: what is sent is named as when it was placed (E6)
        self.retried = 0
        self._note_after = -math.inf  # when to say again that this producer is held up

    # -- opening -------------------------------------------------------------------------------------------------------------------

    async def open(self, broker: Broker, environment: Environment) -> TopicState:
        """Connect, and make the topic, or grow it to at least `init_partitions`.

        Raises:
            ConnectionFailed: the server could not be reached, or `close` was called meanwhile.
        """
        knowledge = self._knowledge
        self._broker = broker
        await self._broker.connect()
        state = await make_or_grow(self._broker, self._topic, self._init_partitions, terms=self._terms)
        if self._knowledge is not knowledge:
            raise ConnectionFailed(f"topic {self._topic}", CLOSED)
        self._environment = environment
        if self._round_robin is None:  # random, so that many producers that send one message each do not all fill partition 0
            self._round_robin = RoundRobin(environment.random.randrange(1 << 16))
        self._learn(state)
        self._knowledge.topic_is(state.generation, state.partitions, environment.monotonic(), acked=state.acked)
        return state

    def _learn(self, state: TopicState) -> None:
        self.state = self._states[state.generation] = state

    def close(self) -> None:
        """Forget what was learned: the next call opens again. Calls under way end at their next step."""
        self.state = None
        self._knowledge = self._nothing_known()
        waiting, self._waiting = self._waiting, {}
        for event, _, _ in waiting.values():
            event.set()

    def _nothing_known(self) -> Knowledge:
        return Knowledge(self._topic, self._place_one, self._terms.send_timeout, limited=self._max_backlog is not None)

    # -- sending -------------------------------------------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Prepared], way: Way | None = None, *, repeatable: bool = False) -> None:
        """Send all messages, in order, trying as often as `send_timeout` allows.

        Args:
            messages: at least one.
            way: how to send them; None: append them.
            repeatable: a mark at the server makes a second try harmless (E7).

        Raises:
            ConnectionFailed: the server could not be reached in time. Messages that it does not show as appended were not appended.
            AmbiguousEnqueueError: the messages that it names may or may not have been appended.
            ServerError: the server refused a message.
            QueueFull: a partition stayed full.
        """
        way = way or self._append
        knowledge, state, now = self._knowledge, self.state, self._environment.monotonic()
        if state is None or now >= knowledge.calm_until:
            unplaced = [Outgoing(msg_id, key, fields) for msg_id, key, fields in messages]
            await self._finish(Enqueue(knowledge, unplaced, self._give_up_at(now), repeatable=repeatable), way)
            return
        # The usual case, without trouble: one try, and no Enqueue.
        placed = self._place(messages, state.partitions)
        run, anchors = knowledge.run, knowledge.anchors
        anchors = anchors.copy() if len(placed) > 1 else {placed[0][0]: anchors[placed[0][0]]}
        knowledge.number = number = knowledge.number + 1
        trouble: ConnectionFailed | ServerError | None = None
        answers: Sequence[bytes | Sealed | None] = ()
        try:
            answers = await way(placed, state)
        except (ConnectionFailed, ServerError) as error:
            trouble = error
        if trouble is None and (all(answers) or (None not in answers and SEALED not in answers)):  # b"": there, without an entry
            return
        outgoing = [Outgoing(*message, partition) for message, (partition, _, _) in zip(messages, placed, strict=True)]
        enqueue = Enqueue(knowledge, outgoing, self._give_up_at(now), repeatable=repeatable)
        enqueue.already_sent(number, state.generation, anchors, run)
        self._report_sent(enqueue, trouble or answers, run)
        await self._finish(enqueue, way)

    async def delay(self, messages: Sequence[Prepared], due: int) -> None:
        """Keep all messages until `due` (the server's time, in microseconds), with the guarantees of `send`."""

        async def keep(placed: Sequence[Placed], state: TopicState) -> list[bytes | None]:
            # One microsecond apart, so that they keep the order of the call.
            delayed = [Delayed(partition, fields[1], due + place, fields) for place, (partition, _, fields) in enumerate(placed)]
            return [b"" if kept else None for kept in await producing.delay(self._broker, self._topic, delayed, cuts=state.cuts)]

        await self.send(messages, keep)

    async def send_once(self, message: Prepared, *, dedup_id: str, window: float, due: int | None) -> str:
        """Append or delay one message unless `dedup_id` was used; return the id of the message that the mark names (E7).

        Without a key, `dedup_id` selects the partition, so that every call with it reaches the same one. As long as the mark is sure to
        last, sending again is safe. With a shorter window, the sender looks for the message first, as without a mark (E1, E2).
        """
        msg_id, key, fields = message
        standing = b""

        async def append(placed: Sequence[Placed], state: TopicState) -> list[bytes | Sealed | None]:
            nonlocal standing
            ((partition, _, _),) = placed
            knowledge, broken = self._knowledge, self._knowledge.broken
            standing = await self._used_before(state, message, dedup_id, window) or b""
            if standing:
                return [b""]
            if knowledge.broken != broken:  # E4: what another call lacks may come first
                raise ConnectionFailed(f"topic {self._topic}", HELD_UP)
            answer = await self._broker.do(
                producing.AppendOnce(
                    self._topic,
                    partition,
                    fields,
                    dedup_id=dedup_id,
                    window=window,
                    due=due,
                    maxlen=self._maxlen,
                    approximate=self._approximate,
                    cuts=state.cuts,
                )
            )
            standing = answer or b""
            await self._confirm(partition)  # a mark that was there may be new
            return [SEALED if answer == producing.SEALED else None if answer is None else b""]

        lasts = window >= 2 * self._terms.send_timeout
        await self.send([(msg_id, dedup_id if key is None else key, fields)], append, repeatable=lasts)
        return standing.decode("utf-8", "backslashreplace") or msg_id  # no answer came: a look found the message

    async def _used_before(self, state: TopicState, message: Prepared, dedup_id: str, window: float) -> bytes | None:
        """Return the message with which `dedup_id` was used at a former place of its key, if the topic has grown within the window (E7).

        A place that was cut gets no marks any more, so what is not there now never will be.
        """
        if len(state.history) < 2 or self._environment.wall_clock() - state.grown / 1000 > window + FORMER:  # noqa: PLR2004 -- it has grown
            return None
        _, key, _ = message
        *former, present = (partition_for(dedup_id if key is None else key, count) for count in state.history)
        places = dict.fromkeys(one for one in former if one != present)
        marks = await self._broker.do_each([producing.ReadMark(self._topic, partition, dedup_id) for partition in places])
        for partition, mark in zip(places, marks, strict=True):
            if mark is not None:
                await self._confirm(partition)
                return mark
        return None

    async def grow(self, partitions: int) -> int:
        """Grow the topic to this many partitions; return how many it has.

        Repeats the step over broken connections, since a topic never shrinks.

        Raises:
            ConnectionFailed: the server could not be reached within `send_timeout`.
            AmbiguousEnqueueError: the server did not answer within `send_timeout`, and may have grown the topic.
        """
        give_up_at = self._give_up_at(self._environment.monotonic())
        failures, doubtful = 0, False
        with time_limit(give_up_at - self._environment.monotonic()):
            while True:
                try:
                    state = await make_or_grow(self._broker, self._topic, partitions)
                except ConnectionFailed as error:
                    failures += 1
                    doubtful = doubtful or error.maybe_executed
                    if self.state is None or error.permanent or not await self._pause(failures, give_up_at):
                        if doubtful:
                            raise AmbiguousEnqueueError((), f"{error.reason}, and no answer within send_timeout") from error
                        raise
                    self.retried += 1
                else:
                    self._learn(state)
                    self._knowledge.topic_is(state.generation, state.partitions, self._environment.monotonic(), acked=state.acked)
                    return state.partitions

    def _give_up_at(self, began_at: float) -> float:
        """Return when the time of a call that began then is up; an enclosing time limit may end it earlier."""
        return min(began_at + self._terms.send_timeout, time_is_up_at())

    def _place_one(self, key: str | None, partitions: int) -> int:
        if key is not None:
            return partition_for(key, partitions)
        return (self._round_robin or RoundRobin()).next(partitions)

    def _place(self, messages: Sequence[Prepared], partitions: int) -> list[Placed]:
        place = (self._round_robin or RoundRobin()).next
        if len(messages) == 1:  # the most frequent case: a comprehension costs one more call
            ((msg_id, key, fields),) = messages
            return [(place(partitions) if key is None else partition_for(key, partitions), msg_id, fields)]
        return [(place(partitions) if key is None else partition_for(key, partitions), msg_id, fields) for msg_id, key, fields in messages]

    async def _append(self, placed: Sequence[Placed], state: TopicState) -> list[bytes | None]:
        knowledge, broker = self._knowledge, self._broker
        if len(placed) == 1:
            ((partition, _, fields),) = placed
            entries = [(partition, fields)]
        else:
            entries = [(partition, fields) for partition, _, fields in placed]
        cuts = state.cuts if state.history else 0  # a topic that has never grown does not pay for the call
        answers = await broker.append(self._topic, entries, maxlen=self._maxlen, approximate=self._approximate, cuts=cuts)
        # What was appended is the next anchor (E2). No server run occurs twice: if it is still the run that the other anchors are from, it
        # also answered this call.
        if knowledge.run == broker.run_id:
            if len(entries) == 1:
                if answers[0] is not None:
                    knowledge.anchors[entries[0][0]] = answers[0]
            else:  # of each partition, the last one remains
                knowledge.anchors.update([(entry[0], answer) for entry, answer in zip(entries, answers, strict=True) if answer is not None])
        return answers

    # -- in trouble ------------------------------------------------------------------------------------------------------------------

    async def _finish(self, enqueue: Enqueue, way: Way) -> None:
        """Take the steps of an enqueue until it is over. If this is cancelled, some of its messages may have been appended."""
        try:
            with time_limit(enqueue.give_up_at - self._environment.monotonic()):
                while (step := self._next(enqueue)) is not None:
                    try:
                        await self._take(enqueue, step, way)
                    except ConnectionFailed as error:
                        enqueue.broke(error)
                    except RedisaqError as error:  # messages of earlier tries may be there all the same
                        enqueue.give_up(error)
                    self._let_pass(enqueue)
        finally:
            enqueue.leave()
            self._let_pass(enqueue)
        if enqueue.error is not None:
            raise enqueue.error

    def _next(self, enqueue: Enqueue) -> Step | None:
        if enqueue.knowledge is not self._knowledge:
            enqueue.give_up(CLOSED)
        else:
            self._knowledge.connected_to(self._broker.run_id)
        return enqueue.next(self._environment.monotonic())

    async def _take(self, enqueue: Enqueue, step: Step, way: Way) -> None:
        """Take one step, and report its result."""
        broker, run = self._broker, self._broker.run_id
        match step:
            case Pause() | WaitForTurn() | WaitForRoom():
                await self._wait(enqueue, step)
            case ReadTopic() | MakeTopic():
                state = await (self._read_topic() if isinstance(step, ReadTopic) else self._make_topic())
                if enqueue.knowledge is self._knowledge:
                    self._learn(state)
                enqueue.topic_is(state.generation, state.partitions, self._environment.monotonic(), acked=state.acked)
            case LearnAnchors():
                anchors = await broker.do_each([producing.ReadAnchor(self._topic, partition) for partition in step.partitions])
                enqueue.learnt(anchors, self._same(run))
            case Kill():
                enqueue.killed(allowed=await broker.kill([ReaderMark(*connection) for connection in step.connections]))
            case Find():
                found = await self._find(step)
                await self._confirm(step.partition)
                enqueue.found(found.present, complete=found.complete, last=found.last, run=self._same(run))
            case Send():
                await self._send(enqueue, step, way)

    async def _find(self, step: Find) -> producing.Found:
        """Look at all of the tail, a piece at a time."""
        look = producing.Find(self._topic, step.partition, step.anchor, [message.msg_id.encode() for message in step.messages])
        found = await self._broker.do(look)
        while found.rest is not None:
            found = found.followed_by(await self._broker.do(structs.replace(look, anchor=found.rest)))
        return found

    async def _wait(self, enqueue: Enqueue, step: Pause | WaitForTurn | WaitForRoom) -> None:
        if isinstance(step, WaitForRoom):
            await self._wait_for_room(step.wanted, enqueue.give_up_at)
            enqueue.room()
        elif isinstance(step, WaitForTurn):
            await self._wait_for_turn(step.behind, enqueue.give_up_at)
            enqueue.paused()
        elif await self._pause(step.failures, enqueue.give_up_at):
            self.retried += 1
            enqueue.paused()
        else:
            enqueue.give_up()

    async def _send(self, enqueue: Enqueue, step: Send, way: Way) -> None:
        placed = [(message.partition, message.msg_id, message.fields) for message in step.messages]
        run = self._broker.run_id
        try:
            outcome: Sequence[bytes | Sealed | None] | ConnectionFailed | ServerError = await way(placed, self._states[enqueue.generation])
        except (ConnectionFailed, ServerError) as error:
            outcome = error
        self._report_sent(enqueue, outcome, run)

    def _report_sent(self, enqueue: Enqueue, outcome: Sequence[bytes | Sealed | None] | ConnectionFailed | ServerError, run: str) -> None:
        """Report the result of sending; `run` was the server's run before that."""
        if isinstance(outcome, ConnectionFailed) and outcome.appended is None:
            # A call whose time is up broke no connection: either what it sent arrives before anything sent after it, or the link kills it.
            late = self._environment.monotonic() >= enqueue.give_up_at
            enqueue.broke(outcome, () if late else outcome.connections)
            return
        answers: Sequence[Answer]
        if isinstance(outcome, (ConnectionFailed, ServerError)):
            entries = outcome.appended or [None] * enqueue.sending
            answers = [outcome if entry is None else entry for entry in entries]
        else:
            answers = outcome
        enqueue.sent(answers, self._same(run))

    def _same(self, run: str) -> str:
        """Return the server's run if it is still this one, so that all answers since were its own; "" otherwise."""
        return run if run == self._broker.run_id else ""

    async def _pause(self, failures: int, give_up_at: float) -> bool:
        """Wait before another try; False if there is no time for one."""
        wait = full_jitter(failures, base=0.05, most=2.0, random=self._environment.random)
        if self._environment.monotonic() + wait >= give_up_at:
            return False
        await anyio.sleep(wait)
        return True

    async def _wait_for_turn(self, behind: Enqueue, give_up_at: float) -> None:
        event, _, _ = self._waiting.setdefault(behind, (anyio.Event(), behind.holds, behind.generation))
        with anyio.move_on_after(give_up_at - self._environment.monotonic()):
            await event.wait()

    def _let_pass(self, enqueue: Enqueue) -> None:
        """Wake those that wait for an enqueue if it blocks others than before (E4): what is outdated blocks all partitions."""
        waiting = self._waiting.get(enqueue)
        if waiting is not None and waiting[1:] != (enqueue.holds, enqueue.generation):
            del self._waiting[enqueue]
            waiting[0].set()

    async def _confirm(self, partition: int) -> None:
        """Wait until a replica has what a look has found, or what a deduplication mark names, if the producer wants that (C7)."""
        if self._confirmed:
            await self._broker.do(producing.Confirm(self._topic, partition))

    async def _read_topic(self) -> TopicState:
        state = await self._grown(await self._broker.do(topics.ReadTopic(self._topic)))
        # If it is missing, it was lost with the server's data (E5); another producer may have made it again.
        return state if state is not None and self._stands(state) else await self._make_streams()

    async def _make_topic(self) -> TopicState:
        """Make what is missing; complete a growth if a stream was cut (G3): that too looks like a missing stream (E6)."""
        known = self.state
        state = await self._grown(await settle_growth(self._broker, self._topic))
        if state is not None and known is not None and state.generation > known.generation and self._stands(state):
            return state  # that was the reason; if a stream is missing, too, the next try finds that out
        return await self._make_streams()

    async def _grown(self, state: TopicState | None) -> TopicState | None:
        """Return the topic's state, None if it is missing; let it grow again if it has forgotten growths that this producer knew (G9)."""
        if state is None or self.state is None or state.partitions >= self.state.partitions:
            return state
        return await publish_again(self._broker, self._topic, self.state)

    async def _make_streams(self) -> TopicState:
        return await self._broker.do(topics.MakeTopic(self._topic, self._init_partitions, self._terms, known=self.state))

    def _stands(self, state: TopicState) -> bool:
        """Tell whether the topic already has what this producer asks for (E3)."""
        return state.send_timeout >= self._terms.send_timeout and (state.acked or not self._terms.acked)

    async def _note_held_up(self, partition: int, most: int) -> None:
        """Let those who look at the topic know that a producer waits for room there."""
        now = self._environment.monotonic()
        if now >= self._note_after:
            self._note_after = now + NOTE_AGAIN
            with contextlib.suppress(ServerError):  # nothing that matters
                await self._broker.do(topics.NoteHeldUp(self._topic, partition, most))

    async def _wait_for_room(self, wanted: dict[int, int], give_up_at: float) -> None:
        """Wait until each partition has room for its messages (back-pressure)."""
        most, pause = self._max_backlog or 0, FIRST_POLL
        if any(count > most for count in wanted.values()):
            raise QueueFull(f"{max(wanted.values())} messages for one partition of {self._topic}: max_backlog allows {most} in all")
        while True:
            asked = [producing.ReadBacklog(self._topic, partition, enough=most, fits=most - count) for partition, count in wanted.items()]
            waiting = await self._broker.do_each(asked)
            full = [partition for (partition, count), backlog in zip(wanted.items(), waiting, strict=True) if backlog + count > most]
            if not full:
                return
            await self._note_held_up(full[0], most)
            if self._environment.monotonic() + pause >= give_up_at:
                raise QueueFull(f"partition {full[0]} of {self._topic} still holds {max(waiting)} waiting messages (max_backlog {most})")
            await anyio.sleep(pause)
            pause = min(LAST_POLL, pause * 2)
