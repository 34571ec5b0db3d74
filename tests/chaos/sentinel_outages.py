"""What happens to messages when a master behind sentinels fails or is replaced: each row as a function, and a command that plays them.

`python -m tests.chaos.sentinel_outages [row ...] [--program redis8]` plays rows (all by default) and prints what happened; it ends with 1
if a row went beyond its bounds. The sentinels take a server for dead after `DOWN_AFTER` seconds. Servers keep nothing on disk here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from tests.chaos.outage import Bounds, Outcome, play
from tests.sentinels import SERVICE, Guarded
from tests.servers import PROGRAMS, Watchdog

DOWN_AFTER = 1.0

Fault = Callable[[Guarded], Awaitable[float]]
"""Makes something happen to the master; returns the seconds until another one had its place and took writes."""


async def kill(guarded: Guarded) -> float:
    """Kill -9 the master."""
    return await _until_replaced(guarded, guarded.master.kill)


async def stop(guarded: Guarded) -> float:
    """SIGSTOP the master; SIGCONT when another has its place."""
    master = guarded.master
    try:
        took = await _until_replaced(guarded, master.pause)
        await anyio.sleep(1.0)
    finally:
        master.resume()
    return took


async def plan(guarded: Guarded) -> float:
    """SENTINEL FAILOVER: the former master takes writes until it learns of the new one, and then drops them."""
    return await _until_replaced(guarded, partial(guarded.sentinels[0].command, "SENTINEL", "FAILOVER", SERVICE))


async def plan_coordinated(guarded: Guarded) -> float:
    """SENTINEL FAILOVER COORDINATED: the former master has its writers wait (Valkey 9)."""
    return await _until_replaced(guarded, partial(guarded.sentinels[0].command, "SENTINEL", "FAILOVER", SERVICE, "COORDINATED"))


async def cut_and_kill(guarded: Guarded) -> float:
    """Cut the replicas off for 0.6 s, then kill -9 the master, and let the replicas go on."""
    began = time.monotonic()
    await anyio.to_thread.run_sync(guarded.cut_replicas)
    await anyio.sleep(0.6)

    def kill_and_go_on() -> None:
        guarded.servers[0].kill()
        for replica in guarded.servers[1:]:
            replica.resume()

    await _until_replaced(guarded, kill_and_go_on)
    return time.monotonic() - began


@dataclass(frozen=True)
class Row:
    """One thing that happens, with what options of the servers, and what may come of it.

    Attributes:
        fault: what happens.
        servers: options of the servers.
        backlog: handlers are slower than the producer, so that messages wait.
        only: kinds of servers that can do it.
        lost: how many acknowledged messages may be lost; None: any number.
    """

    fault: Fault
    servers: tuple[str, ...] = ()
    backlog: bool = False
    only: tuple[str, ...] = tuple(PROGRAMS)
    lost: int | None = 0


ROWS = {
    "kill": Row(kill),
    "kill-backlog": Row(kill, backlog=True),
    "stop": Row(stop),
    "planned": Row(plan, backlog=True, lost=None),
    "planned-coordinated": Row(plan_coordinated, backlog=True, only=("valkey9",)),
    "cut": Row(cut_and_kill, backlog=True, lost=None),
    "cut-min-replicas": Row(cut_and_kill, ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "3"), backlog=True),
}


async def play_row(name: str, guarded: Guarded, namespace: str, **more: Any) -> tuple[Outcome, Bounds]:
    """Play one row; return what happened and what may: the longest gap is what the servers took, 1.3 times, and a second."""
    row = ROWS[name]
    took = 0.0

    async def fault() -> None:
        nonlocal took
        took = await row.fault(guarded)

    load: dict[str, Any] = {"work": 0.05, "rate": 220.0} if row.backlog else {}
    outcome = await play(f"{name} on {guarded.kind}", guarded.url, namespace, fault, **load, **more)
    outcome.name += f" ({took:.2f} s without a master)"
    return outcome, Bounds(gap=1.3 * took + 1.0, slowest=1.3 * took + 2.0, lost=row.lost)


async def _until_replaced(guarded: Guarded, happen: Callable[[], object]) -> float:
    former, began = guarded.master, time.monotonic()

    def wait() -> None:
        happen()
        guarded.wait_for_another(former)

    await anyio.to_thread.run_sync(wait)
    return time.monotonic() - began


def main(words: list[str]) -> int:
    """Play rows; return 1 if one went beyond its bounds."""
    program = words.pop(words.index("--program") + 1) if "--program" in words else "valkey9"
    names = [word for word in words if word != "--program"] or list(ROWS)
    bad = 0
    for name in names:
        row = ROWS[name]
        if program not in row.only:
            continue
        watchdog = Watchdog()
        guarded = Guarded(program, PROGRAMS[program](), watchdog, row.servers, down_after=DOWN_AFTER)
        try:
            guarded.start()
            outcome, bounds = anyio.run(play_row, name, guarded, name)
        finally:
            guarded.close()
            watchdog.close()
        beyond = outcome.beyond(bounds)
        print(outcome, *(f"\n    BEYOND: {what}" for what in beyond), flush=True)
        bad += bool(beyond)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
