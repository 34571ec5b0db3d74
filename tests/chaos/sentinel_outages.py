"""What happens to messages when a master behind sentinels fails or is replaced: each row as a function, and a command that plays them.

`python -m tests.chaos.sentinel_outages [row ...] [--program redis8]` plays rows (all by default) and prints what happened; it ends with 1
if a row went beyond its bounds. The sentinels take a server for dead after `DOWN_AFTER` seconds. Servers keep nothing on disk here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from tests.chaos.outage import Bounds, Outcome, Row, play_row, play_rows, timed
from tests.sentinels import SERVICE, Guarded
from tests.servers import PROGRAMS, Watchdog

DOWN_AFTER = 1.0


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


ROWS = {
    "kill": Row(kill),
    "kill-backlog": Row(kill, backlog=True),
    "stop": Row(stop),
    "planned": Row(plan, backlog=True, lost=None),
    "planned-coordinated": Row(plan_coordinated, backlog=True, only=("valkey9",)),
    "planned-confirmed": Row(plan, backlog=True, lost=None, confirmed=True),
    "cut": Row(cut_and_kill, backlog=True, lost=None),
    "cut-min-replicas": Row(cut_and_kill, ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "3"), backlog=True),
}


def play_one(name: str, guarded: Guarded, namespace: str, **more: Any) -> Awaitable[tuple[Outcome, Bounds]]:
    """Play one row; see outage.py."""
    return play_row(name, ROWS[name], guarded, guarded, namespace, **more)


async def _until_replaced(guarded: Guarded, happen: Callable[[], object]) -> float:
    former = guarded.master

    def wait() -> None:
        happen()
        guarded.wait_for_another(former)

    return await timed(wait)


def main(words: list[str]) -> int:
    """Play rows; return 1 if one went beyond its bounds."""

    def one(name: str, program: str) -> tuple[Outcome, Bounds]:
        watchdog = Watchdog()
        guarded = Guarded(program, PROGRAMS[program](), watchdog, ROWS[name].options, down_after=DOWN_AFTER)
        try:
            guarded.start()
            return anyio.run(partial(play_one, name, guarded, name))
        finally:
            guarded.close()
            watchdog.close()

    return play_rows(words, ROWS, one)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
