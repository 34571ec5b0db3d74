"""What happens to messages when nodes of a cluster fail, are replaced, or hand their slots over: each row as a function, and a command.

`python -m tests.chaos.cluster_outages [row ...] [--program redis8]` plays rows (all by default) and prints what happened; it ends with 1 if
a row went beyond its bounds. Each of three masters has a replica. Nodes are taken for dead after `NODE_TIMEOUT` seconds; they keep nothing
on disk.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from redisaq.link.slot_map import slot_of
from tests.chaos.outage import PARTITIONS, Bounds, Outcome, Row, play_row, play_rows, timed
from tests.clusters import Cluster
from tests.servers import PROGRAMS, Server, Watchdog

NODE_TIMEOUT = 2.0
SLOW = 15.0
"""The servers' own default: until another node has its place, every lease of 12 s has expired."""

HELD = 2.0
"""Seconds for which a slot stays open in a slow migration."""


@dataclass
class Place:
    """A namespace in a cluster: where its topic and its partitions are.

    Attributes:
        cluster: the cluster.
        namespace: the namespace of the topic `jobs`.
    """

    cluster: Cluster
    namespace: str

    @property
    def topic(self) -> int:
        """The topic's slot."""
        return slot_of(f"{{{self.namespace}:jobs}}".encode())

    @property
    def partitions(self) -> list[int]:
        """The partitions' slots."""
        return [slot_of(f"{{{self.namespace}:jobs:{number}}}".encode()) for number in range(PARTITIONS)]

    def victim(self, *, topic: bool) -> tuple[Server, int]:
        """Return the topic's node, or another one that has partitions; and a slot of interest there."""
        first = self.cluster.serves(self.topic)
        if topic:
            return first, self.topic
        slot = next(slot for slot in self.partitions if self.cluster.serves(slot) is not first)
        return self.cluster.serves(slot), slot

    def other_than(self, node: Server) -> Server:
        """Return another master."""
        return next(one for one in self.cluster.masters_now() if one is not node)


async def fail_over(place: Place, *, topic: bool) -> float:
    """CLUSTER FAILOVER at a replica of the node."""
    node, slot = place.victim(topic=topic)

    def happen() -> None:
        place.cluster.replica_of(node).command("CLUSTER", "FAILOVER")
        place.cluster.wait_for_another(slot, node)

    took = await timed(happen)
    await anyio.to_thread.run_sync(place.cluster.wait_until_known, slot)  # what happens next finds a cluster that is of one mind
    return took


async def kill(place: Place, *, topic: bool, restart: bool = False) -> float:
    """Kill -9 the node; start it again as a replica when another has its place."""
    node, slot = place.victim(topic=topic)

    def happen() -> None:
        node.kill()
        place.cluster.wait_for_another(slot, node)

    took = await timed(happen)
    if restart:
        await anyio.sleep(1.0)
        await anyio.to_thread.run_sync(node.start)
        await anyio.sleep(1.0)
    return took


async def stop(place: Place, *, topic: bool) -> float:
    """SIGSTOP the node; SIGCONT a while after another has its place."""
    node, slot = place.victim(topic=topic)

    def happen() -> None:
        node.pause()
        place.cluster.wait_for_another(slot, node)

    try:
        took = await timed(happen)
        await anyio.sleep(3.0)
    finally:
        node.resume()
    return took


async def move_at_once(place: Place, *, topic: bool) -> float:
    """Move all slots of the node in one step (Valkey 9)."""

    def happen() -> None:
        node, slot = place.victim(topic=topic)
        first, last = next((first, last) for first, last, (_, port, *_), *_ in node.command("CLUSTER", "SLOTS") if port == node.port)
        place.cluster.migrate_at_once(first, last, place.other_than(node))
        place.cluster.wait_for_another(slot, node)

    await timed(happen)
    return 0.0


async def move_slot_by_slot(place: Place, *, topic: bool, held: float = 0.0) -> float:
    """Move the slots of interest of the node, key by key; each stays open for `held` seconds."""

    def happen() -> None:
        node, slot = place.victim(topic=topic)
        here = [one for one in place.partitions if place.cluster.serves(one) is node][: 1 if held else None]
        place.cluster.migrate(list(dict.fromkeys([slot, *here])), place.other_than(node), held=held)

    await timed(happen)
    return held


async def cut_and_kill(place: Place, *, topic: bool = False) -> float:
    """Cut the node's replica off for 0.6 s, then kill -9 the node, let the replica go on, and start the node again."""
    node, slot = place.victim(topic=topic)
    replica = place.cluster.replica_of(node)

    def cut() -> None:
        replica.pause()
        node.command("CLIENT", "KILL", "TYPE", "replica")

    def happen() -> None:
        node.kill()
        replica.resume()
        place.cluster.wait_for_another(slot, node)

    began = time.monotonic()
    await anyio.to_thread.run_sync(cut)
    await anyio.sleep(0.6)
    await timed(happen)
    node.start()
    await anyio.to_thread.run_sync(place.cluster.wait_until_whole)
    return time.monotonic() - began


async def isolate(place: Place, *, topic: bool) -> float:
    """Cut the node off from all other nodes, not from clients, until another has its place and for a while after that."""
    node, slot = place.victim(topic=topic)

    def happen() -> None:
        place.cluster.isolate(node)
        place.cluster.wait_for_another(slot, node)

    try:
        took = await timed(happen)
        await anyio.sleep(3.0)
    finally:
        place.cluster.heal(node)
    return took + 3.0


@dataclass(frozen=True)
class ClusterRow(Row[Place]):
    """A row, and what nodes it needs.

    Attributes:
        node_timeout: seconds after which a node is taken for dead.
        proxied: the nodes reach each other over proxies.
    """

    node_timeout: float = NODE_TIMEOUT
    proxied: bool = False


VALKEY = ("valkey9",)
ROWS = {
    "failover": ClusterRow(partial(fail_over, topic=False)),
    "failover-topic": ClusterRow(partial(fail_over, topic=True)),
    "atomic": ClusterRow(partial(move_at_once, topic=False), only=VALKEY),
    "atomic-topic": ClusterRow(partial(move_at_once, topic=True), only=VALKEY),
    "classic": ClusterRow(partial(move_slot_by_slot, topic=False)),
    "classic-topic": ClusterRow(partial(move_slot_by_slot, topic=True)),
    "classic-held": ClusterRow(partial(move_slot_by_slot, topic=False, held=HELD)),
    "classic-held-topic": ClusterRow(partial(move_slot_by_slot, topic=True, held=HELD)),
    "kill": ClusterRow(partial(kill, topic=False)),
    "kill-topic": ClusterRow(partial(kill, topic=True)),
    "kill-backlog": ClusterRow(partial(kill, topic=False), backlog=True),
    "kill-restart": ClusterRow(partial(kill, topic=False, restart=True)),
    "stop": ClusterRow(partial(stop, topic=False)),
    "stop-topic": ClusterRow(partial(stop, topic=True)),
    "cut": ClusterRow(cut_and_kill, backlog=True, lost=None),
    "isolated": ClusterRow(partial(isolate, topic=False), backlog=True, lost=None, proxied=True),
    "isolated-topic": ClusterRow(partial(isolate, topic=True), backlog=True, lost=None, proxied=True),
    "failover-confirmed": ClusterRow(partial(fail_over, topic=False), backlog=True, confirmed=True),
    "isolated-confirmed": ClusterRow(partial(isolate, topic=False), backlog=True, confirmed=True, proxied=True),
    "cut-confirmed": ClusterRow(cut_and_kill, backlog=True, confirmed=True),
    "kill-topic-slow": ClusterRow(partial(kill, topic=True), node_timeout=SLOW),
    "cut-min-replicas": ClusterRow(cut_and_kill, ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "3"), backlog=True),
}


def play_one(name: str, cluster: Cluster, namespace: str, **more: Any) -> Awaitable[tuple[Outcome, Bounds]]:
    """Play one row; see outage.py."""
    row = ROWS[name]
    if row.node_timeout > NODE_TIMEOUT:
        more["send_timeout"] = 4 * row.node_timeout
    return play_row(name, row, Place(cluster, namespace), cluster, namespace, **more)


@contextmanager
def started(program: str, row: ClusterRow) -> Iterator[Cluster]:
    """Start a cluster with replicas, as a row wants it."""
    watchdog = Watchdog()
    options: dict[str, Any] = {"node_timeout": row.node_timeout, "options": row.options, "proxied": row.proxied}
    cluster = Cluster(program, PROGRAMS[program](), watchdog, replicas=1, **options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
        watchdog.close()


def main(words: list[str]) -> int:
    """Play rows; return 1 if one went beyond its bounds."""

    def one(name: str, program: str) -> tuple[Outcome, Bounds]:
        with started(program, ROWS[name]) as cluster:
            return anyio.run(partial(play_one, name, cluster, name))

    return play_rows(words, ROWS, one)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
