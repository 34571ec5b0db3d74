"""Decides when to show what the rules find: one bad sample shows nothing, and one good sample hides nothing.

Input: the findings of each sample. Output: those to show, the most serious first. Counters that never fall, and facts such as a pause, are
shown at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import msgspec
from msgspec.structs import replace

from redisaq.watching.attention import MIXED
from redisaq.watching.snapshot import Attention, Severity

_ORDER: dict[Severity, int] = {"bad": 0, "warn": 1, "calm": 2}

_HOLD = {"mixed": MIXED}
"""Kinds of findings that are shown only after so many seconds."""


class _Standing(msgspec.Struct):
    """What is known of one finding.

    Attributes:
        found: the latest one.
        first: when it was first found.
        count: in how many samples it was found since then.
        missing: in how many samples it was not, since it was last found.
        sure: one sample is enough.
    """

    found: Attention
    first: float
    count: int
    missing: int
    sure: bool

    def shows(self, at: float) -> bool:
        """Return whether to show it."""
        return (self.sure or self.count > 1) and at - self.first >= _HOLD.get(self.found.kind, 0.0)


class Steady:
    """Shows a finding after two samples in a row, and hides it after two samples without it, so that rows do not blink."""

    def __init__(self) -> None:
        self._standing: dict[Hashable, dict[str, _Standing]] = {}

    def put(self, about: Hashable, at: float, findings: Iterable[tuple[Attention, bool]]) -> None:
        """Record all findings of one sample, each with whether one sample is enough."""
        standing = self._standing.setdefault(about, {})
        found = {finding.key: (finding, sure) for finding, sure in findings}
        for key, one in list(standing.items()):
            if key not in found:
                one.missing += 1
                if one.sure or one.missing > 1 or one.count < 2:  # noqa: PLR2004
                    del standing[key]
        for key, (finding, sure) in found.items():
            known = standing.get(key)
            if known is None:
                standing[key] = _Standing(finding, min(at, finding.since), 1, 0, sure)
            else:
                known.found, known.missing, known.count = finding, 0, known.count + 1
                known.first = min(known.first, finding.since)
        if not standing:
            del self._standing[about]

    def forget(self, about: Hashable) -> None:
        """Forget something that is gone."""
        self._standing.pop(about, None)

    def shown(self, at: float) -> list[Attention]:
        """Return what to show, the most serious first, then what began first."""
        found = [replace(one.found, since=one.first) for standing in self._standing.values() for one in standing.values() if one.shows(at)]
        return sorted(found, key=lambda one: (_ORDER[one.severity], one.since, one.key))

    def kinds(self, about: Hashable, at: float) -> set[str]:
        """Return the kinds of findings that are shown of something."""
        return {one.found.kind for one in self._standing.get(about, {}).values() if one.shows(at)}
