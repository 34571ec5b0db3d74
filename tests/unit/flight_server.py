"""A model of what the server holds of one partition for one group: the stream, what is pending, `retry`, dead letters, the token.

Each method is one atomic step. Entry ids are whole numbers here, and `entry_of` writes them as the server does. What the steps do is what
docs/understand/protocol.md says of them, and no more: no clocks, no connections, no bytes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from redisaq.core.entry_ids import parse_id
from redisaq.core.records import Body, Resolution

GOOD, BAD = (b"i", b"x", b"d", b"1"), (b"?",)
"""Fields of an entry that can be read, and of one that cannot."""


class GroupGone(Exception):
    """The server does not have the group."""


def entry_of(number: int) -> bytes:
    return b"%d-0" % number


def number_of(entry: bytes) -> int:
    return parse_id(entry)[0]


@dataclass
class Shelf:
    """What a replica may lack: all but the stream.

    Attributes:
        cursor: the last entry that was delivered; None if the group is gone.
        pending: delivery counts.
        retry: due time and body.
        dead: how many handlers had begun on each.
        done: what needs no handler any more.
    """

    cursor: int | None = 0
    pending: dict[int, int] = field(default_factory=dict[int, int])
    retry: dict[int, tuple[int, Body]] = field(default_factory=dict[int, tuple[int, Body]])
    dead: dict[int, int] = field(default_factory=dict[int, int])
    done: set[int] = field(default_factory=set[int])


class Server:
    """The server's side of one partition for one group."""

    def __init__(self) -> None:
        self.stream: dict[int, Sequence[bytes]] = {}
        self.shelf = Shelf()
        self.token = 0
        self.holder = ""
        self.moved: tuple[int, int] | None = None
        self.run_id = "first"
        self.replica: Shelf | None = None

    @property
    def last(self) -> int:
        return len(self.stream)

    def append(self, fields: Sequence[bytes]) -> None:
        self.stream[self.last + 1] = fields

    # -- what an owner asks ---------------------------------------------------------------------------------------------------------

    def read(self, count: int) -> list[tuple[bytes, Sequence[bytes]]]:
        shelf = self.shelf
        if shelf.cursor is None:
            raise GroupGone
        numbers = [number for number in self.stream if number > shelf.cursor][:count]
        shelf.pending.update(dict.fromkeys(numbers, 1))
        shelf.cursor = max([shelf.cursor, *numbers])
        return [(entry_of(number), self.stream[number]) for number in numbers]

    def claim(self, after: bytes, count: int) -> tuple[list[tuple[bytes, Sequence[bytes], int]], bytes | None]:
        pending = self.shelf.pending if self.shelf.cursor is not None else {}
        above = sorted(number for number in pending if (number, 0) > parse_id(after))
        page = above[:count]
        entries = [(entry_of(number), self.stream[number], pending[number]) for number in page]
        return entries, entry_of(page[-1]) if len(above) > count else None

    def set_deliveries(self, token: int, counts: Mapping[bytes, int], *, raising: bool) -> bool:
        if token != self.token or (raising and not self.holder):
            return False
        pending = self.shelf.pending
        for entry, count in counts.items():
            number = number_of(entry)
            if number in pending:
                pending[number] = max(count, pending[number]) if raising else count
        return True

    def start_retry(self, token: int, body: Body) -> bool:
        number = number_of(body.entry_id)
        if token != self.token or not self.holder or number not in self.shelf.retry:
            return False
        due, there = self.shelf.retry[number]
        if (there.life, there.attempt) == (body.life, body.attempt - 1):
            self.shelf.retry[number] = due, structs.replace(there, attempt=body.attempt)
            return True
        return (there.life, there.attempt) == (body.life, body.attempt)

    def acknowledge(self, token: int, entries: Sequence[bytes]) -> int:
        if token == self.token:
            for entry in entries:
                self.shelf.pending.pop(number_of(entry), None)
                self.shelf.done.add(number_of(entry))
        return self.token

    def resolve(self, token: int, resolutions: Sequence[Resolution]) -> tuple[int, list[bool]]:
        return self.token, [self._resolve(one) for one in resolutions] if token == self.token else []

    def _resolve(self, one: Resolution) -> bool:
        shelf, number = self.shelf, number_of(one.body.entry_id)
        if one.source == "stream":
            there = shelf.pending.pop(number, None) is not None
        else:
            due, body = shelf.retry.get(number, (0, None))
            there = body is not None and (body.life, body.attempt) == (one.body.life, one.body.attempt)
            if there and one.to == "retry" and (due, body) == (one.due, one.kept):
                return False
            if there:
                del shelf.retry[number]
        if there and one.to == "retry":
            shelf.retry.setdefault(number, (one.due, one.kept))
        elif there:
            shelf.done.add(number)
            if one.to == "dead":
                shelf.dead[number] = one.body.failure.attempts if one.body.failure is not None else 0
        return there

    def due(self, now: int, count: int) -> list[Body]:
        order = sorted((due, number) for number, (due, _) in self.shelf.retry.items())
        return [self.shelf.retry[number][1] for due, number in order[:count] if due <= now]

    def remake(self, evidence: bytes, start: bytes) -> None:
        shelf = self.shelf
        if shelf.cursor is None:
            shelf.cursor = number_of(start) if evidence and number_of(evidence) in self.stream else 0
            shelf.pending = {}

    # -- what befalls it ------------------------------------------------------------------------------------------------------------

    def take(self) -> int:
        """Install the next token for a new owner, and return it."""
        self.token += 1
        self.holder = f"m{self.token}"
        self.moved = None
        return self.token

    def seek(self, position: int) -> None:
        """An administrator moves the group: what is above the position is new again, and the token is spent (S5)."""
        shelf, delivered = self.shelf, self.last if self.shelf.cursor is None else self.shelf.cursor
        shelf.pending = {number: count for number, count in shelf.pending.items() if number <= position}
        shelf.retry = {number: one for number, one in shelf.retry.items() if number <= position}
        shelf.dead = {number: one for number, one in shelf.dead.items() if number <= position}
        shelf.done = {number for number in shelf.done if number <= position}
        shelf.cursor = position
        if self.token:
            self.token += 1
            lowest, highest = self.moved or (position, delivered)
            self.moved = min(position, lowest), max(delivered, highest)

    def lose_group(self) -> None:
        self.shelf.cursor, self.shelf.pending = None, {}

    def save(self) -> None:
        """Let the replica come up to date."""
        self.replica = copy.deepcopy(self.shelf)

    def fail_over(self, run_id: str) -> None:
        """Let the replica take over, if it ever came up to date; and with another run_id in any case."""
        if self.replica is not None:
            self.shelf, self.replica = self.replica, None
        self.run_id = run_id
