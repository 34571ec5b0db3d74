"""Decide about every fault of a simulation: draw it as a plan says, or take it from a list.

Input: each operation and each run of a handler, with its process. Output: the faults that happen to it. Every fault handed out is added to
`befallen`, and that list, given instead of the plan, reproduces the same faults. Each process has a random generator of its own, and a list
needs none: the faults of one process do not depend on how many faults another had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Literal

from redisaq.testing.faults import OF_OPERATIONS, SERVER, SILENCES, Fault, FaultPlan, Kind

LATEST = 5.0
"""The largest number of seconds by which a late request is late."""

NOTHING: dict[Kind, float] = {}

UNNOTICED: tuple[Kind, ...] = ("delay", "reply_delay", "clock_drift", "silent_notifications")
"""Kinds that hold nobody up for more than moments or, where no notification is heard, until the next poll."""

LASTING: tuple[Kind, ...] = (*SILENCES, "late_request", "failover", "outage", "lost_cut", "crash", "pause", "grower_pause", "slow_handler")
"""Kinds whose amount is how long they last."""


Growing = Literal["no", "cuts", "grower", "grower cuts"]
"""Whether a step cuts streams, and whether a process of `Simulation.grow` takes it."""


class Chance:
    """The state of one process: how far it has come, and its source of faults."""

    __slots__ = ("handlers", "operations", "random")

    def __init__(self, seed: int, who: str) -> None:
        """Start at the process's first operation."""
        self.operations = 0
        self.handlers = 0
        self.random = Random(f"{seed} faults of {who}")  # noqa: S311 -- reproducible on purpose


class FaultSource:
    """Hand out the faults of one simulation, from a plan or from a list.

    Attributes:
        calm: True: no faults for now; those that a list has for that time are left out.
        befallen: the faults handed out so far, in order.
        disturb: called when a fault may hold up the group, with the number of seconds.
        befall: called with each fault when it happens.
    """

    def __init__(self, seed: int, faults: FaultPlan | Sequence[Fault], clock: Callable[[], float]) -> None:
        """Prepare the faults of one simulation.

        Args:
            seed: the simulation's seed.
            faults: a plan to draw from, or a list of the faults that are to happen.
            clock: returns virtual time.
        """
        self.calm = False
        self.befallen: list[Fault] = []
        self.disturb: Callable[[float], None] = lambda _: None
        self.befall: Callable[[Fault], None] = lambda _: None
        self._seed = seed
        self._clock = clock
        self._chances: dict[str, Chance] = {}
        self._plan = faults if isinstance(faults, FaultPlan) else FaultPlan()
        self._script: dict[tuple[str, int, bool], dict[Kind, float]] | None = None
        if not isinstance(faults, FaultPlan):
            self._script = {}
            for fault in faults:
                self._script.setdefault((fault.who, fault.number, fault.kind == "slow_handler"), {})[fault.kind] = fault.amount
        self._edges: list[tuple[Kind, float]] = []
        self._edge = 0.0
        for kind in OF_OPERATIONS:
            self._edge += getattr(self._plan, kind)
            self._edges.append((kind, self._edge))

    def operation(self, who: str, ttl: float, *, heartbeat: bool, faults: bool = True, growing: Growing = "no") -> dict[Kind, float]:
        """Return the faults of a process's next operation, as a mapping from kind to amount.

        Args:
            who: the process's name.
            ttl: the ttl of its lease; 0 if it can neither crash nor pause.
            heartbeat: whether the operation is a heartbeat.
            faults: False: only delays may happen to it.
            growing: whether it is a step with which a topic grows.
        """
        chance = self._chance(who)
        chance.operations += 1
        if self.calm:
            return NOTHING
        if self._script is None:
            drawn = self._draw(chance.random, ttl, heartbeat=heartbeat, faults=faults) | self._draw_growing(chance.random, growing)
        else:
            drawn = self._script.get((who, chance.operations, False), NOTHING)
        if drawn:
            self._befalls(who, chance.operations, drawn)
        return drawn

    def _draw(self, random: Random, ttl: float, *, heartbeat: bool, faults: bool) -> dict[Kind, float]:
        plan, found = self._plan, dict[Kind, float]()
        if not faults:
            return self._delays(random, found)
        if heartbeat and ttl and (plan.crash or plan.pause or plan.silent_network or plan.silent_notifications):
            drawn = random.random()
            if drawn < plan.crash:
                return {"crash": random.uniform(0.0, 2.0) * ttl}  # nothing is sent, so nothing else can happen to it
            if drawn < plan.crash + plan.pause:
                found["pause"] = random.uniform(0.5, 2.5) * ttl
            elif drawn < plan.crash + plan.pause + plan.silent_network:
                found["silent_network"] = random.uniform(0.0, plan.silence)
            elif drawn < plan.crash + plan.pause + plan.silent_network + plan.silent_notifications:
                found["silent_notifications"] = random.uniform(0.0, plan.silence)
        drawn = random.random()
        if drawn < self._edge:
            kind: Kind = next(kind for kind, edge in self._edges if drawn < edge)
            found[kind] = self._amount(kind, random)
        return self._delays(random, found)

    def _draw_growing(self, random: Random, growing: Growing) -> dict[Kind, float]:
        plan, found = self._plan, dict[Kind, float]()
        if growing.startswith("grower") and (plan.grower_crash or plan.grower_pause):
            drawn = random.random()
            if drawn < plan.grower_crash:
                found["grower_crash"] = 0.0
            elif drawn < plan.grower_crash + plan.grower_pause:
                found["grower_pause"] = random.uniform(0.0, plan.silence)
        if growing.endswith("cuts") and plan.lost_cut and random.random() < plan.lost_cut:
            found["lost_cut"] = random.uniform(0.0, plan.replica_lag)
        return found

    def _delays(self, random: Random, found: dict[Kind, float]) -> dict[Kind, float]:
        least, most = self._plan.delay
        if most:
            found["delay"] = random.uniform(least, most) / 2
            found["reply_delay"] = random.uniform(least, most) / 2
        return found

    def _amount(self, kind: Kind, random: Random) -> float:
        if kind in ("lost_request", "disconnect"):
            return float(random.random() < 0.5)  # noqa: PLR2004 -- half of them
        if kind == "late_request":
            return random.uniform(0.0, LATEST)
        if kind == "failover":
            return random.uniform(0.0, self._plan.replica_lag)
        if kind in SILENCES:
            return random.uniform(0.0, self._plan.silence)
        if kind == "outage":
            return random.uniform(0.0, self._plan.away)
        return random.random() if kind == "slot_loss" else 0.0

    def handler(self, who: str, ttl: float) -> float:
        """Return how many seconds longer the next run of a handler of the process takes."""
        chance = self._chance(who)
        chance.handlers += 1
        if self.calm:
            return 0.0
        if self._script is not None:
            slow = self._script.get((who, chance.handlers, True), NOTHING).get("slow_handler", 0.0)
        elif self._plan.slow_handler and chance.random.random() < self._plan.slow_handler:
            slow = chance.random.uniform(0.0, 2.0 * ttl)
        else:
            return 0.0
        if slow:
            self._befalls(who, chance.handlers, {"slow_handler": slow})
        return slow

    def drift(self) -> float:
        """Return how much faster the server's clock runs."""
        most = self._plan.clock_drift
        if self._script is not None:
            drift = self._script.get((SERVER, 0, False), NOTHING).get("clock_drift", 0.0)
        else:
            drift = self._chance(SERVER).random.uniform(-most, most) if most else 0.0
        if drift:
            self._befalls(SERVER, 0, {"clock_drift": drift})
        return drift

    def _befalls(self, who: str, number: int, kinds: dict[Kind, float]) -> None:
        now = self._clock()
        for kind, amount in kinds.items():
            if kind not in UNNOTICED:
                self.disturb(amount if kind in LASTING else 0.0)
            self.befallen.append(fault := Fault(who, number, kind, amount, now))
            self.befall(fault)

    def _chance(self, who: str) -> Chance:
        chance = self._chances.get(who)
        if chance is None:
            chance = self._chances[who] = Chance(self._seed, who)
        return chance
