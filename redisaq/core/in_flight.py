"""The messages that the owner of one partition has in hand: what is known of each, and what to do next.

Nothing here waits, reads a clock, draws a random number or talks to a server. The methods are events ("the server answered", "a handler
raised") and questions ("what is to be read next?"). The caller does what the answers say and reports what came of it.

The problem
===========

A message is *in flight* from its delivery until the server has confirmed its settlement. Two sides know about it, and what one tells the
other may be late or lost:

- The server knows where the message is: pending in the stream, or in the group's `retry` set. It also keeps a number, which only counts up:
  a delivery count in the stream, an attempt in `retry`.
- The owner knows whether a handler has begun.

If the owner's process dies, that number is all that the next owner learns. So the number must be right at each moment (T5). The read of a
new message counts it, and its handler may begin at once. For any other message the server has to raise the number first, so that a process
that dies in the handler has used up an attempt. If no handler begins after all, because the partition goes to another member, the number
is set back.

The *state* of a message answers the three questions that follow from this. May a handler begin? What has to be undone if none does? Is the
message over? Only the confirmation of the server ends a flight (S1).

The states
==========

========  =============================================================  ====================  ========================================
state     meaning                                                        may a handler begin?  when the partition is handed back
========  =============================================================  ====================  ========================================
new       delivered for the first time                                   yes                   set its count to 0
repeat    delivered before; the number at the server is right            after `prepare`       nothing
held      failed here and its key queue waits; the number is too low     after `prepare`       set its count
counting  the server has been asked to raise the number                  after the answer      set its count, and again after the release
counted   the number may be one too high                                 yes                   set its count, and again after the release
running   a handler has it                                               -                     cancelled, it stays where it is
outdated  a handler has it, or its settlement is on its way, and the     -                     nothing
          group was moved back: whatever comes of it does not count
done      its handler returned: it is to be acknowledged                 -                     settle it first
ending    it goes to `retry` or the dead letters, or leaves `retry`      -                     settle it first
========  =============================================================  ====================  ========================================

"Set its count" is said of a message of the stream. What was counted in `retry` goes back there as an attempt that is not used
(`give_back`). Both are said again after the release, because the release is what keeps out a raise that is still on its way (T5).

Being sent is no state: `acking` and `sending` hold what is on its way to the server. If a connection breaks, both are sent again. That does
no harm, since a settlement changes something only once (S1).

A message may also change its source. If an administrator moves the group back (seek), the stream delivers it once more, as new. What came
of the earlier delivery must not count for the new one (S5), so it is forgotten here, and the server refuses it under the earlier token.

What outlives a flight
======================

Four sets of ids are all that is kept of messages that are no longer in flight:

- `unfound`: their settlement found nothing, or may have come too early to count. If the group was lost by then, they are not settled (T6).
- `left`: their handlers were cancelled, so they are still pending. A group that is made again has to begin before them (T6).
- `doubtful`: the server delivered them a second time while they were in flight, or may have. What is still pending of them once they have
  ended is claimed again (T6, S5).
- `settled_since`: settled while the server was asked what is due; its answer may be older than that and name them (S3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any, Literal, NamedTuple

import msgspec

from redisaq.core.entry_ids import START, EntryId, before, format_id, parse_id
from redisaq.core.records import MOST_BETWEEN, NO_FAILURE, Body, Entry, Failure, Resolution, Unreadable, microseconds
from redisaq.core.retry import describe, exhausted, judge, sole
from redisaq.message import Message
from redisaq.settings import RetryPolicy

State = Literal["new", "repeat", "held", "counting", "counted", "running", "outdated", "done", "ending", "gone"]


class Row(NamedTuple):
    """The transitions of one event; a state that is missing does not allow the event.

    Attributes:
        rules: the numbers of the rules that require it.
        moves: state before -> state afterwards.
    """

    rules: str
    moves: dict[State, State]


TABLE: Mapping[str, Row] = {
    # A handler is about to begin. The server has to know first, unless it counted the message when it was read.
    "prepare": Row("T5", {"repeat": "counting", "held": "counting", "counting": "counting", "counted": "counting"}),
    "counted": Row("T5", {"counting": "counted"}),
    "start": Row("T5", {"new": "running", "counted": "running"}),
    # As many handlers as allowed have begun, and none of them ended.
    "exhausted": Row("T5", {"repeat": "ending", "counted": "ending"}),
    # The server did not find it in `retry`: it was purged.
    "purged": Row("S1", {"counting": "gone"}),
    # The handler's result. A message of `retry` stays there until a settlement removes it. A pulled message may fail without being entered.
    "returned": Row("S1", {"running": "done"}),
    "returned, from retry": Row("S1 S3", {"running": "ending"}),
    "failed": Row("S1", {"running": "ending", "new": "ending", "counted": "ending"}),
    "cancelled": Row("T6 S5", {"running": "gone", "outdated": "gone"}),
    "taken back": Row("T5", {"running": "counted"}),
    # Its key queue waits for the next attempt. RetryAfter uses no attempt, but the server has counted one.
    "failed, its queue waits": Row("T5 T7", {"running": "held"}),
    "failed, its queue waits, from retry": Row("T5 T7", {"running": "repeat"}),
    "put off, its queue waits": Row("T5 T7", {"running": "counted"}),
    "written": Row("T5", {"held": "repeat"}),
    # The group was moved back, and the stream delivers what still waits here as new. A raise of its count may be on its way.
    "delivered as new": Row("T5", {"new": "new", "repeat": "new", "held": "counted", "counting": "counted", "counted": "counted"}),
    "delivered as new, from retry": Row("T5 S3", {"repeat": "new", "counting": "new", "counted": "new"}),
    # The group was moved back, and its owner knows. What waits here comes again; what a handler has, or is being settled, does not count.
    "outdated": Row(
        "S5",
        {
            "new": "gone",
            "repeat": "gone",
            "held": "gone",
            "counting": "gone",
            "counted": "gone",
            "done": "gone",
            "running": "outdated",
            "ending": "outdated",
            "outdated": "outdated",
        },
    ),
    "ended, outdated": Row("S5", {"outdated": "gone"}),
    # The partition is handed back, and an attempt that `retry` may have counted is not used.
    "given back": Row("T5", {"counting": "ending", "counted": "ending"}),
    # The server confirmed the settlement, or the partition belongs to another owner (M4).
    "settled": Row("S1 S5", {"done": "gone", "ending": "gone", "outdated": "gone"}),
}

STARTS, RETURNS = TABLE["start"].moves, TABLE["returned"].moves  # the two events of nearly every message
WAITING = frozenset[State](("new", "repeat", "held", "counting", "counted"))

OVERTAKING = WAITING - {"held"}
"""What waits in these states, and was delivered after the group was moved, must not begin before what was moved has come again."""

MOST_ENDING = 1000
"""With more than this number to settle other than by an acknowledgement, nothing more is read."""


class Misstep(Exception):
    """An event was reported for a message whose state does not allow it: a mistake of the caller."""


class Flight(Message[Any], eq=False):
    """One message in flight: what the handler gets, and what this module knows about it.

    The decoder of entries makes it. An unreadable message is a flight, too, with `attempt` 0, and is never given to a handler.

    Attributes:
        state: the row of the first table above that applies now.
        count: the delivery count that the server should have if no further handler begins. 0: as if it had never been delivered.
        body: the body in `retry`, with the last attempt that was counted; None for a message of the stream.
        first_failed: when it first failed here, in the server's milliseconds, if its key queue waits for it; else 0.
    """

    state: State = "new"
    count: int = 0
    body: Body | None = None
    first_failed: int = 0


class Ending(msgspec.Struct, eq=False):
    """A message to settle other than by an acknowledgement.

    Attributes:
        flight: the message.
        resolution: where it goes.
        reason: why it is dead, in words.
        pause: seconds until it is tried again.
        uncertain: it has been sent, and it is not known whether the server has done it.
    """

    flight: Flight
    resolution: Resolution
    reason: str = ""
    pause: float = 0.0
    uncertain: bool = False


class Hold(NamedTuple):
    """The key queue of `flight` is to wait for its next attempt, for `pause` seconds."""

    flight: Flight
    pause: float


class Claim(msgspec.Struct, frozen=True):
    """Ask for up to `count` pending entries above `after`, and report to `claimed`.

    Attributes:
        after: the id.
        count: how many.
        settlements: how many settlements had been confirmed when this was asked.
        token: the token under which it is asked.
    """

    after: bytes
    count: int
    settlements: int
    token: int


class Read(msgspec.Struct, frozen=True):
    """Ask for up to `count` new entries, and report to `answered` and `delivered`.

    Attributes:
        count: how many.
        unfound: messages that an answer can confirm as settled (T6).
    """

    count: int
    unfound: frozenset[bytes]


class HandOver(msgspec.Struct, frozen=True):
    """Give these to the handlers: they had to wait for an earlier run of the same message."""

    flights: list[Flight]


class Counting(msgspec.Struct, frozen=True):
    """What the server has to know before handlers begin (T5).

    Attributes:
        counts: delivery counts to raise; report to `counted`.
        retries: messages of `retry` whose attempt, the one in `body`, is to be recorded; report each to `noted`.
    """

    counts: dict[bytes, int]
    retries: list[Flight]


class Remake(msgspec.Struct, frozen=True):
    """Make the group again after `start` if the stream still holds the entry `evidence`, else from the beginning (T6)."""

    evidence: bytes
    start: bytes


class InFlight:
    """All messages that one owner has in hand of one partition, under one token."""

    def __init__(
        self,
        partition: int,
        token: int,
        member: str,
        *,
        policy: RetryPolicy,
        decode: Callable[[Iterable[Entry], int, int], tuple[list[Flight], list[Unreadable]]],
        window: int,
        page: int,
    ) -> None:
        """Begin without messages.

        Args:
            partition: its number.
            token: the fencing token under which it is owned.
            member: the owner's incarnation, which is recorded with failures.
            policy: decides what becomes of failures.
            decode: makes flights of entries, given the partition and the token, and tells which entries are unreadable.
            window: how many messages may wait for a handler.
            page: how many entries one read may return.
        """
        self.partition, self.token, self.member = partition, token, member
        self.standing = token  # what the server accepts: the same, until the group is moved
        self.may_start = True  # handlers may begin, as far as the partition goes; the caller looks at the lease as well
        self.lost = ""  # why the partition was lost; "" while it is owned
        self.waiting = 0  # messages that wait for a handler
        self.handled = self.failures = 0
        self.trimmed = 0  # entries that trimming took before they were settled
        self.position = b""  # the entry of this stream that was read last
        self._reached = b""  # the same, since the group was made again
        self.settlements = 0  # how often the server confirmed some
        self.flights: dict[bytes, Flight] = {}
        self.done: list[bytes] = []
        self.acking: list[bytes] = []
        self.ending: list[Ending] = []
        self.sending: list[Ending] = []
        self.unfound: set[bytes] = set()
        self.left: set[bytes] = set()
        self.doubtful: set[bytes] = set()
        self.settled_since: set[bytes] | None = None
        self.ahead = False  # one more read has been asked for already
        self.withheld: list[Entry] = []  # delivered again while a handler has one of them
        self._policy, self._decode = policy, decode
        self._window, self._page = window, page
        self._of_retry = 0  # messages of `retry` that wait or run
        self._given_back: list[Resolution] = []
        self._server = ""  # run_id of the server that is read
        self._trusted = True  # it knows what has been settled
        self._remade = False  # entries up to the highest may be delivered a second time
        self._overtaking = False  # what is delivered now belongs behind what is doubtful
        self._highest = START  # of all that was read or claimed: nothing in flight is above both …
        self._highest_due = START  # … this and the highest one that was due
        self._seen: bytes | None = None  # all that is pending up to here is known; None before the first claim
        self._after: bytes | None = b""  # where a claim that is under way goes on; None: none is
        self._until: EntryId | None = None  # it ends with the page that reaches this

    # -- reading -----------------------------------------------------------------------------------------------------------------

    def connected(self, server: str) -> None:
        """A reading connection was opened. First, claim what an earlier one may have been given unseen (T1, T3).

        A server with another run_id may have missed settlements and deliveries, so everything is claimed from the beginning (T6).
        """
        self.ahead = False
        if self._server not in ("", server):
            self._trusted = False
            self._begin_again()
        self._server = server
        self._after, self._until = self._seen or b"", None

    @property
    def coming(self) -> int:
        """How many entries the next answer may bring."""
        return 2 * self._page if self.ahead else self._page

    def next_read(self, now: int) -> Claim | Read | HandOver | None:
        """Return what to ask the server for; None: nothing until a message has begun or has been settled."""
        if self.withheld and not self.claiming:
            if any(entry in self.flights for entry, _ in self.withheld):
                return None
            again, self.withheld = self.withheld, []
            return HandOver(self._record(again, now))
        if not self.has_room(self.coming):
            return None
        if self.doubtful and not self.claiming and not self.ahead:  # an answer that is under way could bring what is looked for
            self._look_again()
        if self._after is not None:
            return Claim(self._after, self._page, self.settlements, self.standing)
        return Read(self._page, frozenset() if self.ahead else frozenset(self.unfound))

    @property
    def claiming(self) -> bool:
        """True while pending entries are being claimed, page by page: `next_read` asks for nothing else until that is done."""
        return self._after is not None

    def claimed(self, claim: Claim, entries: Sequence[tuple[bytes, Sequence[bytes], int]], last: bytes | None, now: int) -> list[Flight]:
        """The server answered a claim; return what to give to the handlers (T5).

        Args:
            claim: what was asked.
            entries: each with its fields and its delivery count.
            last: where the next page begins; None after the last one.
            now: the server's time in microseconds.
        """
        settled = claim.settlements != self.settlements and parse_id(claim.after) < self._highest
        if settled or claim.token != self.standing:
            return []  # some of these may have been settled since, or moved (S5): `next_read` asks again
        flights: list[Flight] = []
        withheld = {entry for entry, _ in self.withheld}
        for entry, fields, deliveries in entries:
            if entry in self.flights:
                self.doubtful.add(entry)
            elif entry not in withheld:
                flights += self._enter(entry, fields, now, count=deliveries)
        if entries:
            self._seen = entries[-1][0]
            self.position = self._reached = max(self.position, self._seen, key=parse_id)
        seen = parse_id(self._seen or b"")
        self._after = last if self._until is None or seen < self._until else None
        self._highest = max(self._highest, seen)
        return flights

    def answered(self, read: Read) -> None:
        """The server answered a read, perhaps with nothing: it has the group.

        So the group existed when a settlement found nothing. But a group that was made again may be lost another time; then it would begin
        before everything that it has not passed since (T6).
        """
        self.ahead, self._trusted = False, True
        if read.unfound:
            reached = parse_id(self._reached)
            self.unfound.difference_update([entry for entry in read.unfound if parse_id(entry) <= reached])

    def may_ask_ahead(self, entries: int) -> bool:
        """Return whether to ask for more after this many came: the page was full, there is room for two, and nothing is doubtful."""
        return entries == self._page and not self.doubtful and self.has_room(2 * self._page)

    def delivered(self, entries: Sequence[Entry], now: int) -> list[Flight]:
        """A read returned these; return what to give to the handlers.

        Normally all are above whatever was read before. If not, the group was made again (T6) or moved back. If it was moved back, a
        message that waits here becomes new again in its place. A message that a handler has comes again once the handler has ended, and so
        do the entries beside it.
        """
        highest, last = max(self._highest, self._highest_due), entries[-1][0]
        self._highest = max(self._highest, parse_id(last))
        self.position = self._reached = self._seen = last
        if self._overtaking:
            self.doubtful.update([entry for entry, _ in entries])
            return []
        if parse_id(entries[0][0]) > highest:
            self._remade = False
            return self._record(entries, now)
        flights = self.flights
        if self._remade:
            self.doubtful.update([entry for entry, _ in entries if entry in flights])
            return self._record([one for one in entries if one[0] not in flights], now)
        rest = [one for one in entries if not self._renewed(one[0])]
        if any(entry in flights for entry, _ in rest):
            self.withheld += rest
            return []
        return self._record(rest, now)

    def moved(self, token: int, position: bytes, delivered: bytes) -> None:
        """An administrator moved the group, which has spent the token (S5): go on under another one.

        What had been delivered above the position is new again, and what came of it does not count. Some of it may have been delivered
        since, and handled without knowing that: it is looked for again.

        Args:
            token: the current one.
            position: the lowest position to which the group was moved.
            delivered: the last entry that had been delivered before.
        """
        self.standing, above, last = token, parse_id(position), parse_id(delivered)
        if self._seen is not None:
            self._seen = min(self._seen, position, key=parse_id)
        outdated = {
            entry: flight
            for entry, flight in self.flights.items()
            if above < parse_id(entry) and (parse_id(entry) <= last or flight.state in OVERTAKING)
        }
        self.doubtful |= outdated.keys()
        self.doubtful.update([entry for entry, _ in self.withheld])  # what was delivered between them is outdated: claim all, in order
        self.withheld = []
        self._overtaking = bool(outdated)
        self.done = [entry for entry in self.done if entry not in outdated]
        self.acking = [entry for entry in self.acking if entry not in outdated]
        self.ending = [ending for ending in self.ending if ending.flight.entry not in outdated]
        sending = {ending.flight.entry for ending in self.sending}
        for entry, flight in outdated.items():
            self._of_retry -= flight.body is not None and flight.state != "ending"
            unsent = flight.state == "ending" and entry not in sending
            flight.body = None
            self._move(flight, "outdated")
            if unsent:
                self._move(flight, "ended, outdated")
            if flight.state == "gone":
                del self.flights[entry]

    def group_lost(self) -> Remake:
        """The server does not have the group; return where to make it again, so that nothing unsettled is skipped (T6).

        A server that has taken over and has no group at all never received the settlements, so the group begins at the beginning.
        """
        if not self._trusted:
            return Remake(b"", b"")
        stream = (entry for entry, flight in self.flights.items() if flight.body is None)
        lowest = min((*stream, *self.unfound, *self.left, *self.doubtful), key=parse_id, default=b"")
        return Remake(lowest, format_id(before(parse_id(lowest)))) if lowest else Remake(self.position, self.position)

    def group_made(self) -> None:
        """The group has been made again: what was read may be delivered a second time (T6)."""
        self.unfound |= self.left
        self.left.clear()
        self._begin_again()
        self._reached = b""
        if not self._trusted:
            self.position = b""  # it begins at the beginning

    def ask_due(self, count: int) -> int:
        """Return how many due retries to ask for, to learn of `count` others than those in flight, which are also due (S3)."""
        self.settled_since = set()
        return count + self._of_retry + len(self.ending) + len(self.sending)

    def due(self, bodies: Iterable[Body], now: int) -> list[Flight]:
        """These retries are due; return what to give to the handlers. They stay in `retry` until they are settled (S3)."""
        settled, self.settled_since = self.settled_since or (), None
        flights: list[Flight] = []
        for body in bodies:
            if body.entry_id not in self.flights and body.entry_id not in settled:
                flights += self._enter(body.entry_id, body.fields, now, body=body)
        return flights

    @property
    def running(self) -> int:
        """How many messages handlers have."""
        return len(self.flights) - self.waiting - len(self.done) - len(self.acking) - len(self.ending) - len(self.sending)

    def most_waiting(self, count: int) -> int:
        """Return how many messages may wait for a handler if `count` more are to have room: none, if the window is that small."""
        return max(0, self._window - count)

    def has_room(self, count: int) -> bool:
        """Return whether `count` more messages may wait here."""
        return self.waiting <= self.most_waiting(count) and len(self.ending) + len(self.sending) < MOST_ENDING

    def _record(self, entries: Sequence[Entry], now: int) -> list[Flight]:
        """Record entries that were delivered for the first time."""
        flights, unreadable = self._decode(entries, self.partition, self.token)
        for one in unreadable:
            self._bury(one, None, now)
        table = self.flights
        for flight in flights:
            table[flight.entry] = flight
        self.waiting += len(flights)
        return flights

    def _enter(self, entry: bytes, fields: Sequence[bytes], now: int, *, count: int = 0, body: Body | None = None) -> Sequence[Flight]:
        """Record one that was delivered before."""
        self.left.discard(entry)
        flights, unreadable = self._decode([(entry, fields)], self.partition, self.token)
        for one in unreadable:
            self._bury(one, body, now)
        for flight in flights:
            flight.state, flight.count, flight.body = "repeat", count, body
            if body is not None:
                self._of_retry += 1
                self._highest_due = max(self._highest_due, parse_id(entry))
            self.flights[entry] = flight
            self.waiting += 1
        return flights

    def _renewed(self, entry: bytes) -> bool:
        """Make a message that waits here new again, since the stream delivers it as new; return False if it does not wait here."""
        flight = self.flights.get(entry)
        if flight is None or flight.state not in WAITING:
            return False
        self._move(flight, "delivered as new" if flight.body is None else "delivered as new, from retry")
        self._of_retry -= flight.body is not None
        flight.attempt, flight.count, flight.body, flight.first_failed = 1, 0, None, 0
        return True

    def _begin_again(self) -> None:
        """Claim from the beginning, and expect that whatever is in flight is delivered a second time."""
        self._seen, self._remade, self.withheld = b"", True, []
        self._highest = max((self._highest, *map(parse_id, self.flights)))

    def _look_again(self) -> None:
        """Claim again what was delivered a second time and has been settled since: the settlement may have come too early (T6)."""
        self._overtaking = False
        ended = {entry for entry in self.doubtful if entry not in self.flights}
        if ended:
            self.doubtful -= ended
            self.unfound |= ended  # not settled for sure before the server has been asked and has answered a read
            ids = [parse_id(entry) for entry in ended]
            self._after = self._seen = format_id(before(min(ids)))
            self._until = max(ids)

    # -- handling ----------------------------------------------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """The partition goes to another member: no further handler begins."""
        self.may_start = False

    def prepare(self, flights: Iterable[Flight]) -> Counting | None:
        """Handlers are about to begin on these; return what the server has to know first, None if it knows all (T5)."""
        counts: dict[bytes, int] = {}
        retries: list[Flight] = []
        for flight in flights:
            state, body = flight.state, flight.body
            if state == "new" or state not in WAITING:
                continue
            if body is not None:
                attempt = body.attempt if state in ("counting", "counted") else body.attempt + 1
                if exhausted(self._policy.of(flight), attempt - body.unused):
                    flight.attempt = attempt - body.unused
                    continue
                flight.body = msgspec.structs.replace(body, attempt=attempt)
                retries.append(flight)
            elif state == "counted" and not flight.count:
                continue  # the stream has just delivered it as new, and counted it by that
            else:
                counts[flight.entry] = flight.count + 1
            self._move(flight, "prepare")
        return Counting(counts, retries) if counts or retries else None

    def still_counting(self, counting: Counting) -> dict[bytes, int]:
        """Return the delivery counts that are still to be raised: what was delivered as new meanwhile has the count of a new message."""
        asked = {flight.entry for flight in self.flights.values() if flight.state == "counting"}
        return {entry: count for entry, count in counting.counts.items() if entry in asked}

    def counted(self, counting: Counting) -> None:
        """The server has raised the delivery counts. The attempt is the raised count less one, since the first read counted one (T5)."""
        for entry in counting.counts:
            flight = self.flights.get(entry)
            if flight is not None and flight.state == "counting":  # and was not delivered as new meanwhile
                self._move(flight, "counted")
                flight.attempt = max(1, flight.count)

    def noted(self, flight: Flight, *, found: bool) -> bool:
        """The server has recorded the attempt of a message of `retry`, or has not found it there; return False if it is gone.

        It may then be there under another attempt, since a server that took over may have missed the last ones. Look for due retries again.
        """
        body = flight.body
        if flight.state != "counting" or body is None:  # an administrator moved the group back meanwhile: it is new again
            return True
        if found:
            self._move(flight, "counted")
            flight.attempt = body.attempt - body.unused
        else:
            self._end(flight, "purged")
        return found

    def exhausted(self, flight: Flight) -> bool:
        """Return whether a message that is about to begin has used up its attempts: report it to `crashed` then (T5)."""
        return exhausted(self._policy.of(flight), flight.attempt)

    def crashed(self, flight: Flight, kind: str, reason: str, attempts: int, now: int) -> None:
        """The message is dead: this many handlers have begun on it and none has ended.

        Args:
            flight: the message.
            kind: a word for what happened, in place of an error's type.
            reason: what happened, in words.
            attempts: how many handlers have begun.
            now: the server's time in microseconds.
        """
        body = self._body(flight, (kind, reason, ""), attempts, now)
        self._resolve(flight, "exhausted", "dead", body, reason=reason)

    def start(self, flight: Flight) -> None:
        """A handler begins."""
        try:
            flight.state = STARTS[flight.state]
        except KeyError:
            raise _misstep(flight, "start") from None
        self.waiting -= 1

    def start_new(self, flights: Sequence[Flight]) -> bool:
        """A handler begins on some, if the server has to know nothing first. Return False, and begin on none, if `prepare` comes first."""
        for flight in flights:
            if flight.state != "new":
                return False
        running = STARTS["new"]
        for flight in flights:
            flight.state = running
        self.waiting -= len(flights)
        return True

    def start_all(self, flights: Sequence[Flight]) -> None:
        """A handler begins on some; as `start` for each, at a fraction of the cost."""
        for flight in flights:
            try:
                flight.state = STARTS[flight.state]
            except KeyError:
                raise _misstep(flight, "start") from None
        self.waiting -= len(flights)

    def returned(self, flight: Flight) -> None:
        """Its handler returned: it is to be acknowledged, or to leave `retry`."""
        if flight.body is None:
            try:
                flight.state = RETURNS[flight.state]
            except KeyError:
                self._end_outdated(flight, "returned")
            else:
                self.done.append(flight.entry)
        else:
            self._resolve(flight, "returned, from retry", "done", flight.body)
        self.handled += 1

    def returned_all(self, flights: Sequence[Flight]) -> None:
        """The handler of some returned; as `returned` for each, at a fraction of the cost."""
        done = self.done
        for flight in flights:
            if flight.body is None:
                try:
                    flight.state = RETURNS[flight.state]
                except KeyError:
                    self._end_outdated(flight, "returned")
                else:
                    done.append(flight.entry)
            else:
                self._resolve(flight, "returned, from retry", "done", flight.body)
        self.handled += len(flights)

    def failed(self, flight: Flight, error: Exception, now: int, random: Random) -> Hold | None:
        """The handler raised, or a pulled message was never entered; return a Hold if its key queue is to wait for its next attempt.

        Args:
            flight: the message.
            error: what was raised.
            now: the server's time in microseconds.
            random: gives the jitter of the pause.
        """
        cause = sole(error)
        verdict = judge(self._policy.of(flight), cause, flight.attempt, random)
        self.failures += verdict.to != "done"
        if flight.state == "outdated":
            self._end(flight, "ended, outdated")
        if flight.state == "gone":  # it was outdated
            return None
        if verdict.to == "retry" and verdict.blocking:
            return self._hold(flight, cause, verdict.pause, now, used=verdict.used)
        kind, text, _ = described = describe(cause)
        body = self._body(flight, described, flight.attempt, now)
        due = now + microseconds(verdict.pause) if verdict.to == "retry" else 0
        self._resolve(flight, "failed", verdict.to, body, due=due, used=verdict.used, reason=f"{kind}: {text}", pause=verdict.pause)
        return None

    def _hold(self, flight: Flight, cause: Exception, pause: float, now: int, *, used: bool) -> Hold | None:
        """Let its key queue wait (T7). Each attempt decodes the message again, so changes that a handler made to it are gone.

        A message of the stream gets the count that makes its next attempt the right one: the raised count less one. One of `retry` keeps
        this failure, in case the partition moves to another member before the next attempt.
        """
        flights, unreadable = self._decode([(flight.entry, flight.fields)], self.partition, self.token)
        if unreadable:  # by a deserializer that does not decode it the same way twice
            self._of_retry -= flight.body is not None
            flight.state = "gone"
            self._bury(unreadable[0], flight.body, now)
            return None
        again = flights[0]
        event = "put off, its queue waits" if not used else "failed, its queue waits"
        if used and flight.body is not None:
            event = "failed, its queue waits, from retry"
        self._move(flight, event)
        again.state, flight.state = flight.state, "gone"
        again.attempt, again.first_failed = flight.attempt, flight.first_failed or now // 1000
        if flight.body is None:
            again.count = flight.attempt + used
        else:
            again.body = self._body(flight, describe(cause), flight.attempt, now)
        self.flights[flight.entry] = again
        return Hold(again, pause)

    def taken_back(self, flight: Flight) -> None:
        """Work on a pulled message was cancelled, and it waits here until it has failed or is handed back.

        Handed back, it uses no attempt.
        """
        if flight.state == "running":
            self._move(flight, "taken back")
        elif flight.state == "outdated":
            self._end(flight, "ended, outdated")

    def cancelled(self, flight: Flight) -> None:
        """Its handler was cancelled: it stays where it is, for the next owner."""
        if flight.state in ("running", "outdated"):
            in_stream = flight.state == "running" and flight.body is None
            self._end(flight, "cancelled")
            if in_stream:
                self.left.add(flight.entry)

    def to_write(self, flights: Iterable[Flight]) -> dict[bytes, int]:
        """Return the delivery counts to raise while key queues wait, so that the next owner counts on from there (T5)."""
        return {flight.entry: flight.count for flight in flights if flight.state == "held"}

    def written(self, flights: Iterable[Flight]) -> None:
        """The server has raised them."""
        for flight in flights:
            if flight.state == "held":
                self._move(flight, "written")

    # -- settling ----------------------------------------------------------------------------------------------------------------

    @property
    def settled_all(self) -> bool:
        """True if nothing is to be settled, or is on its way to be."""
        return not (self.done or self.acking or self.ending or self.sending)

    @property
    def unsettled(self) -> int:
        """How many messages were delivered here and are not settled."""
        return len(self.flights)

    def take_acks(self) -> list[bytes]:
        """Return what to acknowledge now; report to `acked` or `ack_broke`."""
        self.acking, self.done = self.done, []
        return self.acking

    def acked(self) -> None:
        """The server has acknowledged them, or the partition is lost (S1)."""
        flights = self.flights
        for entry in self.acking:
            del flights[entry]
        self.acking = []
        self.settlements += 1

    def ack_broke(self) -> None:
        """The acknowledgement may not have arrived: it is sent again (S1)."""
        self.done, self.acking = self.acking + self.done, []

    def take_endings(self) -> list[Ending]:
        """Return what to settle otherwise than by an acknowledgement now; report to `settled` or `broke`."""
        self.sending, self.ending = self.ending, []
        return self.sending

    def settled(self, found: Sequence[bool]) -> None:
        """The server has settled what was sent, and says of each whether it was found (S1)."""
        sent, self.sending = self.sending, []
        for ending, there in zip(sent, found, strict=bool(sent)):  # nothing is left of it if the partition was lost meanwhile
            flight = ending.flight
            self._end(flight, "settled")
            if ending.resolution.source == "stream" and not there:
                self.unfound.add(flight.entry)
            if self.settled_since is not None:
                self.settled_since.add(flight.entry)
        self.settlements += 1

    def broke(self, *, maybe_executed: bool) -> None:
        """The settlement may not have arrived: it is sent again (S1)."""
        for ending in self.sending if maybe_executed else ():
            ending.uncertain = True
        again = [ending for ending in self.sending if ending.flight.state == "ending"]
        for ending in self.sending:
            if ending.flight.state == "outdated":
                self._end(ending.flight, "ended, outdated")
        self.ending, self.sending = again + self.ending, []

    def lose(self, reason: str) -> None:
        """The partition belongs to another owner: nothing more of it is settled (M4)."""
        self.lost = self.lost or reason
        self.may_start = False
        self.drop()

    def drop(self) -> None:
        """Forget what there is to settle, since the next owner settles it."""
        for entry in (*self.done, *self.acking):
            del self.flights[entry]
        for ending in (*self.ending, *self.sending):
            self._end(ending.flight, "settled")
        self.done, self.acking, self.ending, self.sending = [], [], [], []

    # -- handing back ------------------------------------------------------------------------------------------------------------

    def give_back(self) -> None:
        """No handler runs any more: settle the attempts that `retry` may have counted as not used (T5).

        Each was the first of its key queue and must be so again, so these get the earliest due times. The server refuses attempts that it
        has never counted (S1).
        """
        counted = [flight for flight in self.flights.values() if flight.body is not None and flight.state in ("counting", "counted")]
        for place, flight in enumerate(counted, 1):
            assert flight.body is not None  # noqa: S101 -- as looked at above; this is for type checkers
            ending = self._resolve(flight, "given back", "retry", flight.body, due=place, used=False)
            self._given_back.append(ending.resolution)

    def hand_back(self) -> dict[bytes, int]:
        """Return the delivery counts to set before the release, so that they are as if no handler had been about to begin (T5)."""
        stream = ((entry, flight) for entry, flight in self.flights.items() if flight.body is None)
        counts = {entry: flight.count for entry, flight in stream if flight.state in ("new", "held", "counting", "counted")}
        return counts | dict.fromkeys([entry for entry, _ in self.withheld if entry not in self.flights], 0)

    def hand_back_again(self) -> tuple[dict[bytes, int], list[Resolution]]:
        """Return what to repeat after the release, since a late raise may have undone it (T5)."""
        stream = ((entry, flight) for entry, flight in self.flights.items() if flight.body is None)
        return {entry: flight.count for entry, flight in stream if flight.state in ("held", "counting", "counted")}, self._given_back

    # -- transitions -------------------------------------------------------------------------------------------------------------

    def _move(self, flight: Flight, event: str) -> None:
        before = flight.state
        try:
            flight.state = after = TABLE[event].moves[before]
        except KeyError:
            raise _misstep(flight, event) from None
        self.waiting += (after in WAITING) - (before in WAITING)

    def _end(self, flight: Flight, event: str) -> None:
        self._of_retry -= flight.body is not None and flight.state != "ending"
        self._move(flight, event)
        del self.flights[flight.entry]

    def _end_outdated(self, flight: Flight, event: str) -> None:
        if flight.state != "outdated":
            raise _misstep(flight, event)
        self._end(flight, "ended, outdated")

    def _resolve(
        self,
        flight: Flight,
        event: str,
        to: Literal["done", "retry", "dead"],
        body: Body,
        *,
        due: int = 0,
        used: bool = True,
        reason: str = "",
        pause: float = 0.0,
    ) -> Ending:
        self._move(flight, event)
        self._of_retry -= flight.body is not None
        resolution = Resolution("stream" if flight.body is None else "retry", to, body, due=due, used=used)
        ending = Ending(flight, resolution, reason, pause)
        self.ending.append(ending)
        return ending

    def _body(self, flight: Flight, error: tuple[str, str, str], attempts: int, now: int) -> Body:
        """Return the record to keep of a message that failed."""
        body, ms = flight.body, now // 1000
        first, between = flight.first_failed or ms, NO_FAILURE.between_ms
        if body is not None and (known := body.failure) is not None:
            first, between = known.first_failed_ms, known.between_ms
            if known.last_failed_ms > first:
                between = (*between, known.last_failed_ms)[-MOST_BETWEEN:]
        failure = Failure(*error, attempts, first, ms, self.member, between)
        if body is None:
            return Body(flight.entry, flight.fields, 0, attempts, failure)
        return msgspec.structs.replace(body, failure=failure)

    def _bury(self, entry: Unreadable, body: Body | None, now: int) -> None:
        """Send an unreadable message to the dead letters, with the reason."""
        failure = Failure("Unreadable", entry.reason, "", 0, now // 1000, now // 1000, self.member)
        dead = msgspec.structs.replace(body or Body(entry.entry_id, entry.fields), failure=failure)
        flight = Flight("", None, partition=self.partition, token=self.token, entry=entry.entry_id, fields=entry.fields, body=body)
        flight.state = "ending"
        self.flights[entry.entry_id] = flight
        self.ending.append(Ending(flight, Resolution("stream" if body is None else "retry", "dead", dead), entry.reason))


def _misstep(flight: Flight, event: str) -> Misstep:
    return Misstep(f"{event!r} was reported for entry {flight.entry_id}, which is {flight.state}")
