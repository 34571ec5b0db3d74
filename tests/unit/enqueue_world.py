"""A producer that decides with redisaq.core.enqueueing, and a model of a server whose connections break and whose commands come late.

What must hold of every call is judged at the end, when everything that can still arrive has arrived.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from types import ModuleType
from typing import Any, Literal

from redisaq.core import enqueueing
from redisaq.errors import AmbiguousEnqueueError, ConnectionFailed, QueueFull, RedisaqError, ServerError

TIMEOUT = 40.0
Trims = Literal["nothing", "to length", "what is acked"]
Kind = Literal["append", "delay", "once"]


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Stream:
    """One partition at the server: (id, message id) of its entries, and what stands beside them. `cuts` is the number in its name."""

    cuts: int = 0
    entries: list[tuple[int, str]] = field(default_factory=list)
    last: int = 0
    added: int = 0
    delayed: set[str] = field(default_factory=set)
    marks: dict[str, str] = field(default_factory=dict)


@dataclass
class Data:
    """What a failover can take back."""

    generation: int = 0
    partitions: int = 2
    streams: dict[int, Stream] = field(default_factory=lambda: {0: Stream(), 1: Stream()})
    taken: list[tuple[str, int]] = field(default_factory=list)  # (message id, partition) of whatever the server accepted, in order


@dataclass(eq=False)
class Line:
    """A connection: commands on their way, and answers on their way back."""

    identity: tuple[int, str, str]
    commands: list[tuple[Call, Any, int]] = field(default_factory=list)
    answers: list[tuple[Call, Any, int, Any]] = field(default_factory=list)
    reaches: bool = True  # the server still carries out what comes


@dataclass(eq=False)
class Call:
    """One enqueue, and the step that it is doing."""

    kind: Kind
    enqueue: Any
    messages: list[Any]
    first: int | None = None  # its place among all, by first sending
    step: Any = None
    line: Line | None = None
    answers: dict[int, Any] = field(default_factory=dict)
    over: bool = False
    cancelled: bool = False


class World:
    """One producer, its calls and its server.

    Attributes:
        kinds: how often each step was taken, and how calls ended.
    """

    def __init__(
        self,
        rules: ModuleType = enqueueing,
        *,
        trims: Trims = "nothing",
        forbids: bool = False,
        limited: bool = False,
    ) -> None:
        """Begin with two partitions.

        Args:
            rules: the module that decides; a variant of it, to see whether what is missing there is noticed.
            trims: what is taken out of streams.
            forbids: the server does not permit killing connections.
            limited: the producer asks for room.
        """
        self.rules = rules
        self.trims = trims
        self.forbids = forbids
        self.now = 1000.0
        self.behind = 0  # by how much the server's clock is
        self.run = "run-0"
        self.data = Data()
        self.replica = copy.deepcopy(self.data)
        self.lines: list[Line] = []
        self.line: Line | None = None
        self.calls: list[Call] = []
        self.kinds: Counter[str] = Counter()
        self.lost: set[str] = set()
        self.flushed = self.refused = False
        self.refusals: list[RedisaqError] = []
        self._sent_in: dict[int, tuple[int, Any]] = {}  # of each Send, by its identity: the generation in which its messages were placed
        self._deserted: list[Any] = []  # steps that were under way when their callers left
        self._appended_at: dict[int, float] = {}
        self._numbers, self._firsts, self._runs, self._turns = count(1), count(1), count(1), count()
        self.knowledge = rules.Knowledge("jobs", self._place, TIMEOUT, limited=limited)
        self.knowledge.topic_is(0, 2, self.now, acked=trims == "what is acked")

    def _place(self, key: str | None, partitions: int) -> int:
        if key is None:
            return next(self._turns) % partitions
        place = int(key) % partitions
        return place if place >= partitions // 2 and int(key) % 3 else place % 2  # growth moves some keys to new partitions

    # -- the producer ----------------------------------------------------------------------------------------------------------------

    def start(self, kind: Kind, keys: list[str | None], *, patient: bool = False) -> None:
        """Begin a call; a `patient` one never gives up."""
        messages = [self.rules.Outgoing(str(next(self._numbers)), key, []) for key in (keys[:1] if kind == "once" else keys)]
        give_up_at = math.inf if patient else self.now + TIMEOUT
        enqueue = self.rules.Enqueue(self.knowledge, messages, give_up_at, repeatable=kind == "once")
        self.calls.append(Call(kind, enqueue, messages))

    def go(self, pick: int) -> None:
        """Let one call take its next step, or end a wait."""
        calls = [call for call in self.calls if not call.over]
        if calls:
            self._go(calls[pick % len(calls)])

    def _go(self, call: Call) -> None:
        rules, enqueue, step = self.rules, call.enqueue, call.step
        if step is None:
            self._begin(call)
        elif isinstance(step, rules.Pause):
            call.step = enqueue.paused()
        elif isinstance(step, rules.WaitForTurn):
            if not step.behind.holds or self.now >= enqueue.give_up_at:
                call.step = enqueue.paused()
        elif isinstance(step, rules.WaitForRoom):
            if self.now >= enqueue.give_up_at:
                enqueue.give_up(QueueFull("full"))
            else:
                enqueue.room()
            call.step = None
        elif self.now >= enqueue.give_up_at:  # its time is up: the connection lives, and what was sent stays on its way
            self._deserted.append(step)
            self._broke(call, (), written=True)

    def _begin(self, call: Call) -> None:
        rules = self.rules
        step = call.step = call.enqueue.next(self.now)
        if step is None:
            call.over = True
            return
        self.kinds[type(step).__name__] += 1
        if isinstance(step, rules.Pause | rules.WaitForTurn | rules.WaitForRoom):
            return
        if self.line is None:
            self._connect()
        call.line = self.line
        assert call.line is not None
        if isinstance(step, rules.Send):
            if not step.messages:
                raise Violation("nothing is sent")
            call.first = call.first or next(self._firsts)
            call.answers = {}
            self._sent_in[id(step)] = call.enqueue.generation, step
            call.line.commands += [(call, step, place) for place in range(len(step.messages))]
        else:
            call.line.commands.append((call, step, 0))

    def _connect(self) -> None:
        if not self.forbids:
            for line in self.lines:  # the link itself kills what no caller has heard of, before it uses another connection (E1)
                line.commands = [command for command in line.commands if not any(command[1] is step for step in self._deserted)]
        self.line = Line((next(self._numbers), "here", self.run))
        self.lines.append(self.line)

    def _broke(self, call: Call, connections: tuple[Any, ...], *, written: bool, permanent: bool = False) -> None:
        call.step = call.line = None
        call.enqueue.broke(ConnectionFailed("here", "it broke", maybe_executed=written, permanent=permanent), connections)

    def cancel(self, pick: int) -> None:
        """Cancel a caller."""
        calls = [call for call in self.calls if not call.over]
        if calls:
            call = calls[pick % len(calls)]
            self._deserted.append(call.step)
            call.step = call.line = None
            call.enqueue.leave()
            call.over = call.cancelled = True

    def close(self) -> None:
        """Close the producer."""
        self.disconnect(0)
        for call in self.calls:
            if not call.over and call.step is None:
                call.enqueue.give_up("the producer was closed")

    # -- between them ----------------------------------------------------------------------------------------------------------------

    def arrive(self, pick: int) -> None:
        """Let the server carry out the next command of a connection."""
        lines = [line for line in self.lines if line.reaches and line.commands]
        if lines:
            self._carry_out(lines[pick % len(lines)])

    def answer(self) -> None:
        """Let the next answer arrive."""
        line = self.line
        if line is None:
            return
        if not line.answers:
            if not line.reaches:  # somebody killed it
                self.disconnect(0)
            return
        call, step, place, answer = line.answers.pop(0)
        if call.step is not step:
            return
        if isinstance(step, self.rules.Send):
            call.answers[place] = answer
            if len(call.answers) < len(step.messages):
                return
        call.step = call.line = None
        self._report(call, step, answer, line.identity[2])

    def _report(self, call: Call, step: Any, answer: Any, run: str) -> None:
        rules, enqueue = self.rules, call.enqueue
        if isinstance(step, rules.Send):
            enqueue.sent([call.answers[place] for place in range(len(step.messages))], run)
        elif isinstance(step, rules.Find):
            present, complete, last = answer
            enqueue.found(present, complete=complete, last=last, run=run)
        elif isinstance(step, rules.Kill):
            enqueue.killed(allowed=answer)
        elif isinstance(step, rules.LearnAnchors):
            enqueue.learnt(answer, run)
        else:
            enqueue.topic_is(*answer, self.now, acked=self.trims == "what is acked")

    def disconnect(self, pick: int, *, server_is_gone: bool = False) -> None:
        """Break the producer's connection; some of what it carried may have got lost, and the rest may still arrive."""
        line, self.line = self.line, None
        if line is None:
            return
        unwritten: Any = None
        if server_is_gone:
            line.reaches, line.commands = False, []
        elif line.commands and pick % 3 == 0:  # the last call was not written at all
            last, step, _ = line.commands[-1]
            if step is last.step and not any(asked is step for _, asked, _, _ in line.answers) and step not in last.answers.values():
                whole = [command for command in line.commands if command[1] is step]
                if not last.answers and (not isinstance(step, self.rules.Send) or len(whole) == len(step.messages)):
                    unwritten = step
                    line.commands = [command for command in line.commands if command[1] is not step]
        elif pick % 3 == 1:
            del line.commands[pick % (len(line.commands) + 1) :]
        for call in self.calls:
            if call.line is line and call.step is not None:
                written = call.step is not unwritten
                sends = isinstance(call.step, self.rules.Send)
                self._broke(call, (line.identity,) if sends and written else (), written=written)

    # -- the server ------------------------------------------------------------------------------------------------------------------

    def _carry_out(self, line: Line) -> None:
        call, step, place = line.commands.pop(0)
        rules, data = self.rules, self.data
        answer: Any
        if isinstance(step, rules.Send):
            answer = self._append(call.kind, step.messages[place].msg_id, step.messages[place].partition, self._sent_in[id(step)][0])
        elif isinstance(step, rules.Find):
            answer = self._find(step)
        elif isinstance(step, rules.Kill):
            answer = not self.forbids
            for other in self.lines if answer else ():
                if other.identity in step.connections and other.identity[2] == self.run:
                    other.reaches, other.commands = False, []
        elif isinstance(step, rules.LearnAnchors):
            answer = [b"%d-0" % data.streams[p].last if p in data.streams else None for p in step.partitions]
        else:
            if isinstance(step, rules.MakeTopic):
                self._make_streams()
            answer = (data.generation, data.partitions)
        line.answers.append((call, step, place, answer))

    def _append(self, kind: Kind, msg_id: str, partition: int, generation: int) -> Any:
        stream = self.data.streams.get(partition)
        if kind == "once" and stream is not None and msg_id in stream.marks:
            return b""
        if self.refusals and kind != "delay":
            return self.refusals.pop()
        if stream is None or stream.cuts < generation:
            return None
        if stream.cuts > generation:  # E6: sealed
            return self.rules.SEALED if kind == "once" else None
        if kind == "delay":
            if msg_id not in stream.delayed:
                stream.delayed.add(msg_id)
                self.data.taken.append((msg_id, partition))
            return b""
        if kind == "once":
            stream.marks[msg_id] = msg_id
        return b"%d-0" % self._add(stream, msg_id, partition)

    def _add(self, stream: Stream, msg_id: str, partition: int) -> int:
        stream.last = max(int(self.now) * 10 - self.behind, stream.last + 1)
        stream.entries.append((stream.last, msg_id))
        stream.added += 1
        self._appended_at[stream.last] = self.now
        if msg_id:
            self.data.taken.append((msg_id, partition))
        return stream.last

    def _find(self, step: Any) -> tuple[list[bytes | None], bool, bytes]:
        stream, anchor = self.data.streams.get(step.partition, Stream()), int(step.anchor.split(b"-")[0])
        there = {msg_id: b"%d-0" % entry for entry, msg_id in stream.entries if entry > anchor} | dict.fromkeys(stream.delayed, b"")
        reaches = stream.added == len(stream.entries) or (bool(stream.entries) and stream.entries[0][0] <= anchor)
        return [there.get(message.msg_id) for message in step.messages], reaches, b"%d-0" % stream.last

    def _make_streams(self) -> None:
        for partition in range(self.data.partitions):
            stream = self.data.streams.setdefault(partition, Stream())
            stream.cuts = max(stream.cuts, self.data.generation)

    def crowd(self, pick: int) -> None:
        """Let somebody else append."""
        partition = pick % self.data.partitions
        if partition in self.data.streams:
            self._add(self.data.streams[partition], "", partition)

    def move_delayed(self) -> None:
        """Let what is delayed become due."""
        for stream in self.data.streams.values():
            for msg_id in sorted(stream.delayed)[:1]:
                stream.delayed.remove(msg_id)
                self._add(stream, "", 0)
                stream.entries[-1] = (stream.last, msg_id)

    def trim(self, keep: int) -> None:
        """Trim all streams."""
        for stream in self.data.streams.values():
            surplus = 0
            if self.trims == "to length":
                surplus = max(0, len(stream.entries) - keep)
            elif self.trims == "what is acked":  # the newest of those that are old enough stays (E3)
                surplus = sum(self._appended_at[entry] <= self.now - 2 * TIMEOUT for entry, _ in stream.entries) - 1
            del stream.entries[: max(0, surplus)]

    def grow(self, more: int) -> None:
        """Let the topic grow."""
        if self.data.partitions < 6:
            self.data.generation, self.data.partitions = self.data.generation + 1, self.data.partitions + more
            self._make_streams()

    def replicate(self) -> None:
        """Let the replica hear of everything."""
        self.replica = copy.deepcopy(self.data)

    def restart(self, behind: int, *, failover: bool) -> None:
        """Let the server be another run, with a clock that is so much behind; after a failover with what the replica has."""
        if failover:
            taken = self.data.taken
            self.data = copy.deepcopy(self.replica)
            self.lost |= {msg_id for msg_id, _ in taken} - {msg_id for msg_id, _ in self.data.taken}
        self.run, self.behind = f"run-{next(self._runs)}", behind
        for line in self.lines:
            line.reaches, line.commands = False, []
        self.disconnect(1, server_is_gone=True)
        self.replicate()

    def lose_stream(self, pick: int) -> None:
        """Lose one partition's data."""
        self.flushed = True
        partition = pick % self.data.partitions
        self.lost |= {msg_id for msg_id, place in self.data.taken if place == partition}
        self.data.taken = [one for one in self.data.taken if one[1] != partition]
        self.data.streams.pop(partition, None)
        self.replicate()

    def refuse(self, *, passing: bool) -> None:
        """Let the server refuse one of the next appends."""
        self.refused = True
        self.refusals.append(ConnectionFailed("here", "BUSY") if passing else ServerError("OOM", appended=()))

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    # -- the end ---------------------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let all calls end without further faults, then all arrive that still can; and judge."""
        self.refusals.clear()
        for turn in range(20_000):
            if all(call.over for call in self.calls):
                break
            self.go(turn)
            self.arrive(turn)
            self.answer()
            self.tick(0.05)
        else:
            raise Violation("a call does not end", [call.enqueue.state for call in self.calls if not call.over])
        while lines := [line for line in self.lines if line.reaches and line.commands]:
            self._carry_out(lines[-1])
        self.judge()

    def judge(self) -> None:
        """Compare what each caller heard with what is there."""
        taken = [msg_id for msg_id, _ in self.data.taken]
        twice = [msg_id for msg_id, times in Counter(taken).items() if times > 1]
        if twice:
            raise Violation("twice", twice)
        for call in self.calls:
            if not call.cancelled:
                self._judge(call, set(taken))
        if not self.forbids and not self.flushed:
            self._judge_order()

    def _judge(self, call: Call, taken: set[str]) -> None:
        error: RedisaqError | None = call.enqueue.error
        self.kinds[type(error).__name__] += 1
        appended: list[bytes | None] = list(getattr(error, "appended", None) or [None] * len(call.messages))
        for place, message in enumerate(call.messages):
            there = message.msg_id in taken or message.msg_id in self.lost
            if error is None:
                wrong = not there
            elif isinstance(error, AmbiguousEnqueueError):
                wrong = message.msg_id not in error.message_ids and not there
            else:
                was = appended[place] is not None
                wrong = not there if was else message.msg_id in taken
            if wrong:
                raise Violation("told wrong", message.msg_id, error, appended)
        if isinstance(error, ServerError) and not any(message.known == "refused" for message in call.messages):
            raise Violation("failed, and nothing was refused")
        if isinstance(error, AmbiguousEnqueueError) and "trimming" in error.reason and not self.flushed:
            if self.trims == "nothing" and self.run == "run-0":
                raise Violation("nothing was trimmed, and yet it is unknown")
            if self.trims == "what is acked" and self.run == "run-0":
                raise Violation("the evidence was trimmed (E3)")

    def _judge_order(self) -> None:
        at = {msg_id: (place, partition) for place, (msg_id, partition) in enumerate(self.data.taken)}
        rows: list[tuple[int, int, Any, int]] = []
        for call in self.calls:
            if call.first is not None and call.kind == "append":
                for number, message in enumerate(call.messages):
                    if message.msg_id in at:
                        place, partition = at[message.msg_id]
                        lane = message.key if message.key is not None else f"partition {partition}"
                        rows.append((call.first, number, (call.first if self.refused else 0, lane), place))
        last: dict[Any, int] = {}
        for first, _, lane, place in sorted(rows):
            if last.get(lane, -1) > place:
                raise Violation("order", lane, first)
            last[lane] = place
