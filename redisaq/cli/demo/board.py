"""Everything that the demo's views show: who owns what, how far it all is, what has happened. Pure: times are given.

In: the children's reports, and what the parent does. Out: rows and lines to look at. Times are seconds since the demo's start.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from redisaq.cli.demo.meter import Meter
from redisaq.cli.demo.reports import Acquired, Failed, Looked, Noted, Processed, Produced, Released, Report
from redisaq.cli.demo.takeover import Takeover
from redisaq.cli.demo.tally import Tally


@dataclass
class ConsumerRow:
    """One consumer process."""

    name: str
    pid: int = 0
    state: Literal["starting", "running", "killed", "ended"] = "starting"
    partitions: set[int] = field(default_factory=set[int])
    processed: int = 0
    in_hand: int = 0
    meter: Meter = field(default_factory=Meter)


@dataclass
class PartitionRow:
    """One partition; `since` tells from when it has, or has not, an owner."""

    number: int
    owner: str | None = None
    since: float = 0.0
    processed: int = 0
    meter: Meter = field(default_factory=Meter)


@dataclass(frozen=True)
class Line:
    """Something that happened.

    Attributes:
        at: when.
        text: what, in words.
        tone: how good it is.
    """

    at: float
    text: str
    tone: Literal["plain", "good", "bad"] = "plain"


class Board:
    """See the module.

    Attributes:
        title: what runs where.
        tally: of messages.
        partitions: by number.
        consumers: by name, in the order of their start.
        takeover: None before the kill.
        phase: what goes on, in words.
        over: the group is being dissolved: partitions without an owner mean nothing any more.
        lines: what has happened.
        produced, processed: the rates of the tally's two counts.
    """

    def __init__(self, title: str, *, messages: int, partitions: int, consumers: Sequence[str]) -> None:
        self.title = title
        self.tally = Tally(messages)
        self.partitions = [PartitionRow(number) for number in range(partitions)]
        self.consumers = {name: ConsumerRow(name) for name in consumers}
        self.takeover: Takeover | None = None
        self.phase = "starting the processes"
        self.over = False
        self.lines: list[Line] = []
        self.produced = Meter()
        self.processed = Meter()

    @property
    def all_owned(self) -> bool:
        """True if every partition has an owner."""
        return all(partition.owner is not None for partition in self.partitions)

    @property
    def balanced(self) -> bool:
        """True if every partition has an owner, and their loads differ by at most one."""
        loads = [len(row.partitions) for row in self.consumers.values() if row.state == "running"]
        return self.all_owned and max(loads, default=0) - min(loads, default=0) <= 1

    def say(self, now: float, text: str, tone: Literal["plain", "good", "bad"] = "plain") -> None:
        """Add a line, after those about takeovers that have not been told yet."""
        self._tell_takeovers(now)
        self.lines.append(Line(now, text, tone))

    def take(self, name: str, report: Report, now: float) -> None:
        """Take a child's report into account."""
        match report:
            case Processed(partition=number, msg_id=msg_id):
                self.tally.add_processed(msg_id)
                self.consumers[name].processed += 1
                self.partitions[number].processed += 1
            case Produced(ids=ids):
                self.tally.add_produced(ids)
            case Acquired(partition=number):
                self._acquired(name, number, now)
            case Released(partition=number):
                self._released(name, number, now)
            case Looked():
                self.consumers[name].in_hand = report.in_flight + report.waiting
            case Noted(text=text):
                self.say(now, f"{name} {text}")
            case Failed(reason=reason):
                self.say(now, f"{name} failed: {reason}", "bad")
            case _:
                pass

    def killed(self, name: str, now: float) -> None:
        """Note that a consumer was killed: what it owned has no owner from now on."""
        row = self.consumers[name]
        self.say(now, f"killed {name} (SIGKILL); it owned {partitions_in_words(row.partitions)}", "bad")
        self.takeover = Takeover(name, row.partitions, now)
        self.gone(name, "killed", now)

    def gone(self, name: str, state: Literal["killed", "ended"], now: float) -> None:
        """Note that a consumer is no more."""
        row = self.consumers[name]
        for number in list(row.partitions):
            self._released(name, number, now)
        row.state, row.in_hand = state, 0

    def tick(self, now: float) -> None:
        """Bring the rates up to date, and say who has taken over what."""
        self.produced.sample(now, self.tally.produced)
        self.processed.sample(now, self.tally.processed)
        rows: list[ConsumerRow | PartitionRow] = [*self.consumers.values(), *self.partitions]
        for row in rows:
            row.meter.sample(now, row.processed)
        self._tell_takeovers(now)

    def _tell_takeovers(self, now: float) -> None:
        if self.takeover is not None:
            for by, taken, seconds in self.takeover.news():
                text = f"{by} took over {partitions_in_words(taken)}, {seconds:.2f} s after the kill"
                self.lines.append(Line(now, text, "good"))

    def _acquired(self, name: str, number: int, now: float) -> None:
        row = self.partitions[number]
        if row.owner is not None:  # the report of its release is still on its way
            self.consumers[row.owner].partitions.discard(number)
        row.owner, row.since = name, now
        self.consumers[name].partitions.add(number)
        if self.takeover is not None:
            self.takeover.acquired(number, name, now)

    def _released(self, name: str, number: int, now: float) -> None:
        self.consumers[name].partitions.discard(number)
        row = self.partitions[number]
        if row.owner == name:
            row.owner, row.since = None, now


def ranges(numbers: Collection[int]) -> str:
    """Return numbers in few characters: `0-3 7 9-10`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return " ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def partitions_in_words(numbers: Collection[int]) -> str:
    """Return `no partition`, `partition 3` or `partitions 0-3 7`."""
    if not numbers:
        return "no partition"
    return f"partition{'s' if len(numbers) > 1 else ''} {ranges(numbers)}"
