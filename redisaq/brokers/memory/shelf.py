"""What one group has put aside of one partition: messages to be tried again, and dead letters.

Bodies are kept encoded, as on a server, so that members in one process do not share mutable data. Nothing here checks a token: the steps
that call it do. Invariants: a message is in `retry`, or a dead letter, or neither. It leaves `retry` only in the life and attempt that the
caller names (S1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from redisaq.brokers.memory.streams import Stream
from redisaq.brokers.steps.retrying import DeadLetterEntry
from redisaq.core.entry_ids import format_id, parse_id
from redisaq.core.records import Body, Resolution, encode_dead, encode_retry, read_dead, retry_prefix


@dataclass
class Shelf:
    """One group's retries and dead letters of one partition.

    Attributes:
        retry: entry id -> when it is due, and its encoded body.
        dead: the dead letters.
        redriven: the due time of the last message that was redriven, or made due now: the next ones come after it.
        again: how many dead letters were put back into `retry`.
        taken_in: the dead letters that came from other partitions: from which, and their ids there (G8).
    """

    retry: dict[bytes, tuple[int, bytes]] = field(default_factory=dict[bytes, tuple[int, bytes]])
    dead: Stream = field(default_factory=Stream)
    redriven: int = 0
    again: int = 0
    taken_in: set[tuple[int, bytes]] = field(default_factory=set[tuple[int, bytes]])

    def take(self, resolution: Resolution) -> bool:
        """Remove a message from `retry` if its life and attempt match (S1), and if the resolution changes anything."""
        body = resolution.body
        found = self.retry.get(body.entry_id)
        if found is None or not found[1].startswith(resolution.beginning):
            return False
        if resolution.to == "retry" and found == (resolution.due, encode_retry(resolution.kept)):
            return False
        del self.retry[body.entry_id]
        return True

    def put(self, resolution: Resolution, milliseconds: int, dead_maxlen: int | None) -> None:
        """Put a message where the resolution says; one that is already in `retry` stays there unchanged."""
        match resolution.to:
            case "retry":
                self.retry.setdefault(resolution.body.entry_id, (resolution.due, encode_retry(resolution.kept)))
            case "dead":
                self.dead.append(encode_dead(resolution.body), milliseconds, dead_maxlen)
            case "done":
                pass

    def start(self, entry_id: bytes, life: int, attempt: int) -> bool:
        """Raise the attempt of a message of `retry` by one to `attempt`; also True if that was done before."""
        if entry_id not in self.retry:
            return False
        due, data = self.retry[entry_id]
        before, after = retry_prefix(life, attempt - 1), retry_prefix(life, attempt)
        if data.startswith(before):
            self.retry[entry_id] = due, after + data[len(before) :]
            return True
        return data.startswith(after)

    def due(self, now: int, count: int) -> tuple[list[tuple[bytes, bytes]], int | None]:
        """Return up to `count` due messages of `retry`, encoded, and when the first of the others is due."""
        order = sorted((due, entry_id) for entry_id, (due, _) in self.retry.items())
        bodies = [(entry_id, self.retry[entry_id][1]) for due, entry_id in order[:count] if due <= now]
        return bodies, order[len(bodies)][0] if len(bodies) < len(order) else None

    def dead_page(self, after: bytes, count: int) -> list[DeadLetterEntry]:
        """Return up to `count` dead letters above an id."""
        page = self.dead.after(parse_id(after), count)
        return [DeadLetterEntry(format_id(dead_id), read_dead(format_id(dead_id), words)) for dead_id, words in page]

    def newest_dead(self, below: bytes, count: int) -> list[DeadLetterEntry]:
        """Return up to `count` dead letters below an id (b"": the newest), the newest first."""
        page = self.dead.below(parse_id(below) if below else None, count)
        return [DeadLetterEntry(format_id(dead_id), read_dead(format_id(dead_id), words)) for dead_id, words in page]

    def redrive(self, lives: Sequence[tuple[bytes, Body]], now: int) -> int:
        """Move these dead letters to `retry`, those that are there, in the order given: their next life, due now."""
        before = len(self.dead)
        due = max(now - len(lives), self.redriven)
        for dead_id, body in lives:
            if self.dead.fields(parse_id(dead_id)) is not None:
                self.dead.delete([parse_id(dead_id)])
                due += 1
                self.again += body.entry_id not in self.retry
                self.retry.setdefault(body.entry_id, (due, encode_retry(body)))
                self.redriven = due
        return before - len(self.dead)

    def take_in(self, origin: int, letters: Sequence[tuple[bytes, Body]], now: int) -> int:
        """Put dead letters of another partition into `retry`, each once, due now, in this order; return how many were new."""
        new = [body for dead_id, body in letters if (origin, dead_id) not in self.taken_in and body.entry_id not in self.retry]
        self.taken_in.update((origin, dead_id) for dead_id, _ in letters)
        due = max(now - len(new), self.redriven)
        for body in new:
            due += 1
            self.again += 1
            self.retry[body.entry_id] = due, encode_retry(body)
            self.redriven = due
        return len(new)

    def retry_now(self, ids: Sequence[bytes] | None, count: int, now: int) -> int:
        """Let up to `count` messages of `retry` be due now, in their order, after those that are due already."""
        wanted = sorted(self.retry) if ids is None else [entry_id for entry_id in dict.fromkeys(ids) if entry_id in self.retry]
        later = [entry_id for entry_id in wanted if self.retry[entry_id][0] > now]
        later = sorted(later, key=lambda entry_id: self.retry[entry_id][0])[:count]
        due = max(now - len(later), self.redriven, *(one for one, _ in self.retry.values() if one <= now))
        for entry_id in later:
            due += 1
            self.retry[entry_id] = due, self.retry[entry_id][1]
            self.redriven = due
        return len(later)

    def purge(self, ids: Sequence[bytes] | None) -> int:
        """Drop these dead letters, or all; return how many there were."""
        before = len(self.dead)
        if ids is None:
            self.dead.trim(0)
        else:
            self.dead.delete(map(parse_id, ids))
        return before - len(self.dead)
