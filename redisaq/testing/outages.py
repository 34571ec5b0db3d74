"""What happens to the simulated server: a replica that lagged takes its place, or the data of one slot is gone.

In: "failover" and "slot_loss", when they befall an operation or a scenario asks for them. Out: the store as it is then, and what was lost,
told to Losses. Always: the server does nothing for a moment after either, as none would; so no entry id is given twice.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import anyio

from redisaq.brokers.memory.holdings import Holdings
from redisaq.brokers.memory.store import MemoryStore
from redisaq.errors import SettingsError
from redisaq.settings import check_count
from redisaq.testing.faults import SERVER, Kind
from redisaq.testing.losses import Losses
from redisaq.testing.network import Network

MOMENT = 0.01
"""Seconds for which the server does nothing."""


class Outages:
    """See the module."""

    def __init__(
        self,
        store: MemoryStore,
        network: Network,
        losses: Losses,
        *,
        note: Callable[[str, str, str], None],
        start: Callable[[Callable[[float], Coroutine[Any, Any, None]], float], None],
    ) -> None:
        """Take whose server it is, who is told, and what starts a task of nobody."""
        self._store = store
        self._network = network
        self._losses = losses
        self._note = note
        self._start = start
        self._replica: Holdings | None = None
        self._over = anyio.Event()

    @property
    def lagging(self) -> bool:
        """True while a replica lags behind that is about to take over."""
        return self._replica is not None

    def strike(self, befalls: Mapping[Kind, float]) -> None:
        """Do what befalls the server."""
        if "slot_loss" in befalls:
            self._lose_some_slot(befalls["slot_loss"])
        if "failover" in befalls:
            self.fall_behind(befalls["failover"])

    # -- failing over ------------------------------------------------------------------------------------------------------------------

    def fall_behind(self, seconds: float) -> None:
        """Let a replica hear nothing more, and take over so much later; nothing, while another one does already."""
        if self._replica is None:
            self._replica = self._store.copied()
            self._over = anyio.Event()
            self._note(SERVER, "replication", "stands still")
            self._start(self._take_over, seconds)

    async def wait_over(self) -> None:
        """Return once no replica is about to take over."""
        if self._replica is not None:
            await self._over.wait()

    def call_off(self) -> None:
        """Let no replica take over any more: the simulation ends."""
        self._replica = None
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
        self._losses.lost(before, self._store, f"a failover forgot {after:.3f} s")
        self._over.set()

    # -- losing a slot -----------------------------------------------------------------------------------------------------------------

    def _lose_some_slot(self, share: float) -> None:
        slots: list[tuple[str, int | None]] = []
        for topic, state in sorted(self._store.topics.items()):
            slots += [(topic, None), *((topic, partition) for partition in range(state.partitions))]
        if slots:
            self.lose_slot(*slots[int(share * len(slots))])

    def lose_slot(self, topic: str, partition: int | None) -> None:
        """Let a partition's data be gone, or without a partition what coordinates the topic; a replica loses the same."""
        if partition is not None:
            check_count("partition", partition, least=0)
        if topic not in self._store.topic_names:
            raise SettingsError(f"there is no topic {topic!r} of which a slot could be lost")
        before = self._store.seen()
        for held in (self._store, self._replica) if self._replica is not None else (self._store,):
            if partition is None:
                held.forget_coordination(topic)
            else:
                held.forget_partition(topic, partition)
        self._pause()
        what = f"the coordination of {topic}" if partition is None else f"{topic}/{partition}"
        self._note(SERVER, "slot loss", f"{what} is gone")
        self._losses.lost(before, self._store, f"the slot of {what} was lost")

    def _pause(self) -> None:
        self._network.hold(anyio.current_time() + MOMENT)
