"""Apply the faults of the simulated server: it is silent or away, a lagging replica takes its place, or the data of one slot is gone.

Input: "failover", "slot_loss", "silent_server" and "outage", when they happen to an operation or a scenario asks for them. Output: the new
content of the store, and for the record what it had before. After a loss the server does nothing for a moment, as a real one would, so that
no entry id is given twice. Only one failover, silence or outage happens at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import anyio

from redisaq.brokers.memory.holdings import Holdings
from redisaq.errors import SettingsError
from redisaq.settings import check_count
from redisaq.testing.faults import SERVER, Kind
from redisaq.testing.network import Network
from redisaq.testing.nodes import Nodes

MOMENT = 0.01
"""Seconds for which the server does nothing after a loss."""

LOOK = 0.25
"""Seconds between two checks whether the server is back."""


class Outages:
    """Apply faults to the server of one simulation."""

    def __init__(
        self,
        store: Nodes,
        network: Network,
        lost: Callable[[Holdings, Holdings, str], None],
        *,
        note: Callable[[str, str, str], None],
        start: Callable[[Callable[[float], Coroutine[Any, Any, None]], float], None],
    ) -> None:
        """Prepare for a simulation.

        Args:
            store: the server's data.
            network: the network of the simulation.
            lost: called with the data before and after a loss, and the reason.
            note: adds a line to the trace.
            start: starts a task that belongs to no process.
        """
        self._store = store
        self._network = network
        self._lost = lost
        self._note = note
        self._start = start
        self._replica: Holdings | None = None
        self._behind = 0  # the node of which it is the replica
        self._over = anyio.Event()

    @property
    def noise(self) -> str:
        """What is happening, or about to happen, to the server; "" if nothing is."""
        if self._replica is not None:
            return "a replica is about to take over"
        if self._network.away or self._network.away_nodes:
            return self._network.away or min(self._network.away_nodes.values())
        if self._network.server_silent:
            return "the server stands still"
        unheard = self._network.unheard()
        return f"nothing is heard by {', '.join(unheard)}" if unheard else ""

    def lags(self, node: int) -> bool:
        """Return whether the replica of a node is cut off."""
        return self._replica is not None and node == self._behind

    @property
    def _busy(self) -> bool:
        return self._replica is not None or bool(self._network.away) or self._network.server_silent

    def strike(self, befalls: Mapping[Kind, float], node: int) -> None:
        """Apply faults of the server; `node` is the one to which the operation goes."""
        if "slot_loss" in befalls:
            self._lose_some_slot(befalls["slot_loss"])
        if "failover" in befalls:
            self.fall_behind(befalls["failover"], node)
        if "lost_cut" in befalls:
            self.fall_behind(befalls["lost_cut"], node)
        if "silent_server" in befalls:
            self.fall_silent(befalls["silent_server"])
        if "outage" in befalls:
            self.go_away(befalls["outage"])

    # -- failing over ------------------------------------------------------------------------------------------------------------------

    def fall_behind(self, seconds: float, node: int = 0, *, away: float | None = None, slow: float = 0.0) -> None:
        """Cut a replica off, and let it take over this many seconds later. No effect while something else happens to the server.

        Args:
            seconds: of writes that the replica does not get.
            node: of a cluster.
            away: seconds between the end of the node of a cluster and its successor; None: as many as are forgotten.
            slow: seconds by which the successor's clock is behind when it gives out entry ids.
        """
        if not self._busy:
            self._replica, self._behind = self._store.copied(), node
            self._over = anyio.Event()
            if self._store.count == 1:
                self._note(SERVER, "replication", "stands still")
                self._start(self._take_over, seconds)
            else:
                self._note(SERVER, "replication", f"of node {node} stands still")
                self._start(partial(self._take_over_node, node, seconds if away is None else away, slow), seconds)

    async def wait_over(self) -> None:
        """Return once no replica is about to take over, and the server is there."""
        if self._replica is not None or self._network.away:
            await self._over.wait()

    async def call_off(self) -> None:
        """Let no replica take over any more, because the simulation ends. Return once the server is there and everybody hears it."""
        self._replica = None
        while self.noise:  # noqa: ASYNC110 -- a network notifies nobody
            await anyio.sleep(LOOK)
        self._over.set()

    async def _take_over(self, after: float) -> None:
        await anyio.sleep(after)
        replica, self._replica = self._replica, None
        if replica is None:
            return
        before = self._store.seen()
        self._network.break_all("the server failed over")
        self._store.fail_over(replica)
        self._pause()
        self._note(SERVER, "failover", f"the last {after:.3f} s are forgotten")
        self._lost(before, self._store, f"a failover forgot {after:.3f} s")
        self._over.set()

    async def _take_over_node(self, node: int, away: float, slow: float, after: float) -> None:
        await anyio.sleep(after)
        reason = f"node {node} is away"
        self._network.break_node(node, reason)
        self._network.away_nodes[node] = reason
        self._note(SERVER, f"node {node}", "is gone")
        await anyio.sleep(away)
        del self._network.away_nodes[node]
        replica, self._replica = self._replica, None
        if replica is not None:
            before = self._store.seen()
            self._store.behind[node] = slow
            self._store.fail_over_node(node, replica)
            self._pause()
            self._note(SERVER, f"failover of node {node}", f"the last {after:.3f} s are forgotten")
            self._lost(before, self._store, f"a failover of node {node} forgot {after:.3f} s")
        self._over.set()

    # -- being silent, or away ---------------------------------------------------------------------------------------------------------

    def fall_silent(self, seconds: float) -> None:
        """Pause the server for this many seconds. No effect while something else happens to it."""
        if not self._busy:
            self._network.silence(None, seconds)

    def go_away(self, seconds: float) -> None:
        """Stop the server, and start it again this many seconds later with all its data. No effect while something else happens to it."""
        if self._busy:
            return
        self._note(SERVER, "outage", f"it is away for {seconds:.3f} s")
        self._network.break_all("the server went away")
        self._network.cut_bells(None, "the server went away")
        self._network.away = "the server is away"
        self._over = anyio.Event()
        self._store.restart()
        self._start(self._come_back, seconds)

    async def _come_back(self, after: float) -> None:
        await anyio.sleep(after)
        self._network.away = ""
        self._note(SERVER, "process", "is back")
        self._over.set()

    # -- losing a slot -----------------------------------------------------------------------------------------------------------------

    def _lose_some_slot(self, share: float) -> None:
        slots: list[tuple[str, int | None]] = []
        for topic, state in sorted(self._store.topics.items()):
            slots += [(topic, None), *((topic, partition) for partition in range(state.partitions))]
        if slots:
            self.lose_slot(*slots[int(share * len(slots))])

    def lose_slot(self, topic: str, partition: int | None) -> None:
        """Delete a partition's data or, without a partition, the data that coordinates the topic. A replica loses the same."""
        if partition is not None:
            check_count("partition", partition, least=0)
        if topic not in self._store.topic_names:
            raise SettingsError(f"there is no topic {topic!r} of which a slot could be lost")
        state = self._store.topics.get(topic)  # None: the slot with the count was lost before
        if partition is not None and state is not None and partition >= state.partitions:
            raise SettingsError(f"there is no partition {partition} of which the slot could be lost: topic {topic} has {state.partitions}")
        before = self._store.seen()
        for held in (self._store, self._replica) if self._replica is not None else (self._store,):
            if partition is None:
                held.forget_coordination(topic)
            else:
                held.forget_partition(topic, partition)
        self._pause()
        what = f"the coordination of {topic}" if partition is None else f"{topic}/{partition}"
        self._note(SERVER, "slot loss", f"{what} is gone")
        self._lost(before, self._store, f"the slot of {what} was lost")

    def _pause(self) -> None:
        self._network.hold(anyio.current_time() + MOMENT)
