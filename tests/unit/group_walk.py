"""A random walk through what may happen to a group: the same seed, the same walk."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from tests.unit.group_world import World

STEPS = {"go": 40, "arrive": 12, "resume": 20, "tick": 20, "round": 10, "drain": 8, "start": 3}
FAULTS = {
    "lose_request": 2.0,
    "lose_late": 2.0,
    "lose_answer": 2.0,
    "come_late": 3.0,
    "pause": 2.0,
    "crash": 1.0,
    "stop": 1.0,
    "grow": 0.4,
    "failover": 0.5,
    "replicate": 10.0,
    "lose_slot": 0.4,
    "flush": 0.2,
}


def step(world: World, action: str, random: Random) -> None:
    """Let one thing happen, and check."""
    pick = random.randrange(1 << 16)
    match action:
        case "tick":
            world.tick(random.choice([1, 3, 5, 10, 10, 20, 40]))
        case "round":
            world.round(random.choice([1, 10, 20, 30]))
        case "start" if len(world.processes) < 4:
            world.start(random.choice([None, None, "s", "t"]), random.choice([0.9, 1.0, 1.1]))
        case "start":
            pass
        case "lose_late":
            world.lose_request(pick, late=True)
        case "grow":
            world.grow(random.randrange(1, 7))
        case "failover":
            # The clock may be behind the last server's, unless documents were lost with it: nothing could keep tokens apart then.
            world.failover(world.server.ahead + random.randrange(60) if "replicated" in world.off else random.randrange(-60, 60))
        case "lose_slot":
            world.lose_group(data=False)
        case "flush":
            world.lose_group(data=True)
        case _:
            getattr(world, action)(pick)
    world.check()


def walk(seed: int, *, off: Collection[str] = (), faults: Collection[str] | None = None, steps: int = 300, often: float = 1.0) -> World:
    """Walk, then settle; raises Violation where a promise is broken.

    Args:
        seed: decides everything.
        off: rules to take out.
        faults: which may happen; None: a choice of the seed's.
        steps: how many.
        often: how many times more often than usual the faults are to happen.
    """
    random = Random(seed)
    chosen = {fault: weight * often for fault, weight in FAULTS.items() if (random.random() < 0.5 if faults is None else fault in faults)}
    weights = STEPS | chosen
    world = World(off=frozenset(off))
    for _ in range(2):
        world.start(random.choice([None, "s"]), random.choice([0.9, 1.0, 1.1]))
    for action in random.choices(list(weights), list(weights.values()), k=steps):
        step(world, action, random)
    world.settle()
    return world
