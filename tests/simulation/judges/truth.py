"""Judges reports: messages are as they were appended, stored failures are as they happened, and events tell what happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import cast

from redisaq import events
from redisaq.brokers.steps.settling import Resolved
from redisaq.core.entry_ids import EntryId, parse_id
from redisaq.core.records import Resolution
from redisaq.events import Event
from redisaq.outcomes import DeadLetter
from redisaq.testing.observing import Given, Place, Process, Run, show
from redisaq.testing.virtual import EPOCH
from tests.simulation.judges.court import Court, Judge

CLOCKS = 0.5
"""Seconds by which a member's estimate of the server's time may be wrong, plus a clock's drift in a simulation."""

DRIFT = 0.002
MOST_TEXT = 1000


class Contents(Judge):
    """Checks that the message which a handler gets is the one that its producer was given."""

    def __init__(self, court: Court) -> None:
        """Begin."""
        super().__init__(court)
        self._given: dict[str, Given] = {}
        self._got: dict[str, Run] = {}

    def produced(self, msg_id: str, given: Given | None) -> None:
        """Keep it, since a handler may have begun before."""
        if given is None:
            return
        self._given[msg_id] = given
        if msg_id in self._got:
            self._compare(self._got[msg_id], given)

    def begun(self, run: Run) -> None:
        """Compare the message with what was given, and with its entry."""
        self._got[run.message.msg_id] = run
        given = self._given.get(run.message.msg_id)
        if given is not None:
            self._compare(run, given)
        store = self.court.store
        stream = None if store is None else store.streams.get((run.group.topic, run.message.partition))
        fields = None if stream is None else stream.fields(run.entry_id)
        if fields is None:
            return
        words = dict(zip(fields[::2], fields[1::2], strict=True))
        told = run.message.msg_id.encode(), None if run.message.key is None else run.message.key.encode()
        if (words.get(b"i"), words.get(b"k")) != told:
            self.court.violation(f"{run.process.name} was handed {run} as {told}: its entry says {words.get(b'i')!r}, {words.get(b'k')!r}")

    def _compare(self, run: Run, given: Given) -> None:
        message = run.message
        if not run.process.reads_json:
            return
        got = Given(message.payload, message.key, dict(message.headers), message.timeout)
        if got != given:
            self.court.violation(f"{run.process.name} was handed {run} as {got}: its producer was given {given}")


class Failures(Judge):
    """Checks that a stored failure has the error that was raised, how many times, first and last."""

    def resolved(self, who: str, place: Place, token: int, resolutions: Sequence[Resolution], answer: Resolved) -> None:
        """Compare with the last run."""
        for index, one in enumerate(resolutions):
            entry_id = parse_id(one.body.entry_id)
            runs = [run for run in self.court.runs_of(place, entry_id) if run.message.token == token]
            if not answer.done or not answer.moved[index] or one.to == "done" or not runs or one.body.failure is None:
                continue
            last, failure = runs[-1], one.body.failure
            if last.outcome != "raised" or last.error is None or last.ended is None or last.process.name != who:
                continue
            if (failure.error_type, failure.error) != (wanted := _described(last.error)):
                self.court.violation(f"{who} stored {failure.error_type}: {failure.error!r} of {last}, which raised {wanted}")
            if failure.attempts != last.message.attempt:
                self.court.violation(f"{who} stored {failure.attempts} attempts of {last}")
            if self.court.forgot:  # a failure is not stored if the server has forgotten the delivery; then the count begins again
                runs = runs[max((at for at, run in enumerate(runs) if run.message.attempt == 1), default=0) :]
            failed = [run.ended for run in runs if run.outcome == "raised" and run.ended is not None]
            for what, stored, real in (("first", failure.first_failed_ms, failed[0]), ("last", failure.last_failed_ms, failed[-1])):
                said = stored / 1000 - EPOCH
                if said > real + self._wrong(real) or (what == "last" and said < real - self._wrong(real)):
                    text = f"{who} stored {said:.3f} as the time at which {show(place, entry_id)} failed {what}, not {real:.3f}"
                    self.court.violation(text)

    def _wrong(self, time: float) -> float:
        return CLOCKS + DRIFT * time


def _described(error: Exception) -> tuple[str, str]:
    inner = cast("Sequence[Exception]", getattr(error, "exceptions", ()))
    if len(inner) == 1:
        return _described(inner[0])
    if isinstance(error, DeadLetter):
        return "DeadLetter", error.reason[:MOST_TEXT]
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return name, str(error)[:MOST_TEXT]


Case = tuple[str, str, str]
"""Identifies what one member did with one message: the member, what is reported or done, and the entry with its attempt."""


class Events(Judge):
    """Checks that each run and each settlement is reported once, nothing else is reported, and members' beliefs match the server."""

    def __init__(self, court: Court) -> None:
        """Begin."""
        super().__init__(court)
        self._announced: dict[Process, Counter[str]] = {}
        self._returned: dict[Process, Counter[str]] = {}
        self._raised: dict[Process, Counter[str]] = {}
        self._settled: Counter[Case] = Counter()
        self._forgotten: set[tuple[Place, EntryId]] = set()
        self._redelivered: set[tuple[Place, EntryId]] = set()
        self._doubtful: Counter[Case] = Counter()

    def begun(self, run: Run) -> None:
        """It has been reported, by a process that has the partition."""
        if not _take(self._announced, run.process, str(run)):
            self.court.violation(f"{run.process.name} began {run} and had not reported it")
        tenures = self.court.tenures_of(run.place)
        if not any(one.process is run.process and one.token == run.message.token for one in tenures):
            self.court.violation(
                f"{run.process.name} began {run} under {run.message.token}, and had not reported that it has the partition"
            )

    def ended(self, run: Run) -> None:
        """Its end must be reported, unless it was cancelled."""
        if run.outcome in ("returned", "raised"):
            counts = self._returned if run.outcome == "returned" else self._raised
            counts.setdefault(run.process, Counter())[str(run)] += 1

    def resolved(self, who: str, place: Place, token: int, resolutions: Sequence[Resolution], answer: Resolved) -> None:
        """It must be reported.

        S1: a message that is not found counts as settled if an earlier try may have settled it. A member cannot know that the server
        settled it and forgot it, or has lost the entry. Such a settlement may be reported, once.
        """
        del token
        for index, one in enumerate(resolutions if answer.done else ()):
            entry_id = parse_id(one.body.entry_id)
            case = who, one.to, show(place, entry_id)
            if answer.moved[index]:
                self._settled[case] += 1
                self._forgotten.discard((place, entry_id))
            else:
                for excused in (self._forgotten, self._redelivered):
                    if (place, entry_id) in excused:
                        excused.discard((place, entry_id))
                        self._doubtful[case] += 1
                        break

    def forgotten(self, entries: Collection[tuple[Place, EntryId]]) -> None:
        """Note what the server has forgotten."""
        self._forgotten.update(entries)

    def sought(self, place: Place, before: EntryId, after: EntryId) -> None:
        """A message that its owner has in hand and receives again runs twice.

        One of the two settlements finds nothing, and may still be reported.
        """
        entries = self.record.whereabouts.entries.get((place[0].topic, place[1]), {})
        self._redelivered.update((place, entry_id) for entry_id in entries if after < entry_id <= before)

    def told(self, process: Process, place: Place | None, event: Event) -> None:
        """Check whether it has happened, and how many times it was reported."""
        if place is None:
            return
        if isinstance(event, events.PartitionAcquired) and self.court.store is not None:
            lease = self.court.store.lease(*place)
            if lease.token < event.token and self.court.undisturbed(self.court.now()):
                where = f"{place[0].topic}/{place[1]}"
                self.court.violation(f"{process.name} told that it has {where} under {event.token}, and {lease.token} stands")
        if isinstance(event, events.EntryUnreadable):
            self._told_settled(process, "dead", show(place, parse_id(event.entry_id.encode())))
        if isinstance(event, events.MessageEvent):
            self._told_of_message(process, place, event)

    def _told_of_message(self, process: Process, place: Place, event: events.MessageEvent) -> None:
        match event:
            case events.MessageStarted():
                self._announced.setdefault(process, Counter())[_run(event)] += 1
            case events.MessageSucceeded():
                if not _take(self._returned, process, run := _run(event)):
                    self.court.violation(f"{process.name} told of {run} that it succeeded, and no handler had returned")
            case events.MessageFailed():
                _take(self._returned, process, run := _run(event))  # its time was over just when it returned
                _take(self._raised, process, run)
            case events.MessageDead():
                self._told_settled(process, "dead", show(place, _entry(event)))
            case events.MessageRetried(blocking=False):
                self._told_settled(process, "retry", show(place, _entry(event)))
            case _:
                pass

    def _told_settled(self, process: Process, to: str, where: str) -> None:
        case = process.name, to, where
        for counts in (self._settled, self._doubtful):
            if counts[case] > 0:
                counts[case] -= 1
                break
        else:
            self.court.violation(f"{process.name} told that {where} went to {to}, more often than the server had done that")

    def closed(self) -> None:
        """Everything that happened has been reported, except by members that crashed or lost their lease meanwhile."""
        for process, counts in self._returned.items():
            for run, count in counts.items():
                if count > 0 and not process.crashed and not self._broken(process):
                    self.court.violation(f"{process.name} never reported that {run} succeeded")
        for process, counts in self._announced.items():
            for run, count in counts.items():
                if count > 0 and not process.crashed:
                    self.court.violation(f"{process.name} told that {run} begins, and it did not")

        broken = {one.process.name for one in self.court.all_tenures() if one.end in ("lost", "crashed")}
        for (name, to, where), count in self._settled.items():
            if to == "dead" and count > 0 and name not in broken:
                self.court.violation(f"{name} never reported that {where} died")

    def _broken(self, process: Process) -> bool:
        return any(one.process is process and one.end in ("lost", "crashed") for one in self.court.all_tenures())


def _take(counts: dict[Process, Counter[str]], process: Process, what: str) -> bool:
    found = counts.get(process)
    if found is None or found[what] <= 0:
        return False
    found[what] -= 1
    return True


def _run(event: events.MessageEvent) -> str:
    return f"{event.topic}/{event.partition} {event.entry_id} attempt {event.attempt}"


def _entry(event: events.MessageEvent) -> EntryId:
    return parse_id(event.entry_id.encode())
