"""The simulated server as a cluster: its slots are spread over nodes, each with a run of its own, and each fails over by itself.

All data stay in one store; a node is what happens to some of it at once. Node 0 has what coordinates topics and groups, and the partitions
are dealt out to the others in turn. So with one node more than a topic has partitions, each slot is alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisaq.brokers.memory.clients import Channel, ReadingClient
from redisaq.brokers.memory.holdings import Holdings, Place
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.terms import GroupName, ReaderMark

Slot = tuple[str, int | None] | None
"""A topic and a partition, a topic and None for what coordinates it, or None for the list of topics."""


class Nodes(MemoryStore):
    """A store of one node, until `spread` makes it a cluster.

    Attributes:
        runs: the run of each node.
        behind: node -> seconds by which its clock is slow when it gives out entry ids.
    """

    def __post_init__(self) -> None:
        """Start as one node."""
        super().__post_init__()
        self.runs = [self.run_id]
        self.behind: dict[int, float] = {}
        self._moving: dict[Place, int] = {}  # a partition whose slot is on its way -> how many entries it refuses; -1: all

    @property
    def count(self) -> int:
        """How many nodes there are."""
        return len(self.runs)

    def spread(self, nodes: int) -> None:
        """Make it a cluster of this many nodes."""
        self.runs = [self.run_id, *(self.environment.new_id() for _ in range(nodes - 1))]

    def node_of(self, slot: Slot) -> int:
        """Return which node has a slot."""
        if len(self.runs) == 1 or slot is None or slot[1] is None:
            return 0
        return 1 + slot[1] % (len(self.runs) - 1)

    def node_of_channel(self, channel: Channel) -> int:
        """Return which node publishes on a channel."""
        return self.node_of(channel if isinstance(channel, tuple) else ("", None))

    # -- what depends on the node ------------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """Come back with all data, each node under another run."""
        super().restart()
        self.spread(len(self.runs))

    def open_client(self, group: GroupName, partition: int, token: int, incarnation: str) -> ReadingClient:
        """Register a reading connection to the partition's node (T3)."""
        client = super().open_client(group, partition, token, incarnation)
        if len(self.runs) > 1:
            lease, run = self.lease(group, partition), self.runs[self.node_of((group.topic, partition))]
            lease.readers[-1] = client.mark = ReaderMark(client.mark.client_id, client.mark.address, run)
        return client

    def kill(self, marks: Sequence[ReaderMark]) -> bool:
        """Kill those of these connections whose run is a node's present one (C4)."""
        return self._kill([mark for mark in marks if mark.run_id in self.runs])

    def run_of(self, place: Place) -> str:
        """Return the run of the partition's node."""
        return self.runs[self.node_of(place)]

    def now_at(self, place: Place) -> int:
        """Return the time of the partition's node."""
        return self.now() - round(self.behind.get(self.node_of(place), 0.0) * 1_000_000)

    # -- what happens to nodes ---------------------------------------------------------------------------------------------------------

    def fail_over_node(self, node: int, replica: Holdings) -> None:
        """Let a replica take the place of one node: of its slots, what the replica does not have is lost."""
        self.runs[node] = self.environment.new_id()
        if node == 0:
            self.run_id = self.runs[0]
        for client in list(self._clients.values()):
            if self.node_of((client.group.topic, client.partition)) == node:
                self.disconnect(client, "the node failed over")
        self.hold_part(replica, lambda topic, partition: self.node_of((topic, partition)) == node)
        for subscription in self._subscriptions:
            if any(self.node_of_channel(channel) == node for channel in subscription.channels):
                subscription.ring()

    def move_slot(self, place: Place, refusals: int) -> None:
        """Let a partition's slot be on its way: it refuses as many entries as this, all if it is -1, none any more if it is 0 (C1)."""
        self._moving[place] = refusals

    def refuses(self, slot: Slot) -> bool:
        """Return whether the node refuses what is asked of a slot, since it is on its way."""
        return slot is not None and slot[1] is not None and self._moving.get((slot[0], slot[1]), 0) < 0

    def refuses_entry(self, place: Place) -> bool:
        """Return whether the node refuses the next entry for a slot that is on its way."""
        left = self._moving.get(place, 0)
        if left > 0:
            self._moving[place] = left - 1
        return left != 0
