"""One partition and its owners, a server that forgets, an administrator, and messages between them that come late or never.

What drives it (hypothesis, or a seed) says what happens next, and `choose` says how. After each step the world checks what must always
hold, and raises Violation if it does not; `finish` lets everything come to rest and checks that nothing was lost.

`begun` counts the handlers that have begun on a message and used an attempt; it is what the attempt of the next handler is compared with.
It is exact as long as owners hand the partition back. Where an owner died with a message in hand, the server knows one handler less (of a
new message, whose first handler is counted with the read) or more (counted, and not begun): then a range is all that can be said
(`inexact`). After a loss of data, and for what an administrator moved back, nothing is said of attempts.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import Random
from typing import Any, Literal, TypeVar

from redisaq.core.in_flight import WAITING, Claim, Counting, Ending, Flight, HandOver, InFlight, Read
from redisaq.core.records import Body, Entry, Unreadable
from redisaq.outcomes import DeadLetter, Discard, RetryAfter
from redisaq.settings import RetryPolicy
from tests.unit.flight_server import BAD, GOOD, GroupGone, Server, entry_of, number_of

T = TypeVar("T")
Choose = Callable[[Sequence[Any]], Any]
Way = Literal["one", "many", "batch", "pull"]
WAYS: Sequence[Way] = ("one", "many", "batch", "pull")

MAX_ATTEMPTS, WINDOW, PAGE = 4, 8, 4
SECOND = 1_000_000
DRAIN_ROUNDS = 50


class Violation(AssertionError):
    """A rule's promise was broken."""


def demand(condition: object, *what: object) -> None:
    if not condition:
        raise Violation(*what)


def decode(entries: Iterable[Entry], partition: int, token: int) -> tuple[list[Flight], list[Unreadable]]:
    flights: list[Flight] = []
    unreadable: list[Unreadable] = []
    for entry, fields in entries:
        if fields == BAD:
            unreadable.append(Unreadable(entry, "it says nothing", fields))
        else:
            flights.append(Flight("jobs", None, attempt=1, entry=entry, fields=fields, partition=partition, token=token))
    return flights, unreadable


class World:
    """One partition, its owners, its server, and what is on its way between them."""

    def __init__(self, choose: Choose, *, way: Way, blocking: bool, backoff: float) -> None:
        """Begin with an empty stream and no owner.

        Args:
            choose: returns one of some.
            way: how messages come to handlers: one at a time in order, several at once, in batches, or pulled.
            blocking: key queues wait for the next attempt of a message that failed.
            backoff: seconds before that.
        """
        self.choose = choose
        self.way = way
        self.policy = RetryPolicy(max_attempts=MAX_ATTEMPTS, backoff=backoff, jitter=False, blocking=blocking and way != "pull")
        self.server = Server()
        self.now = SECOND
        self.flights: InFlight | None = None  # of the owner, if there is one
        self.calm = False
        self.begun, self.ever = Counter[int](), Counter[int]()  # handlers: those that used an attempt, and all
        self.uncounted = Counter[int]()  # attempts that were counted, and whose process died before the handler began
        self.inexact, self.moved = set[int](), set[int]()
        self.unseen = set[int]()  # delivered, and the answer was lost: a record of an earlier delivery may be out of date
        self.owed = set[int]()  # moved back, and not begun since (S5)
        self.late: list[Callable[[], Any]] = []  # settlements whose connections broke: they may arrive, at any time
        self.lossy = False  # the server has lost something
        self.running_now = Counter[int]()
        self._fresh()

    def _fresh(self) -> None:
        """Begin with what an owner has around its record: connections, queues, handlers."""
        self.open = True
        self.queue = deque[Flight]()  # handed over, and not begun
        self.offered: list[Flight] = []  # prepared (pulled), and not entered
        self.aside: list[Flight] = []  # entered and cancelled (pulled)
        self.run: list[Flight] = []
        self.resting: list[Flight] = []  # their key queues wait
        self.reading: tuple[Read, list[Any]] | None = None
        self.claiming: tuple[Claim, tuple[list[Any], bytes | None]] | None = None
        self.due: list[Body] | None = None
        self.counting: tuple[list[Flight], Counting, bool] | None = None  # under way; it has arrived before, and the answer was lost
        self.acking = self.sending = False
        self.sent_under = 0  # the token of what is being counted

    @property
    def owner(self) -> InFlight:
        assert self.flights is not None
        return self.flights

    def chance(self, percent: int) -> bool:
        return not self.calm and bool(self.choose([True] * (percent // 10) + [False] * (10 - percent // 10)))

    def exact(self, number: int) -> bool:
        return not self.lossy and number not in self.moved

    # -- owners come and go ---------------------------------------------------------------------------------------------------------

    def take(self) -> None:
        """A new owner installs its token."""
        token = self.server.take()
        self.flights = InFlight(0, token, self.server.holder, policy=self.policy, decode=decode, window=WINDOW, page=PAGE)
        self.flights.connected(self.server.run_id)
        self._fresh()

    def _end_handlers(self, flights: Iterable[Flight]) -> None:
        for flight in flights:
            self.running_now[number_of(flight.entry)] -= 1

    def _forget(self) -> None:
        """The owner's record is gone, with all that it knew beyond the server."""
        for entry, flight in self.owner.flights.items():
            number = number_of(entry)
            if flight.state in ("counting", "counted", "done", "ending"):
                self.uncounted[number] += 1  # counted and not begun, or not to be counted (RetryAfter)
            elif flight.state in ("new", "repeat") or (flight.state == "running" and (flight.count or flight.body is not None)):
                continue  # what the server knows is right
            self.inexact.add(number)
        self._end_handlers(self.run)
        self.flights = None

    def lose(self) -> None:
        """The partition is somebody else's: nothing more of it is settled (M4)."""
        owner, handlers = self.owner, list(self.run)
        self._forget()
        owner.lose("another token stands")
        for flight in handlers:
            owner.cancelled(flight)
        before = self.server.shelf.done.copy()
        self.server.acknowledge(owner.standing, owner.take_acks()) if owner.standing != self.server.token else None
        demand(self.server.shelf.done == before and not owner.ending, "settled what was lost")

    def crash(self) -> None:
        """The process dies; what it sent may still arrive."""
        if self.counting is not None and self.chance(50):
            self._tell(self.counting[1], self.sent_under)
        if self.acking and self.chance(50):
            self.server.acknowledge(self.owner.standing, self.owner.acking)
        self._forget()

    def drain(self, *, patient: bool) -> None:
        """Hand the partition back, and look whether all numbers are as if nothing had been about to begin (T5)."""
        owner = self.owner
        owner.begin_drain()
        if self.reading is not None:
            entries = self.reading[1]
            self._hand(owner.delivered(entries, self.now) if entries else [])
        self.claiming = None
        late = self.counting
        while patient and late is None and self.run:
            self.end(succeeds=True)
        for flight in self.run:
            self._cancel(flight)
        self.run = []
        if late is not None and self.chance(40):
            self._tell(late[1], self.sent_under)
            late = None
        owner.give_back()
        for _ in range(DRAIN_ROUNDS):
            if not owner.settled_all and self.flights is not None:
                self.settle()
        if self.flights is not None:
            self._hand_back(None if late is None else late[1])
            self.flights = None

    def _hand_back(self, late: Counting | None) -> None:
        """Set counts, release, set them again; a raise that is late arrives after the first, after the release, or both."""
        owner, server = self.owner, self.server
        demand(owner.settled_all, "not settled")
        if server.token != owner.standing and not self._still_owned():
            return
        server.set_deliveries(owner.standing, owner.hand_back(), raising=False)
        between = late is not None and self.chance(50)
        if late is not None and between:
            self._tell(late, self.sent_under)
        server.holder = ""
        if late is not None:  # refused
            self._tell(late, self.sent_under)
        if between or self.chance(70):  # else its process has ended
            counts, resolutions = owner.hand_back_again()
            server.set_deliveries(owner.standing, counts, raising=False)
            server.resolve(owner.standing, resolutions)
        for flight in owner.flights.values():
            self._look_at_handed_back(flight)

    def _cancel(self, flight: Flight) -> None:
        """The partition does not wait for its handler. A pulled message has used no attempt then."""
        self._end_handlers([flight])
        if self.way == "pull":
            self.owner.taken_back(flight)
            self.begun[number_of(flight.entry)] -= 1
        else:
            self.owner.cancelled(flight)
            self.inexact.add(number_of(flight.entry))

    def _look_at_handed_back(self, flight: Flight) -> None:
        server, number = self.server, number_of(flight.entry)
        demand(flight.state in WAITING, "left", flight.state)
        if self.lossy or server.token != self.owner.standing or number in self.unseen:
            return
        if flight.body is None and number in server.shelf.pending:
            count = server.shelf.pending[number]
            demand(count == flight.count, "handed back with", count, flight.count)
            if (
                self.exact(number) and number not in self.inexact
            ):  # what the next owner makes of it: the attempt is the raised count less one
                demand(max(1, count) == self.begun[number] + 1, "next attempt", count, self.begun[number])

    # -- reading --------------------------------------------------------------------------------------------------------------------

    def append(self, *, readable: bool) -> None:
        self.server.append(GOOD if readable else BAD)

    def _hand(self, flights: Iterable[Flight]) -> None:
        for flight in flights:
            demand(flight.state in WAITING, "handed over as", flight.state)
            demand(flight not in self.queue, "handed over twice")
            self.queue.append(flight)

    def read(self) -> None:
        """Ask for entries; or an answer comes, or is lost on its way."""
        owner, server = self.owner, self.server
        if not self.open:
            owner.connected(server.run_id)
            self.open = True
            self.reading = self.claiming = None
        elif self.claiming is not None:
            (claim, (entries, last)), self.claiming = self.claiming, None
            if self.chance(10):
                self.open = False
            else:
                self._hand(owner.claimed(claim, entries, last, self.now))
        elif self.reading is not None:
            (ask, fresh), self.reading = self.reading, None
            if self.chance(10):
                self.open = False
                self.unseen |= {number_of(entry) for entry, _ in fresh}
            else:
                owner.answered(ask)
                self._hand(owner.delivered(fresh, self.now) if fresh else [])
        else:
            self._ask()

    def _ask(self) -> None:
        owner, server = self.owner, self.server
        match owner.next_read(self.now):
            case Claim() as claim:
                self.claiming = claim, server.claim(claim.after, claim.count)
            case Read() as ask:
                try:
                    self.reading = ask, server.read(ask.count)
                except GroupGone:
                    remake = owner.group_lost()
                    server.remake(remake.evidence, remake.start)
                    owner.group_made()
            case HandOver() as over:
                self._hand(over.flights)
            case None:
                pass

    def read_unseen(self) -> None:
        """The reading connection breaks with entries on their way."""
        if self.reading is None and self.claiming is None:
            if self.server.shelf.cursor is not None and self.owner.has_room(PAGE):
                self.unseen |= {number_of(entry) for entry, _ in self.server.read(self.choose([0, 1, 3]))}
            self.open = False

    def look_for_due(self) -> None:
        """Ask what is due in `retry`; or the answer comes."""
        owner = self.owner
        if self.due is None:
            if owner.has_room(PAGE):
                self.due = self.server.due(self.now, owner.ask_due(PAGE))
        else:
            due, self.due = self.due, None
            self._hand(owner.due(due, self.now))

    # -- handling -------------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Handlers are to begin on what was handed over; or the server answers what had to be counted first."""
        owner = self.owner
        if self.counting is not None:
            self._be_answered(*self.counting)
            return
        busy = self.run or self.resting or self.offered or self.aside
        if not self.queue or (busy and self.way in ("one", "batch")):
            return
        some = [self.queue.popleft() for _ in range(min(len(self.queue), 3 if self.way == "batch" else 1))]
        counting = owner.prepare(some)
        if counting is None:
            self._enter([flight for flight in some if self._alive(flight)])
        else:
            self.counting, self.sent_under = (some, counting, False), owner.standing

    def _be_answered(self, some: list[Flight], counting: Counting, arrived: bool) -> None:
        owner = self.owner
        counting = Counting(owner.still_counting(counting), counting.retries)
        stands, noted = self._tell(counting, owner.standing)
        if not stands and self._still_owned():
            counting = Counting(owner.still_counting(counting), counting.retries)
            stands, noted = self._tell(counting, owner.standing)
        if self.chance(20) and not arrived:
            self.counting, self.sent_under = (some, counting, True), owner.standing
            return
        self.counting = None
        if not stands:
            self.lose()
            return
        owner.counted(counting)
        for flight, found in zip(counting.retries, noted, strict=True):
            owner.noted(flight, found=found)
        self._enter([flight for flight in some if self._alive(flight)])

    def _tell(self, counting: Counting, token: int) -> tuple[bool, list[bool]]:
        server = self.server
        stands = server.set_deliveries(token, counting.counts, raising=True)
        bodies = [flight.body for flight in counting.retries]
        return stands, [body is not None and server.start_retry(token, body) for body in bodies]

    def _alive(self, flight: Flight) -> bool:
        owner = self.owner
        if flight.state not in WAITING:
            return False
        if owner.exhausted(flight):
            number = number_of(flight.entry)
            if self.exact(number):
                demand(self.ever[number] + self.uncounted[number] >= MAX_ATTEMPTS, "dead after", self.ever[number])
            owner.crashed(flight, "CrashedDeliveries", "each time its process died", flight.attempt - 1, self.now)
            return False
        return True

    def _enter(self, some: list[Flight]) -> None:
        owner = self.owner
        if not owner.may_start or not some:
            return
        if self.way == "pull" and self.chance(40):
            self.offered += some
            return
        for flight in some:
            self._look_at_start(flight)
            self.running_now[number_of(flight.entry)] += 1
        if len(some) == 1:
            owner.start(some[0])
        elif not owner.start_new(some):
            owner.start_all(some)
        self.run += some

    def _look_at_start(self, flight: Flight) -> None:
        server, number, attempt = self.server, number_of(flight.entry), flight.attempt
        self.begun[number] += 1
        self.ever[number] += 1
        self.owed.discard(number)
        demand(not self.running_now[number], "runs twice at once", flight)
        demand(1 <= attempt <= MAX_ATTEMPTS, "begins as attempt", attempt)
        if not self.exact(number):
            return
        least = most = self.begun[number]
        if number in self.inexact:
            least, most = max(1, least - 1), self.ever[number] + self.uncounted[number]
        demand(least <= attempt <= most, "attempt", attempt, "of", least, most, flight)
        if flight.body is None:  # T5: if this process dies now, the server knows that a handler has begun
            known = server.shelf.pending.get(number, 0)
            demand(known >= (attempt + 1 if flight.count else 1), "not counted", flight, known)
        else:
            due, there = server.shelf.retry[number]
            demand(there.attempt >= flight.body.attempt, "not counted", flight)
            demand(due <= self.now, "before its time", due, flight)

    def enter_offered(self) -> None:
        """The user's loop enters a message that it was offered (pulled)."""
        if self.offered and self.owner.may_start:
            flight = self.offered.pop(0)
            if flight.state in WAITING:
                way, self.way = self.way, "many"
                self._enter([flight])
                self.way = way

    def end(self, *, succeeds: bool) -> None:
        """A handler ends in some way; what was offered or left aside (pulled) may fail as well."""
        owner = self.owner
        if not succeeds and (self.offered or self.aside) and self.chance(40):
            flight = (self.offered or self.aside).pop(0)
            if flight.state in WAITING and owner.flights.get(flight.entry) is flight:
                owner.failed(flight, ValueError("nobody entered it"), self.now, Random(0))
                self._count_unentered(flight)
            return
        if not self.run:
            return
        if self.way == "batch" and succeeds:
            some, self.run = self.run, []
            self._end_handlers(some)
            owner.returned_all(some)
            return
        flight = self.run.pop(self.choose(range(len(self.run))))
        number = number_of(flight.entry)
        self._end_handlers([flight])
        if succeeds:
            owner.returned(flight)
        elif self.way == "pull" and self.chance(30):
            owner.taken_back(flight)
            self.begun[number] -= 1
            self.aside.append(flight)
        else:
            self._fail(flight)

    def _count_unentered(self, flight: Flight) -> None:
        """One that failed without a handler has used an attempt as if it had one."""
        number = number_of(flight.entry)
        self.begun[number] += 1
        self.ever[number] += 1

    def _fail(self, flight: Flight) -> None:
        owner, number = self.owner, number_of(flight.entry)
        error = self.choose(
            [ValueError("v"), ValueError("v"), ExceptionGroup("g", [ValueError("v")]), RetryAfter(1), DeadLetter("d"), Discard()]
        )
        endings = len(owner.ending)
        hold = owner.failed(flight, error, self.now, Random(0))
        if isinstance(error, RetryAfter):
            self.begun[number] -= 1
        if hold is not None:
            demand(hold.flight is not flight and owner.flights[flight.entry] is hold.flight, "the handler's own copy is held")
            self.resting.append(hold.flight)
        elif isinstance(error, ValueError | ExceptionGroup) and len(owner.ending) > endings:
            to = owner.ending[-1].resolution.to
            if self.exact(number) and to == "dead":
                demand(self.ever[number] + self.uncounted[number] >= MAX_ATTEMPTS, "dead after", self.ever[number])

    def rest(self) -> None:
        """Key queues have waited for the next attempt; before that, failures were written down."""
        owner, (held, self.resting) = self.owner, (self.resting, [])
        counts = owner.to_write(held)
        if counts and not self.chance(20):
            if not self.server.set_deliveries(owner.standing, counts, raising=True):
                if not self._still_owned():
                    self.lose()
                    return
                self.server.set_deliveries(owner.standing, owner.to_write(held), raising=True)
            owner.written(held)
        self.queue.extendleft(reversed([flight for flight in held if flight.state in WAITING]))

    # -- settling -------------------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Send an acknowledgement or another settlement; or the server gets it, and the answer comes or is lost."""
        owner = self.owner
        if self.acking:
            self._acknowledge()
        elif self.sending:
            self._resolve()
        elif owner.done and (not owner.ending or self.choose([True, False])):
            owner.take_acks()
            self.acking = True
        elif owner.ending:
            owner.take_endings()
            self.sending = True

    def _acknowledge(self) -> None:
        owner, server = self.owner, self.server
        self.acking = False
        if self.chance(10):
            self.late.append(partial(server.acknowledge, owner.standing, [*owner.acking]))
            owner.ack_broke()
            return
        token = server.acknowledge(owner.standing, owner.acking)
        if token != owner.standing:
            owner.ack_broke()
            if not self._still_owned():
                self.lose()
        elif self.chance(20):
            owner.ack_broke()
        else:
            owner.acked()

    def _resolve(self) -> None:
        owner, server = self.owner, self.server
        self.sending = False
        if self.chance(10):
            self.late.append(partial(server.resolve, owner.standing, [ending.resolution for ending in owner.sending]))
            owner.broke(maybe_executed=True)
            return
        token, found = server.resolve(owner.standing, [ending.resolution for ending in owner.sending])
        if token != owner.standing:
            owner.broke(maybe_executed=False)
            if not self._still_owned():
                self.lose()
        elif self.chance(20):
            owner.broke(maybe_executed=True)
        else:
            self._look_at_settled(owner.sending, found)
            owner.settled(found)

    def _still_owned(self) -> bool:
        """A step was refused: the token is lost, or spent by a seek, or another owner's."""
        owner, server = self.owner, self.server
        if server.token < owner.standing:
            server.token, server.holder, server.moved = owner.standing, owner.member, None
        elif server.moved is not None and server.holder == owner.member:
            owner.moved(server.token, *map(entry_of, server.moved))
            server.moved = None
        return server.token == owner.standing

    def arrive_late(self) -> None:
        """What a broken connection still held comes to the server."""
        if self.late:
            self.late.pop(self.choose(range(len(self.late))))()

    def _look_at_settled(self, endings: Sequence[Ending], found: Sequence[bool]) -> None:
        for ending, there in zip(endings, found, strict=True):
            number = number_of(ending.flight.entry)
            if self.exact(number) and not there and ending.resolution.used and number not in self.server.shelf.done:
                demand(ending.uncertain, "not found, and not sent before", ending)

    # -- what befalls the server ------------------------------------------------------------------------------------------------------

    def seek(self, position: int) -> None:
        """An administrator pauses the group, moves it to a position and lets it go on."""
        shelf = self.server.shelf
        if shelf.cursor is None or self.reading or self.claiming or self.due is not None:
            return
        again = {number for number in self.server.stream if number > position}
        self.moved |= again
        self.owed = {number for number in again if self.server.stream[number] == GOOD}
        shelf.done |= {number for number in self.server.stream if shelf.cursor < number <= position}  # passed over, as asked
        self.server.seek(position)

    def purge(self) -> None:
        retry = self.server.shelf.retry
        if retry:
            number = self.choose(sorted(retry))
            del retry[number]
            self.server.shelf.done.add(number)
            self.moved.add(number)
            self.owed.discard(number)

    def lose_group(self) -> None:
        """The group is gone. How far it had been moved back is lost with it."""
        shelf = self.server.shelf
        if shelf.cursor is not None:
            self.lossy = True
            shelf.done |= {number for number in self.moved if number > (shelf.cursor or 0)}
            self.server.lose_group()

    def fail_over(self) -> None:
        self.lossy = True
        self.server.fail_over(f"r{self.choose(range(1000))}")
        self.open = False
        self.reading = self.claiming = None
        self.due = None
        if self.flights is not None:
            if self.acking:
                self.owner.ack_broke()
            if self.sending:
                self.owner.broke(maybe_executed=True)
        self.acking = self.sending = False

    def lose_token(self) -> None:
        self.lossy = True
        self.server.token = 0

    # -- what must hold -----------------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Look whether the record agrees with what there is."""
        if self.flights is None:
            return
        owner = self.flights
        states = Counter(flight.state for flight in owner.flights.values())
        sent = sum(ending.flight.state == "outdated" for ending in owner.sending)
        running = states["running"] + states["outdated"] - sent
        demand(running == owner.running == len(self.run), "running", states, owner.running, len(self.run))
        demand(sum(states[state] for state in WAITING) == owner.waiting, "waiting", states, owner.waiting)
        done = [*owner.done, *owner.acking]
        demand(len(done) == len(set(done)) == states["done"], "done", states, done)
        ending = [ending.flight for ending in (*owner.ending, *owner.sending)]
        demand(len(ending) == len({flight.entry for flight in ending}) == states["ending"] + sent, "ending", states)
        demand(not states["gone"], "gone, and in the table")
        of_retry = sum(flight.body is not None and flight.state != "ending" for flight in owner.flights.values())
        settled_since = owner.settled_since
        demand(owner.ask_due(0) == of_retry + len(ending), "of retry", of_retry)
        owner.settled_since = settled_since
        demand(owner.waiting <= WINDOW + 3 * PAGE + len(self.resting), "more wait than there is room for", owner.waiting)
        for flight in self.run:
            demand(owner.flights.get(flight.entry) is flight, "runs, and is not in the table")

    def at_rest(self) -> bool:
        shelf, owner = self.server.shelf, self.flights
        coming = (self.reading and self.reading[1]) or (self.claiming and self.claiming[1][0]) or self.due
        empty = not shelf.pending and not shelf.retry and shelf.cursor == self.server.last
        return owner is not None and not coming and empty and not owner.flights and not owner.doubtful and not owner.withheld

    def finish(self, *, ended: Literal["drain", "crash", "goes on"]) -> None:
        """Let everything come to rest with an owner whose handlers succeed; then nothing may be lost."""
        if self.flights is not None and ended != "goes on":
            self.drain(patient=False) if ended == "drain" else self.crash()
        self.calm = True
        for _ in range(400):
            self.now += 400 * SECOND
            if self.flights is None:
                self.take()
            if self.at_rest():
                break
            end = partial(self.end, succeeds=True)
            steps: list[Callable[[], Any]] = [end] * len(self.run)
            steps += [self.rest, self._drop_aside, self.read, self.read, self.begin, self.begin, self.enter_offered, end]
            steps += [self.settle] * 4 + [self.look_for_due] * 2
            for step in steps:
                if self.flights is not None:
                    step()
                    self.check()
        else:
            raise Violation("it does not come to rest", self.server.shelf, self.flights and self.flights.flights)
        lost = self.server.stream.keys() - self.server.shelf.done
        demand(not lost, "lost", sorted(lost))
        demand(self.lossy or not self.owed, "moved back, and not run again", sorted(self.owed))

    def _drop_aside(self) -> None:
        """The user's loop goes on: what it left aside has failed."""
        for flight in self.aside:
            if flight.state in WAITING and self.owner.flights.get(flight.entry) is flight:
                self.owner.failed(flight, Discard(), self.now, Random(0))
        self.aside = []


STEPS: Sequence[tuple[int, Callable[[World], None]]] = (
    (3, lambda world: world.append(readable=not world.chance(10))),
    (6, World.read),
    (6, World.begin),
    (2, World.enter_offered),
    (3, lambda world: world.end(succeeds=True)),
    (4, lambda world: world.end(succeeds=False)),
    (2, World.rest),
    (6, World.settle),
    (3, World.look_for_due),
)
RARE: Sequence[Callable[[World], None]] = (
    World.crash,
    lambda world: world.drain(patient=False),
    lambda world: world.drain(patient=True),
    World.read_unseen,
    World.arrive_late,
)
LOSSES: Sequence[Callable[[World], None]] = (
    World.purge,
    World.lose_group,
    World.fail_over,
    World.lose_token,
    lambda world: world.server.save(),
)


def walk(seed: int) -> None:
    """Let a seed choose what happens."""
    random = Random(seed)
    world = World(random.choice, way=random.choice(WAYS), blocking=random.random() < 0.5, backoff=random.choice([0.5, 10.0]))
    losses, seeks = seed % 3 == 0, seed % 6 in (0, 1)
    usual = [step for weight, step in STEPS for _ in range(weight)]
    for _ in range(random.choice([30, 80, 200])):
        world.now += random.choice([0, SECOND // 1000, SECOND // 3, 2 * SECOND])
        if world.flights is None:
            world.take()
        lot = random.random()
        if seeks and lot < 0.03:
            world.seek(random.randrange(world.server.last + 1))
        else:
            random.choice(RARE if lot < 0.09 else LOSSES if losses and lot < 0.15 else usual)(world)
        world.check()
    world.finish(ended=random.choice(["drain", "crash", "goes on"]))
