"""What is known of one enqueue, and its next step (E1 to E7).

`Enqueue.next(now)` returns the next step. The caller takes the step and reports the result as an event. Nothing here waits, reads a clock,
draws a random number or talks to a server, and no other module decides a rule about enqueueing once.

An append is the one operation that redisaq must not simply repeat. When its connection breaks, the client does not know whether the server
has executed it, or still will. So each message has a state that says what is *known* of it, and a message is only sent while it is
`absent`:

=========  ===============================================================  ========================================================
state      meaning                                                          how it is left
=========  ===============================================================  ========================================================
absent     the server does not have it, and nothing on its way brings it    Send: it is uncertain before a byte is written
uncertain  it is on its way, or was when its connection broke               an answer; or Kill, then Find (E1, E2)
there      the server has it                                                -
refused    the server refuses it, or it must not be sent again (C3)         -
unknown    the evidence is gone, so it is never sent again (E2)             -
=========  ===============================================================  ========================================================

The call ends when every message is in one of the last three states, or when its time is up. It is done if all are there, ambiguous if one
is uncertain or unknown, and failed otherwise.

How an uncertain message becomes certain
    1. Every connection that may still carry it is killed, and the server has confirmed that (E1).
    2. The stream to which it was *sent* is searched from an anchor on: an id that was in the stream before the message was sent (E2, E6).
       Either the message is there; or it is absent, if the search reached back to the anchor or the stream ends at or before it (C5); or it
       is unknown.
    3. The stream's last id, which the search also returns, is the anchor of the next try, even if it is lower than the one before (C5).

An anchor is an id from one *run* of the server. A server that took over may give out ids below it. So if an append went to another run than
the one its anchor is from, the anchor proves nothing, and the whole stream is searched.

If a mark at the server makes a second try harmless (`repeatable`, E7), none of this is needed: the message is sent again to the same
partition, where its mark is. It is then *loose*: an earlier try may still arrive, so only an answer makes it certain.

Growth. A topic that grows cuts its streams: what was placed before finds no stream under the name that it knows. That refusal is certain,
and the message is placed again under the new count (E6). What is uncertain is searched where it was sent; if it is not there, it is placed
again. What is loose is sent again to its old place under the old name: either its mark is there, or the place is sealed, and no try passes.

Order. Each enqueue gets a number when it is first sent. An enqueue that has to send again blocks all later ones to the same partitions
until it has done so (E4). If the topic has grown since, its keys may belong to other partitions now, so it blocks all later ones. Searching
needs no turn, since it changes nothing.

The enqueue itself is in one of five states. Each row is an event; the cell is the next state, and a dash is a mistake of the caller, which
raises Misstep.

========  ============  ======================  ====================  =======  ===================================================
event     waiting       sending                 searching             missing  rules
========  ============  ======================  ====================  =======  ===================================================
topic_is  waiting       -                       -                     waiting  E5, E6: after a growth, what is absent is placed again
room      waiting       -                       -                     -        before the first try only
learnt    waiting       -                       -                     -        E2, E3: anchors are known before anything is sent
killed    waiting       -                       searching, over       -        E1; over if the server does not permit it (T4)
sent      -             over, waiting, missing  -                     -        C1, C3, E5, E6: one answer may mix them
found     -             -                       searching             -        E2, C3, C5: waiting once nothing is uncertain
broke     waiting       searching, waiting      searching             missing  E1, C2, E7; waiting if nothing was written, or if it
                                                                               is repeatable
paused    waiting       -                       searching             missing  E4, if it waited for an earlier enqueue
give_up   over          over                    over                  over     its time is up, or the producer was closed
leave     over          over                    over                  over     its caller was cancelled
========  ============  ======================  ====================  =======  ===================================================

C1 to C3 and C5 are the rules for servers of a cluster and for servers that took over. Some of these cases already occur on one server: a
stream that is created again in the middle of a call (C3), a replica that never received an anchor (C5). C4 will be a `killed` that another
node answers.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from operator import attrgetter
from typing import Literal, TypeVar

import msgspec

from redisaq.core.entry_ids import parse_id
from redisaq.core.retention import anchor_age
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, RedisaqError, ServerError

Known = Literal["absent", "uncertain", "there", "refused", "unknown"]

State = Literal["waiting", "sending", "searching", "missing", "over"]

Connection = tuple[int, str, str]
"""A connection's client id, its address as the server sees it, and the server's run (E1)."""


class Sealed(Enum):
    """The answer where a stream was cut, and no earlier try of the message can arrive any more (E6)."""

    SEALED = auto()

    def __bool__(self) -> bool:
        """False, as of None: `all` tells in one pass whether every message has an entry."""
        return False


SEALED = Sealed.SEALED

Answer = bytes | Sealed | RedisaqError | None
"""The result for one message that was sent.

It is the message's entry id (b"" if it has none yet, since it is delayed); None if its stream does not exist under the name that it had
when the message was placed (E5, E6); SEALED if the reason is a cut, and that is sure; or why the server refused it. A refusal that is a
ConnectionFailed passes: nothing was done, and the message may be sent again (C1).
"""

BEGINNING = b"0-0"
"""The position before every entry. A search from here is complete only if nothing was ever removed from the stream."""

FRESH = 0.5
"""Seconds for which the known partition count is trusted: a running producer notices an increase within this time."""

NARROW = 10.0
"""Seconds for which only the anchors that are wanted are asked for, after some could not be learned."""

TRIMMED = "the connection broke, and trimming has removed the evidence"
FORBIDDEN = "the connection broke, and the server does not permit CLIENT KILL"
REFUSED = "the connection broke, and the server refuses a step that finds out what arrived: {}"
CLOSED = "the producer was closed during the call"
OVERTAKEN = "OVERTAKEN partition {} has a later message of the call, and lacks an earlier one: sending that now would break the order"
LATE = "there was no time left"
HELD_UP = "the result of an earlier call of this producer is still unknown: nothing was sent"

S = TypeVar("S")


class Misstep(Exception):
    """The caller reported an event that cannot happen in this state."""


class Outgoing(msgspec.Struct, eq=False):
    """One message.

    Attributes:
        msg_id: its id.
        key: decides its partition; None: each partition in turn.
        fields: the fields of its entry.
        partition: where it goes; -1 until it is placed. Until it is known not to be there, it keeps the one to which it was sent (E6).
        known: what is known of it.
        entry: what the server answered for it.
        refusal: why it was refused.
    """

    msg_id: str
    key: str | None
    fields: list[bytes]
    partition: int = -1
    known: Known = "absent"
    entry: bytes | None = None
    refusal: RedisaqError | None = None


# -- steps: what to do next ----------------------------------------------------------------------------------------------------------


class Pause(msgspec.Struct, frozen=True):
    """Wait a random time that grows with the failures in a row; then `paused`."""

    failures: int


class WaitForTurn(msgspec.Struct, frozen=True):
    """Wait until `behind` blocks nothing any more (E4), but no longer than this enqueue has time; then `paused`."""

    behind: Enqueue


class ReadTopic(msgspec.Struct, frozen=True):
    """Read the partition count, and ensure that the topic keeps what this producer needs (E3); then `topic_is`."""


class MakeTopic(msgspec.Struct, frozen=True):
    """Make the missing streams (E5); then `topic_is`."""


class WaitForRoom(msgspec.Struct, frozen=True):
    """Wait until each partition has room for this many messages; then `room`, or `give_up` with QueueFull."""

    wanted: dict[int, int]


class LearnAnchors(msgspec.Struct, frozen=True):
    """Ask for the last id of each of these streams (E2); then `learnt`."""

    partitions: list[int]


class Kill(msgspec.Struct, frozen=True):
    """Kill those of these connections that can still reach the streams (E1); then `killed`."""

    connections: list[Connection]


class Find(msgspec.Struct, frozen=True):
    """Look for these messages among the delayed ones, and in the stream after the anchor (E2, E7); then `found`."""

    partition: int
    anchor: bytes
    messages: list[Outgoing]


class Send(msgspec.Struct, frozen=True):
    """Send these messages, in this order; then `sent`."""

    messages: list[Outgoing]


Step = Pause | WaitForTurn | ReadTopic | MakeTopic | WaitForRoom | LearnAnchors | Kill | Find | Send
"""After each step comes the event that it names, or `broke`; or `give_up`, if the server refuses a step that is not Send."""


# -- the producer --------------------------------------------------------------------------------------------------------------------


class Knowledge:
    """What one producer knows: its topic, the ends of its streams, and the enqueues that have to send something again.

    Attributes:
        partitions: how many the topic has, 0 until that is known.
        generation: how many times it has grown.
        anchors: partition -> an id that was in its stream (E2), from `run`.
        run: the run of the server that all `anchors` are from; in a cluster, a text that contains the runs of its nodes.
        unkilled: broken connections that may still carry something (E1), each with the generation and the partitions of what it carries.
        forbidden: those that the server does not permit to kill.
        calm_until: until this time an enqueue may be sent without calling `next` first, because `next` would request nothing.
        number: the number of the last enqueue that was sent for the first time.
        broken: how many times a step of an enqueue broke.
    """

    def __init__(self, topic: str, place: Callable[[str | None, int], int], send_timeout: float, *, limited: bool = False) -> None:
        """Begin with nothing known.

        Args:
            topic: its name, for errors.
            place: returns a key's partition, from the key and the partition count.
            send_timeout: the producer's, in seconds.
            limited: its partitions have a limit of messages: ask for room before each first try.
        """
        self.partitions = self.generation = 0
        self.anchors: dict[int, bytes] = {}
        self.run = ""
        self.unkilled: dict[Connection, tuple[int, frozenset[int]]] = {}
        self.forbidden: set[Connection] = set()
        self.calm_until = -math.inf
        self.number = 0
        self.broken = 0
        self.topic = topic
        self.place = place
        self.limited = limited
        self._anchor_age = anchor_age(send_timeout)
        self._acked = False
        self._fresh_until = self._anchors_until = self._narrow_until = -math.inf
        self._refused = False  # anchors were asked for and not learned
        self._lines: dict[int, list[Enqueue]] = {}  # partition -> the enqueues that have to send there again, by number
        self._outdated: list[Enqueue] = []  # those of them that were placed in another generation, by number

    def topic_is(self, generation: int, partitions: int, now: float, *, acked: bool) -> None:
        """Record the topic's state; `acked`: acknowledged entries may be trimmed, so anchors expire (E3)."""
        self.partitions, self._acked, self._fresh_until = partitions, acked, now + FRESH
        if generation != self.generation:
            self.generation = generation
            everybody = {enqueue.number: enqueue for line in self._lines.values() for enqueue in line}
            self._outdated = [everybody[number] for number in sorted(everybody) if everybody[number].generation != generation]
        self.look()

    def look(self) -> None:
        """Compute until when enqueues may be sent without calling `next`."""
        calm = not (self.limited or self._lines or self.unkilled) and 0 < self.partitions <= len(self.anchors)
        until = min(self._fresh_until, self._anchors_until) if self._acked else self._fresh_until
        self.calm_until = until if calm else -math.inf

    def named(self, anchors: Sequence[tuple[int, bytes]], run: str) -> None:
        """Record anchors from this run of the server; "" if it is not known which run it was."""
        if run != self.run or not run:
            self.anchors.clear()
            self.run, self.calm_until = run, -math.inf
        if run:
            self.anchors.update(anchors)

    def connected_to(self, run: str) -> None:
        """Record the run of the server that is asked from now on: anchors from another run are useless there (E2)."""
        if run and run != self.run:
            self.named((), run)

    def may_carry(self, connections: Iterable[Connection], partitions: frozenset[int]) -> None:
        """Record connections that may still carry something to these partitions (E1)."""
        for connection in connections:
            _, before = self.unkilled.get(connection, (self.generation, frozenset[int]()))
            self.unkilled[connection] = self.generation, before | partitions

    def to_kill(self, partitions: frozenset[int]) -> list[Connection]:
        """Return the connections to kill before anything is sent to these partitions, or searched there (E1).

        What else is on its way goes elsewhere, perhaps to a server that cannot be reached: it is killed when it matters. But after a growth
        a key may belong to another partition.
        """
        grown = self.generation
        return [one for one, (generation, carried) in self.unkilled.items() if generation != grown or not carried.isdisjoint(partitions)]

    def to_read(self, now: float) -> bool:
        """Tell whether to read the topic again. Of several enqueues one does; the others use what was known."""
        if self.partitions and now < self._fresh_until:
            return False
        self._fresh_until = now + FRESH
        return True

    def to_learn(self, wanted: Iterable[int], now: float) -> list[int]:
        """Return the partitions whose anchors are to be learned (E2), or learned again because all are too old (E3).

        Usually these are all partitions, in one question. But if one of them cannot be asked, the others are not to wait for it: then only
        those that are wanted are learned for a while.
        """
        if self._refused:
            self._refused, self._narrow_until = False, now + NARROW
        if now < self._narrow_until:
            if self._acked and now >= self._anchors_until:
                self.anchors.clear()
                self._anchors_until = now + self._anchor_age
            return [partition for partition in sorted(set(wanted)) if partition not in self.anchors]
        everywhere = range(self.partitions)
        if self._acked and now >= self._anchors_until:
            self._anchors_until = now + self._anchor_age  # set before asking, so that only one of several enqueues asks
            return sorted({*everywhere, *wanted})
        return [partition for partition in sorted({*everywhere, *wanted}) if partition not in self.anchors]

    def not_learnt(self) -> None:
        """The anchors were not learned: another enqueue has to ask again."""
        self._anchors_until = -math.inf

    def cannot_learn(self) -> None:
        """A stream could not be asked for its anchor, since its node did not answer."""
        self._refused = True
        if self._acked:
            self.anchors.clear()  # they may be too old
        self.look()

    def line_up(self, enqueue: Enqueue, partitions: frozenset[int]) -> None:
        """Let an enqueue block later ones to these partitions, and to no others (E4)."""
        for partition in enqueue.holds - partitions:
            line = self._lines[partition]
            line.remove(enqueue)
            if not line:
                del self._lines[partition]
        for partition in partitions - enqueue.holds:
            insort(self._lines.setdefault(partition, []), enqueue, key=_number)
        outdated = bool(partitions) and enqueue.generation != self.generation
        if enqueue in self._outdated and not outdated:
            self._outdated.remove(enqueue)
        elif outdated and enqueue not in self._outdated:
            insort(self._outdated, enqueue, key=_number)
        enqueue.holds = partitions
        if partitions:
            self.calm_until = -math.inf

    def blocker(self, enqueue: Enqueue, partitions: frozenset[int]) -> Enqueue | None:
        """Return the last earlier enqueue that has to send first (E4); None if there is none."""
        number = enqueue.number or math.inf
        for line in (self._outdated, *(self._lines[partition] for partition in partitions if partition in self._lines)):
            earlier = bisect_left(line, number, key=_number)
            if earlier:
                return line[earlier - 1]
        return None


_number = attrgetter("number")


# -- one enqueue ---------------------------------------------------------------------------------------------------------------------


class Enqueue:
    """One call: its messages, and its state.

    Attributes:
        knowledge: the producer's.
        messages: in the order of the call.
        give_up_at: when its time is up.
        state: see the table above.
        error: once it is over, what the caller gets; None if all messages are there.
        cause: the last failure, None before the first.
        number: its place in the order of first sending; 0 before.
        generation: the topic's generation when its messages were placed.
        holds: the partitions where it blocks later enqueues (E4).
    """

    def __init__(self, knowledge: Knowledge, messages: list[Outgoing], give_up_at: float, *, repeatable: bool) -> None:
        """Begin with nothing sent.

        Args:
            knowledge: the producer's.
            messages: to be sent, in this order.
            give_up_at: when its time is up.
            repeatable: a mark at the server makes a second try harmless (E7).
        """
        self.messages = messages
        self.state: State = "waiting"
        self.error: RedisaqError | None = None
        self.cause: ConnectionFailed | None = None
        self.number = 0
        self.generation = -1
        self.holds: frozenset[int] = frozenset()
        self.knowledge = knowledge
        self.give_up_at = give_up_at
        self._repeatable = repeatable
        self._step: Step | None = None  # the step under way
        self._failures = 0  # in a row
        self._pausing = False
        self._made: int | None = None  # the generation in which a stream was missing at the last try, and is made
        self._held_up = False
        self._has_room = not knowledge.limited
        self._anchors: dict[int, bytes] = {}  # as they were when the messages were sent
        self._run = ""  # the run that they are from
        self._loose = False  # an earlier try may still arrive (E7)
        self._carriers: dict[Connection, None] = {}  # connections that may still deliver uncertain messages (E1)
        self._unfound: set[int] = set()  # whose node did not answer a search: the others are searched first
        self._ambiguity = ""  # why a message is unknown

    def already_sent(self, number: int, generation: int, anchors: dict[int, bytes], run: str) -> None:
        """Take over messages that were sent without calling `next` while all was calm; now comes `sent` or `broke`.

        Args:
            number: its place in the order of first sending.
            generation: the topic's generation when the messages were placed.
            anchors: as they were before it was sent, at least those of its partitions.
            run: the run that the anchors are from.
        """
        self.number, self.generation, self._anchors, self._run = number, generation, anchors, run
        self._sends(self.messages)

    @property
    def sending(self) -> int:
        """How many messages are being sent."""
        return len(self._step.messages) if isinstance(self._step, Send) else 0

    # -- what to do ------------------------------------------------------------------------------------------------------------------

    def next(self, now: float) -> Step | None:
        """Return the next step; None: it is over."""
        if self._step is not None:
            raise Misstep(f"{self._step} is under way")
        if now >= self.give_up_at:
            self.give_up()
        if self.state == "over":
            return None
        if self._pausing:
            self._pausing = False
            self._step = Pause(self._failures)
        elif self.state == "missing":
            self._step = MakeTopic()
        else:
            self._step = self._search(now) if self.state == "searching" else self._prepare(now)
        return self._step

    def _search(self, now: float) -> Step | None:
        """Return the step that finds out what became of a broken try (E1, E2), or the step after that; None: it is over."""
        knowledge = self.knowledge
        uncertain = [message for message in self.messages if message.known == "uncertain"]
        if uncertain and not knowledge.forbidden.isdisjoint(self._carriers):  # T4: it may arrive at any time
            self._ambiguity = FORBIDDEN
            for message in uncertain:
                message.known = "unknown"
            self._settle()
        elif uncertain:
            if broken := knowledge.to_kill(frozenset([message.partition for message in uncertain])):  # E1
                return Kill(broken)
            if all(message.partition in self._unfound for message in uncertain):
                self._unfound.clear()
            partition = next(message.partition for message in uncertain if message.partition not in self._unfound)
            return Find(partition, self._anchors[partition], [message for message in uncertain if message.partition == partition])
        if self.state == "over":
            return None
        self.state = "waiting"
        return self._prepare(now)

    def _prepare(self, now: float) -> Step:
        """Return the step that must come before any message of this producer is sent; or what `_begin` returns."""
        knowledge = self.knowledge
        if knowledge.to_read(now):
            return ReadTopic()
        self._place()
        todo = [message for message in self.messages if message.known in ("absent", "uncertain")]
        partitions = frozenset([message.partition for message in todo])
        behind = knowledge.blocker(self, partitions)
        self._held_up = behind is not None
        if behind is not None:  # E4
            return WaitForTurn(behind)
        if broken := knowledge.to_kill(partitions):  # E1: what an earlier call left must not arrive after what is sent now
            return Kill(broken)
        return self._begin(todo, partitions, now)

    def _begin(self, todo: list[Outgoing], partitions: frozenset[int], now: float) -> Step:
        """Return the step that provides what these messages' partitions lack, or Send."""
        knowledge = self.knowledge
        if not self._has_room:
            return WaitForRoom(Counter([message.partition for message in todo]))
        if unknown := knowledge.to_learn(partitions, now):
            return LearnAnchors(unknown)
        if not self.number:
            knowledge.number = self.number = knowledge.number + 1
        self._anchors, self._run = {partition: knowledge.anchors[partition] for partition in partitions}, knowledge.run
        return self._sends(todo)

    def _place(self) -> None:
        """Give each message its partition. After a growth, one that is surely not there is placed again (E6).

        While an earlier try may still arrive (E7), the messages belong to the generation in which they were sent.
        """
        knowledge = self.knowledge
        grown = self.generation != knowledge.generation and not self._loose
        if grown:
            self.generation = knowledge.generation
            self._has_room = bool(self.number) or not knowledge.limited
        for message in self.messages:
            lost = message.partition < 0 or message.partition >= knowledge.partitions
            if message.known == "absent" and (lost or (grown and message.key is not None)):
                message.partition = knowledge.place(message.key, knowledge.partitions)
        if grown and self.number:
            self._hold()  # where it blocks later ones has changed, too (E4)

    def _sends(self, messages: list[Outgoing]) -> Step:
        for message in messages:
            message.known = "uncertain"
        self.state = "sending"
        self.knowledge.line_up(self, frozenset())
        self._step = Send(messages)
        return self._step

    # -- what came of it -------------------------------------------------------------------------------------------------------------

    def topic_is(self, generation: int, partitions: int, now: float, *, acked: bool) -> None:
        """The topic has this state, and its streams exist (E5); see `Knowledge.topic_is`."""
        self._ended(ReadTopic, MakeTopic)
        self.knowledge.topic_is(generation, partitions, now, acked=acked)
        self.state = "waiting"

    def room(self) -> None:
        """There is room."""
        self._ended(WaitForRoom)
        self._has_room = True

    def learnt(self, anchors: Sequence[bytes | None], run: str) -> None:
        """These are the last ids of the streams, None for a missing one (E2)."""
        step = self._ended(LearnAnchors)
        self.knowledge.named([(partition, anchor or BEGINNING) for partition, anchor in zip(step.partitions, anchors, strict=True)], run)

    def killed(self, *, allowed: bool) -> None:
        """The server has killed the connections (E1), or does not permit that."""
        step = self._ended(Kill)
        for connection in step.connections:
            self.knowledge.unkilled.pop(connection, None)
        if not allowed:
            self.knowledge.forbidden.update(step.connections)

    def sent(self, answers: Sequence[Answer], run: str) -> None:
        """This run of the server answered ("": it is not known which): the result for each message (C3, E5)."""
        step = self._ended(Send)
        self.state, missing = "waiting", set[int]()
        absent: Known = "uncertain" if self._loose else "absent"
        ends: list[tuple[int, bytes]] = []
        for message, answer in zip(step.messages, answers, strict=True):
            if isinstance(answer, bytes):
                message.known, message.entry = "there", answer
                if answer:
                    ends.append((message.partition, answer))
            elif answer is None or answer is SEALED:
                message.known, self.state = absent if answer is None else "absent", "missing"
                missing.add(message.partition)
            elif isinstance(answer, ConnectionFailed):  # C1
                message.known, self.cause, self._pausing = absent, answer, True
            else:
                message.known, message.refusal = "unknown" if self._loose else "refused", answer
                self._ambiguity = f"an earlier try broke, and a later one was refused: {answer}"
        self._loose = self._loose and SEALED not in answers
        if missing and self._made == self.generation:  # gone again although it was made, and the topic has not grown: not at once
            self._pausing = True
        self._made = self.generation if missing else None
        self._failures = self._failures + 1 if self._pausing else 0
        self.knowledge.named(ends, run)
        for partition in missing:  # E5: a new stream may begin at a lower id
            self.knowledge.anchors.pop(partition, None)
        self._settle(
            "NOSTREAM the stream of partition {} was made while a call was appending to it: sending the rest would break the order"
            if missing
            else OVERTAKEN
        )

    def found(self, present: Sequence[bytes | None], *, complete: bool, last: bytes, run: str) -> None:
        """The server answered the search.

        Args:
            present: for each message its entry id, b"" if it is delayed, None if it is in neither place.
            complete: the stream reaches back to the anchor.
            last: the last id that the stream ever had (C5).
            run: the run of the server that answered; "": not known.
        """
        step = self._ended(Find)
        known = complete or parse_id(last) <= parse_id(step.anchor)
        if not known:
            self._ambiguity = TRIMMED
        for message, entry in zip(step.messages, present, strict=True):
            message.known = "there" if entry is not None else "absent" if known else "unknown"
            message.entry = entry
        self.knowledge.named([(step.partition, last)], run)
        self._settle()

    def broke(self, error: ConnectionFailed, connections: Sequence[Connection] = ()) -> None:
        """The step failed.

        Args:
            error: the failure. `maybe_executed` says whether anything was written; only a message that was sent is uncertain then.
            connections: all that broke and may still carry a part of what was sent (C2).
        """
        step, self._step = self._step, None
        if step is None:
            raise Misstep("nothing is under way")
        self._failures, self._pausing, self.cause = self._failures + 1, True, error
        self.knowledge.broken += 1
        if isinstance(step, LearnAnchors):
            if error.of_node:
                self.knowledge.cannot_learn()
            else:
                self.knowledge.not_learnt()
        if isinstance(step, Find) and error.of_node:
            self._unfound.add(step.partition)
        if isinstance(step, Send):
            self._broke_sending(step, connections, error)
        if error.permanent:
            self.give_up()
        self._hold()

    def _broke_sending(self, step: Send, connections: Sequence[Connection], error: ConnectionFailed) -> None:
        knowledge, written = self.knowledge, error.maybe_executed
        self.state = "searching" if written and not self._repeatable else "waiting"
        self._carriers.update(dict.fromkeys(connections))
        if self.state == "searching":
            knowledge.may_carry(connections, frozenset([message.partition for message in step.messages]))
            if error.another_run or any(run not in self._run for _, _, run in connections):  # E2: it may have got an id below the anchor
                self._anchors = dict.fromkeys(self._anchors, BEGINNING)
            return
        self._loose = self._loose or written
        for message in step.messages:
            message.known = "uncertain" if self._loose else "absent"

    def paused(self) -> None:
        """A pause, or the wait for a turn, is over."""
        self._ended(Pause, WaitForTurn)

    def give_up(self, reason: RedisaqError | str | None = None) -> None:
        """End the call: its time is up, or `reason` says why else.

        Args:
            reason: an error to raise if nothing is uncertain, such as the refusal of a step; or a text that says why the call ends.
        """
        self._step = None
        if self.state == "over":
            return
        failure = reason if isinstance(reason, RedisaqError) else None
        if failure is None and self._held_up:
            failure = ConnectionFailed(f"topic {self.knowledge.topic}", HELD_UP, silent=True)
        if isinstance(reason, RedisaqError):
            reason = REFUSED.format(reason)
        elif reason is None:
            reason = f"{self.cause.reason}, and no answer within send_timeout" if self.cause is not None else LATE
        self._end(self._ambiguity or reason, failure or self._not_sent(reason))

    def leave(self) -> None:
        """The caller was cancelled: nothing more is sent. A broken connection that it left is killed before anything else is sent (E1)."""
        if isinstance(self._step, LearnAnchors):
            self.knowledge.not_learnt()
        self._step = None
        if self.state != "over":
            self._over()

    # -- how it ends -----------------------------------------------------------------------------------------------------------------

    def _settle(self, overtaken: str = OVERTAKEN) -> None:
        """Refuse messages that a later message of the call has overtaken, since sending them again would break the order (C3).

        End when all is known.
        """
        standing = set[int]()
        for message in reversed(self.messages):
            if message.known == "there" and message.entry:
                standing.add(message.partition)
            elif message.known == "absent" and message.partition in standing:
                message.known, message.refusal = "refused", ServerError(overtaken.format(message.partition), appended=())
        if all(message.known not in ("absent", "uncertain") for message in self.messages):
            self._end(self._ambiguity)
        self._hold()

    def _hold(self) -> None:
        """Block later enqueues wherever something may have to be sent again, and only there (E4)."""
        holding = self.number and self.state in ("waiting", "searching", "missing")
        todo = [message.partition for message in self.messages if message.known in ("absent", "uncertain")] if holding else []
        self.knowledge.line_up(self, frozenset(todo))

    def _end(self, ambiguity: str, failure: RedisaqError | None = None) -> None:
        """End the call and set the caller's error. Whatever the error neither names nor shows as appended is there."""
        lacking = [message for message in self.messages if message.known != "there"]
        refusal = next((message.refusal for message in lacking if message.refusal is not None), None)
        if any(message.known in ("uncertain", "unknown") for message in lacking):
            self.error = AmbiguousEnqueueError([message.msg_id for message in lacking], ambiguity)
        elif lacking:
            self.error = refusal or failure
            self._tell_appended(self.error, partly=len(lacking) < len(self.messages))
        if self.error is not None and self.error.__cause__ is None:
            self.error.__cause__ = self.cause
        self._over()

    def _tell_appended(self, error: RedisaqError | None, *, partly: bool) -> None:
        """If an error is about a part of an append, let it say which part was appended; a refused script has no parts."""
        if isinstance(error, ServerError | ConnectionFailed) and (partly or error.appended is not None):
            error.appended = [message.entry for message in self.messages]

    def _not_sent(self, reason: str) -> ConnectionFailed:
        return ConnectionFailed(f"topic {self.knowledge.topic}", reason, silent=True) if self.cause is None else self.cause.unsent()

    def _over(self) -> None:
        knowledge = self.knowledge
        self.state = "over"
        if self._loose:  # E1: an earlier try must not arrive after what comes next
            knowledge.may_carry(self._carriers, frozenset([message.partition for message in self.messages]))
        knowledge.line_up(self, frozenset())
        knowledge.look()

    def _ended(self, *kinds: type[S]) -> S:
        step = self._step
        if not isinstance(step, kinds):
            raise Misstep(f"this cannot come after {step}")
        self._step = None
        return step
