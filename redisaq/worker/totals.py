"""Adds up the metrics of all children, including those that have ended.

Input: the metrics that each child reported last, and what it had counted when it ended. Output: metrics of the whole worker. Counters and
histograms are summed, and what an ended child counted stays in the sum. All other metrics (gauges) describe the present: they are kept
apart for each living child, by the label `child`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from redisaq.worker.reports import Family, Sample

SUMMED = frozenset({"counter", "histogram", "summary"})

Key = tuple[str, tuple[tuple[str, str], ...]]


class Totals:
    """The metrics of all children."""

    def __init__(self) -> None:
        self._last: dict[int, list[Family]] = {}
        self._past: list[Family] = []

    def update(self, child: int, families: list[Family]) -> None:
        """Record what a child reports."""
        self._last[child] = families

    def settle(self, child: int, counted: list[Family]) -> None:
        """Record what a child had counted when it ended: that is later than its last report, which stays for what is not in it."""
        later = {_key(sample) for family in counted for sample in family.samples}
        last = self._last.get(child, [])
        rest = [msgspec.structs.replace(one, samples=[each for each in one.samples if _key(each) not in later]) for one in last]
        self._last[child] = [one for one in rest if one.samples] + counted

    def bury(self, child: int) -> None:
        """Keep what an ended child counted, and forget the rest of it."""
        ended = [family for family in self._last.pop(child, []) if family.kind in SUMMED]
        self._past = _summed([*self._past, *ended])

    def families(self) -> list[Family]:
        """Return the metrics of all children."""
        living = [(child, family) for child, families in sorted(self._last.items()) for family in families]
        counted = _summed([*self._past, *(family for _, family in living if family.kind in SUMMED)])
        return [*counted, *_apart((child, family) for child, family in living if family.kind not in SUMMED)]


def _key(sample: Sample) -> Key:
    return sample.name, tuple(sorted(sample.labels.items()))


def _summed(families: Iterable[Family]) -> list[Family]:
    kinds: dict[str, Family] = {}
    sums: dict[str, dict[Key, float]] = {}
    for family in families:
        kinds.setdefault(family.name, family)
        values = sums.setdefault(family.name, {})
        for sample in family.samples:
            key = _key(sample)
            values[key] = values.get(key, 0.0) + sample.value
    return [
        Family(name, family.kind, family.text, [Sample(own, dict(labels), value) for (own, labels), value in sums[name].items()])
        for name, family in kinds.items()
    ]


def _apart(living: Iterable[tuple[int, Family]]) -> list[Family]:
    found: dict[str, Family] = {}
    for child, family in living:
        whole = found.setdefault(family.name, Family(family.name, family.kind, family.text, []))
        whole.samples.extend(Sample(one.name, {**one.labels, "child": str(child)}, one.value) for one in family.samples)
    return list(found.values())
