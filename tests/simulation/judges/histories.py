"""Judges the runs of each message's handler: attempts, order within a lane, and the basis of each settlement.

Input: runs as they begin and end, settlements as the server accepts them. Output: a sentence for each violation. Invariants: attempt
numbers only grow within a life, except the first, which may begin twice after a crash (T5). None is above `max_attempts`. An acknowledged
message has returned under that token. A dead message has failed for good, or has used up its attempts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.terms import GroupName
from redisaq.core.entry_ids import START, EntryId, format_id
from redisaq.core.retry import exhausted
from redisaq.outcomes import Discard, RetryAfter
from redisaq.settings import RetryPolicy
from redisaq.testing.observing import Place, Run, show


@dataclass
class History:
    """The runs of one message in one life.

    Attributes:
        since: how many of them are unknown to a server that lost data.
        strays: runs of an owner whose acquisition the server has forgotten.
        former: how many runs there were in earlier lives, if the server may have forgotten that these are over.
    """

    runs: list[Run] = field(default_factory=list[Run])
    since: int = 0
    strays: list[Run] = field(default_factory=list[Run])
    former: int = 0


class Histories:
    """The life of each message in each group, run by run."""

    def __init__(self, violation: Callable[[str], None]) -> None:
        """Store the court, which hears of what must not be."""
        self._violation = violation
        self._lives: dict[tuple[Place, EntryId], History] = {}
        self._first: dict[tuple[Place, str | None], EntryId] = {}
        self._gone: set[tuple[Place, EntryId]] = set()
        self._begun: dict[Place, set[EntryId]] = {}
        self._broken: dict[Place, int] = {}
        self._policies: dict[GroupName, RetryPolicy] = {}
        self._in_hand: dict[Place, tuple[EntryId, int]] = {}  # at a seek: up to which entry its owner had read, and under which token
        self._unreadable: set[tuple[Place, EntryId]] = set()
        self._died_unread: dict[tuple[Place, EntryId], str] = {}
        self._repeatable: Counter[tuple[Place, EntryId]] = Counter()
        self._earlier: Counter[tuple[Place, EntryId]] = Counter()  # runs in lives that are over

    def broken_off(self, place: Place) -> None:
        """An owner of the partition has ended without giving it back."""
        self._broken[place] = self._broken.get(place, 0) + 1

    def unreadable(self, place: Place, entry_id: EntryId) -> None:
        """An entry cannot be read: no handler will run on it."""
        self._unreadable.add((place, entry_id))
        self._died_unread.pop((place, entry_id), None)

    def redriven(self, place: Place, entry_id: EntryId) -> None:
        """A message begins its next life."""
        self._earlier[place, entry_id] += len(self._runs(place, entry_id))
        self._lives[place, entry_id] = History()

    def set_back(self, place: Place, entry_id: EntryId, *, repeatable: bool = True) -> None:
        """The server has forgotten a part of the entry's history: its attempts start again, and it may run after later entries.

        It may do so once more if its owner has it in hand, and settles it before the server delivers it again; not if the owner knows.
        """
        self._repeatable[place, entry_id] = self._repeatable[place, entry_id] + 1 if repeatable else 0
        self._lives.setdefault((place, entry_id), History()).former = self._earlier[place, entry_id]
        self._begin_again(place, entry_id)

    def repeats(self, place: Place, entry_id: EntryId) -> bool:
        """Return whether the entry may run again although it was done, at most as often as it was set back."""
        if not self._repeatable[place, entry_id]:
            return False
        self._repeatable[place, entry_id] -= 1
        self._begin_again(place, entry_id)
        return True

    def _begin_again(self, place: Place, entry_id: EntryId) -> None:
        history = self._lives.get((place, entry_id))
        if history is not None:
            history.since = len(history.runs)

    def ends(self, place: Place, end: EntryId, gone: Collection[EntryId]) -> None:
        """The server has lost the partition's entries above this one, or others: a slower clock may give out their ids again.

        An owner that has them in hand may still run them, after entries with higher ids and before ones with lower ids.
        """
        self._gone |= {(place, entry_id) for entry_id in gone}
        self._first |= {lane: min(first, end) for lane, first in self._first.items() if lane[0] == place}

    def set_back_all(self, place: Place, token: int) -> None:
        """What an owner noted about its runs was not stored: its token was no longer current."""
        for (where, entry_id), history in self._lives.items():
            if where == place and history.runs and history.runs[-1].message.token == token:
                self._begin_again(place, entry_id)

    def sought(self, place: Place, before: EntryId, token: int) -> None:
        """An admin has moved the group's position: what the owner under this token had in hand up to there may come in any order."""
        last, _ = self._in_hand.get(place, (before, 0))
        self._in_hand[place] = max(before, last), token
        self._first = {lane: first for lane, first in self._first.items() if lane[0] != place}

    def stray(self, run: Run) -> None:
        """An owner whose acquisition the server has forgotten begins a run: it is not checked, and has no consequences."""
        self._lives.setdefault((run.place, run.entry_id), History()).strays.append(run)

    # -- a run begins ------------------------------------------------------------------------------------------------------------------

    def begin(self, run: Run, store: MemoryStore) -> None:
        """Check a run that begins."""
        place, entry_id = run.place, run.entry_id
        self._check_attempt(run)
        begun = self._begun.setdefault(place, set())
        last, token = self._in_hand.get(place, (START, 0))
        lost = (place, entry_id) in self._gone
        if (
            run.ordered and not lost and (entry_id > last or run.message.token > token)
        ):  # what was in hand at a seek may come before what comes again
            self._check_lane(run, store)
            if entry_id not in begun:
                self._check_first(run)
        begun.add(entry_id)
        self._policies[run.group] = run.process.retry
        self._lives.setdefault((place, entry_id), History()).runs.append(run)

    def _check_attempt(self, run: Run) -> None:
        name, attempt, most = run.process.name, run.message.attempt, run.process.retry.max_attempts
        runs = self._runs(run.place, run.entry_id)
        if attempt > most:
            self._violation(f"{name} began {run}, of {most} at most")
        if attempt > self._noted(run.place, run.entry_id) + 1:
            self._violation(f"{name} began {run}, though only {len(runs)} had begun before")
        history = self._lives.get((run.place, run.entry_id))
        if not runs or history is None or history.since >= len(runs):
            return
        runs = runs[history.since :]
        former = runs[-1]
        last = former.message.attempt
        if attempt > last or (attempt == last and isinstance(former.error, RetryAfter)):
            return
        if attempt == last == 1 and former.message.token != run.message.token and sum(one.message.attempt == 1 for one in runs) == 1:
            return  # T5: the first delivery has counted already
        if not self.repeats(run.place, run.entry_id):
            self._violation(f"{name} began {run} after attempt {last}")

    def _check_first(self, run: Run) -> None:
        """First runs of a lane begin in the order of its entries."""
        key = (run.place, run.message.key if run.by_key else None)
        first = self._first.get(key, START)
        if run.entry_id > first:
            self._first[key] = run.entry_id
        else:
            lane = f" (key {run.message.key})" if run.by_key else ""
            self._violation(f"{run.process.name} began {run}{lane} for the first time after {format_id(first).decode()}")

    def _check_lane(self, run: Run, store: MemoryStore) -> None:
        """Entries pending before it in its lane have run before it under the same token; and have ended, if failures block."""
        cursor = store.cursor(*run.place)
        if cursor is None or run.message.entry in store.shelf(*run.place).retry:
            return  # a parked retry comes whenever it is due
        fields_of, policy = store.streams[run.group.topic, run.message.partition].fields, run.process.retry
        for entry_id, deliveries in cursor.pending.items():
            if entry_id >= run.entry_id:
                break
            fields = fields_of(entry_id)
            if fields is None or (run.by_key and key_of(fields) != run.message.key) or (run.place, entry_id) in self._unreadable:
                continue
            history = self._lives.get((run.place, entry_id), History())
            former = history.runs[-1] if history.runs else None
            if former is not None and (former.call is run.call or history.since >= len(history.runs)):
                continue
            if former is None or former.message.token != run.message.token:
                if not exhausted(policy, deliveries - 1):  # it dies of crashes, without a run
                    self._violation(f"{run.process.name} began {run} before {show(run.place, entry_id)}, which waits for its turn")
                continue
            blocks = policy.blocking and run.process.mode != "messages"
            if former.outcome in ("running", "cancelled") or (blocks and not former.final):
                self._violation(f"{run.process.name} began {run} before {former} had ended for good: it had {former.outcome}")

    # -- settling ----------------------------------------------------------------------------------------------------------------------

    def check_done(self, name: str, place: Place, token: int, entry_id: EntryId) -> None:
        """An acknowledged message has returned, or was discarded, under that token."""
        for run in (*self._runs(place, entry_id), *self._lives.get((place, entry_id), History()).strays):
            if run.message.token == token and (run.outcome == "returned" or isinstance(run.error, Discard)):
                self._begun.setdefault(place, set()).add(entry_id)  # if it was a stray's: what that settles has had its turn
                return
        self._violation(f"{name} acknowledged {show(place, entry_id)} under {token}, under which it never ran to a good end")

    def check_dead(self, name: str, place: Place, entry_id: EntryId) -> None:
        """A dead message has failed for good, or has used up its attempts in crashes, or could not be read."""
        runs = self._runs(place, entry_id)
        if (place, entry_id) in self._unreadable or (runs and runs[-1].outcome == "raised" and runs[-1].final):
            return
        policy = runs[-1].process.retry if runs else self._policies.get(place[0])
        if policy is None or not self._exhausted(place, entry_id, policy):
            text = f"{name} let {show(place, entry_id)} die after {len(runs)} runs, with attempts left"
            if runs:
                self._violation(text)
            else:
                self._died_unread[place, entry_id] = text

    def close(self, excused: Callable[[Place], bool]) -> None:
        """All have left: a message that died without a run could not be read.

        Its member has reported that, unless an owner ended before.
        """
        for (place, _), text in self._died_unread.items():
            if not excused(place):
                self._violation(text)
        self._died_unread.clear()

    def check_retry(self, name: str, place: Place, token: int, entry_id: EntryId) -> None:
        """A parked message has failed, or was handed back before it ran under that token, as far as the server knows."""
        runs = self.runs(place, entry_id)
        if runs and runs[-1].message.token == token and runs[-1].outcome != "raised":
            self._violation(f"{name} parked {show(place, entry_id)} under {token}, which has not failed")

    def _exhausted(self, place: Place, entry_id: EntryId, policy: RetryPolicy) -> bool:
        """Return whether crashes may have used up its attempts."""
        return self._noted(place, entry_id) >= policy.max_attempts

    def _noted(self, place: Place, entry_id: EntryId) -> int:
        """Return how many attempts the server may have counted at most.

        Each owner that ended abruptly may have counted one that never began.
        """
        history = self._lives.get((place, entry_id), History())
        return len(history.runs) + history.former + self._broken.get(place, 0)

    def runs(self, place: Place, entry_id: EntryId) -> list[Run]:
        """Return the runs of a message in its present life, in order, without those that a server which lost data does not know."""
        history = self._lives.get((place, entry_id))
        return [] if history is None else history.runs[history.since :]

    def _runs(self, place: Place, entry_id: EntryId) -> list[Run]:
        history = self._lives.get((place, entry_id))
        return [] if history is None else history.runs


def key_of(fields: Sequence[bytes]) -> str | None:
    """Return an entry's key."""
    words = iter(fields)
    return next((value.decode() for name, value in zip(words, words, strict=True) if name == b"k"), None)
