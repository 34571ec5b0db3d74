"""Decide whether two violations are of one kind: the same sentence about other messages, members and times.

Input: sentences from reports, and the names that occur in their runs. Output: the part that is the same in all sentences of a kind.
Exceptions of a scenario are of one kind if they have the same type and come from the same line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from redisaq.testing.observed import Delivery, Lease, Settle
from redisaq.testing.raised import RAISED
from redisaq.testing.report import Report

BLANK = "…"

EXCEEDED = "; who takes the steps: "
"""The text after this in a VirtualTimeExceeded differs each time."""

_TIME = re.compile(r"at (\d+\.\d+): ")
_LISTED = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|(?<=\(key )[^()]*(?=\))")
_IDENTIFIER = re.compile(r"(?<![\w.:-])[0-9abcdefghjkmnpqrstvwxyz]{16}(?![\w-])|[\w.:-]*\d[\w.:-]*\b")
"""An id that contains no digit by chance, or any word with a digit: a time, a token, an entry, a partition, a count."""


def kind_of(violation: str, names: Iterable[str]) -> str:
    """Return the text of a violation without the parts that differ between two of its kind.

    Args:
        violation: the sentence.
        names: see `names_of`.
    """
    text = _TIME.sub("", violation, count=1).partition("\n")[0]
    if text.startswith(RAISED):
        return text.partition(": ")[0]
    text = text.partition(EXCEEDED)[0]
    words = sorted(names, key=lambda name: (-len(name), name))
    if words:
        text = re.sub(rf"(?<!\w)({'|'.join(map(re.escape, words))})(?!\w)", BLANK, text)
    return _IDENTIFIER.sub(BLANK, _LISTED.sub(BLANK, text))


def names_of(report: Report) -> frozenset[str]:
    """Return the names of members, producers, topics and groups in a run."""
    placed: list[Delivery | Lease | Settle] = [*report.deliveries, *report.leases, *report.settles]
    names = {mark.member for mark in report.marks} | {fault.who for fault in report.faults}
    return frozenset(names | {name for one in placed for name in (one.member, one.topic, one.group)}) - {""}


def time_of(violation: str) -> float | None:
    """Return when the violation was noted, in seconds; None if its time is unknown."""
    found = _TIME.match(violation)
    return None if found is None else float(found[1])
