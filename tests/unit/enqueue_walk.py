"""A random walk through what may happen to a producer's calls: the same seed, the same walk."""

from __future__ import annotations

from random import Random
from types import ModuleType
from typing import Any

from redisaq.core import enqueueing
from tests.unit.enqueue_world import World

KEYS = [None, "0", "1", "2", "3", "4", "5"]
STEPS = {"go": 35, "arrive": 25, "answer": 15, "start": 4, "tick": 6}
FAULTS = {
    "disconnect": 5.0,
    "restart": 1.0,
    "failover": 1.0,
    "replicate": 1.5,
    "crowd": 3.0,
    "trim": 2.0,
    "cancel": 0.7,
    "grow": 0.5,
    "lose_stream": 0.4,
    "refuse": 0.7,
    "move_delayed": 1.0,
}


def step(world: World, action: str, random: Random) -> None:
    """Let one thing happen."""
    pick = random.randrange(1 << 16)
    match action:
        case "start":
            if sum(not call.over for call in world.calls) < 6:
                kind: Any = random.choice(["append"] * 6 + ["delay", "once"])
                world.start(kind, random.choices(KEYS, k=random.choice([1, 1, 2, 4])))
        case "restart" | "failover":
            world.restart(random.choice([0, 0, 100, 400]), failover=action == "failover")
        case "answer" | "replicate" | "move_delayed":
            getattr(world, action)()
        case "refuse":
            world.refuse(passing=random.random() < 0.5)
        case "tick":
            world.tick(random.choice([0.1, 0.3, 1.0, 5.0] if any(not call.over for call in world.calls) else [1.0, 30.0, 60.0, 100.0]))
        case "trim":
            world.trim(random.choice([0, 1, 2, 4]))
        case "grow":
            world.grow(random.choice([1, 2]))
        case _:
            getattr(world, action)(pick)


def walk(seed: int, rules: ModuleType = enqueueing, *, steps: int = 300) -> World:
    """Walk, then settle; raises Violation where a promise is broken, and Misstep where an event comes that the table does not have."""
    random = Random(seed)
    world = World(
        rules,
        trims=random.choice(["nothing", "to length", "what is acked"]),
        forbids=random.random() < 0.08,
        limited=random.random() < 0.15,
    )
    often = random.choice([0.5, 1.0, 2.0])
    weights = STEPS | {fault: weight * often for fault, weight in FAULTS.items() if random.random() < 0.6}
    for action in random.choices(list(weights), list(weights.values()), k=steps):
        step(world, action, random)
    if random.random() < 0.05:
        world.close()
    world.settle()
    return world
