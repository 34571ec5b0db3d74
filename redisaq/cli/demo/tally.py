"""Counts what was produced and what was processed, and says whether they match. Pure.

In: message ids, in any order: the report of a message's processing may arrive before that of its production. Out: a Verdict.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What came out.

    Attributes:
        expected: messages that were to be produced.
        produced: messages that the server took.
        processed: of those, how many were processed at least once.
        duplicates: processings beyond the first of a message.
        foreign: ids processed that nobody produced.
    """

    expected: int
    produced: int
    processed: int
    duplicates: int
    foreign: int

    @property
    def lost(self) -> int:
        """Messages that the server took and nobody processed."""
        return self.produced - self.processed

    @property
    def matches(self) -> bool:
        """True if everything was produced and processed at least once, and nothing else was. Duplicates are allowed: at least once."""
        return self.produced == self.expected and self.lost == 0 and self.foreign == 0

    def __str__(self) -> str:
        """Return the demo's final line."""
        figures = f"produced {self.produced}, processed at least once {self.processed}, lost {self.lost}, duplicates {self.duplicates}"
        wrong: list[str] = []
        if self.produced != self.expected:
            wrong.append(f"{self.expected - self.produced} of {self.expected} were not produced")
        if self.lost:
            wrong.append(f"{self.lost} were not processed")
        if self.foreign:
            wrong.append(f"{self.foreign} were processed that nobody produced")
        return f"{figures}: {'they do NOT match: ' + ', '.join(wrong) if wrong else 'they match'}"


class Tally:
    """The count of one run.

    Args:
        expected: messages that are to be produced.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self._produced: set[str] = set()
        self._processed: set[str] = set()
        self._done = 0  # of those produced
        self._deliveries = 0

    @property
    def produced(self) -> int:
        """Messages that the server took, so far."""
        return len(self._produced)

    @property
    def processed(self) -> int:
        """Messages processed at least once, so far."""
        return self._done

    @property
    def complete(self) -> bool:
        """True once everything was produced and processed."""
        return self._done == len(self._produced) >= self.expected

    def add_produced(self, ids: Iterable[str]) -> None:
        """Count these as produced."""
        for msg_id in ids:
            if msg_id not in self._produced:
                self._produced.add(msg_id)
                self._done += msg_id in self._processed

    def add_processed(self, msg_id: str) -> None:
        """Count one processing."""
        self._deliveries += 1
        if msg_id not in self._processed:
            self._processed.add(msg_id)
            self._done += msg_id in self._produced

    def verdict(self) -> Verdict:
        """Return what came out up to now."""
        return Verdict(
            expected=self.expected,
            produced=len(self._produced),
            processed=self._done,
            duplicates=self._deliveries - len(self._processed),
            foreign=len(self._processed) - self._done,
        )
