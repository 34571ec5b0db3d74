"""Times how long the partitions of a killed consumer stay without an owner. Pure: times are given, seconds on any one clock."""

from __future__ import annotations

from collections.abc import Iterable


class Takeover:
    """The takeover of one consumer's partitions.

    Attributes:
        victim: who was killed.
        killed_at: when.
        partitions: what it owned then.
        seconds: partition -> how long after the kill somebody owned it again.
    """

    def __init__(self, victim: str, partitions: Iterable[int], killed_at: float) -> None:
        self.victim = victim
        self.killed_at = killed_at
        self.partitions = frozenset(partitions)
        self.seconds: dict[int, float] = {}
        self._untold: dict[str, list[int]] = {}

    @property
    def complete(self) -> bool:
        """True once every partition has an owner again."""
        return len(self.seconds) == len(self.partitions)

    @property
    def slowest(self) -> float:
        """How long it took until every partition had an owner, as far as they have; 0 before the first."""
        return max(self.seconds.values(), default=0.0)

    def acquired(self, partition: int, by: str, now: float) -> None:
        """Note that somebody owns a partition now; only the first owner after the kill counts."""
        if partition in self.partitions and partition not in self.seconds and by != self.victim:
            self.seconds[partition] = now - self.killed_at
            self._untold.setdefault(by, []).append(partition)

    def news(self) -> list[tuple[str, list[int], float]]:
        """Return, once: who took which partitions over, and the most seconds that took."""
        untold, self._untold = self._untold, {}
        return [(by, sorted(taken), max(self.seconds[one] for one in taken)) for by, taken in untold.items()]
