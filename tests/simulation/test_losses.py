"""What a loss of data excuses: one owner, in one partition, for as long as a lease lasts; and what became of each message."""

from __future__ import annotations

from typing import Any

import pytest

from redisaq.brokers.memory.holdings import Holdings, Lease
from redisaq.brokers.memory.members import Coordination, GroupState
from redisaq.brokers.memory.store import MemoryStore
from redisaq.brokers.memory.streams import GroupCursor
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import Document, encode_document
from redisaq.environment import current_environment
from redisaq.events import LeaseLost, PartitionAcquired
from redisaq.message import Message
from redisaq.testing.guarantees import Guarantees
from redisaq.testing.record import Record
from tests.simulation.judges.court import Court
from tests.simulation.judges.losses import Losses
from tests.simulation.judges.rest import fates
from tests.simulation.process import Told

GROUP = GroupName("orders", "billing")
TTL = 10.0


class World:
    """A court's losses, and a clock moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.courts: list[Court] = []
        self.record = Record(lambda: self.now, [Guarantees, self._court])
        self.losses: Losses = self.courts[0].losses
        self.losses.groups[GROUP] = None
        self.losses.ttl = TTL

    def _court(self, record: Record) -> Court:
        self.courts.append(Court(record))
        return self.courts[-1]


def held(*, lease: dict[int, str], token: dict[int, int], frozen_until: int = 0, leases: bool = True, document: bool = True) -> Holdings:
    """Return a group's data on a server: its document, and the keys beside the partitions."""
    state = GroupState("v", encode_document(Document(lease=lease, token=token)), "run", 0, frozen_until, 0)
    holdings = Holdings(coordination={GROUP: Coordination(state=state)} if document else {})
    if leases:
        holdings.leases = {(GROUP, partition): Lease(token[partition], holder) for partition, holder in lease.items()}
    return holdings


BEFORE = held(lease={0: "b", 1: "a"}, token={0: 7, 1: 5})
AFTER = held(lease={0: "a", 1: "a"}, token={0: 4, 1: 5})
"""It is forgotten that 0 went from "a" to "b"."""


def test_the_owner_whose_acquisition_is_forgotten_may_have_another_beside_it_for_a_ttl() -> None:
    world = World()
    world.losses.lost(BEFORE, AFTER, "a failover")
    assert world.losses.excuse((GROUP, 0), (4, 7)) == "a failover, the acquisition under 7 included"
    world.now += TTL
    assert world.losses.excuse((GROUP, 0), (4, 7))
    world.now += 0.001
    assert world.losses.excuse((GROUP, 0), (4, 7)) == ""


def test_nobody_else_may() -> None:
    world = World()
    world.losses.lost(BEFORE, AFTER, "a failover")
    assert world.losses.excuse((GROUP, 0), (4, 8)) == "", "two others"
    assert world.losses.excuse((GROUP, 1), (5, 7)) == "", "in another partition"
    assert world.losses.excuse((GroupName("orders", "audit"), 0), (4, 7)) == "", "in another group"


def test_an_owner_that_has_ended_excuses_nothing() -> None:
    world = World()
    world.losses.lost(BEFORE, AFTER, "a failover")
    world.losses.given_up((GROUP, 0), 7, since=50.0)
    assert world.losses.excuse((GROUP, 0), (4, 7)) == ""


def test_a_document_that_is_lost_excuses_nothing_by_itself() -> None:
    world = World()
    after = held(lease={0: "b", 1: "a"}, token={0: 7, 1: 5}, document=False)
    world.losses.lost(BEFORE, after, "a slot")
    again = held(lease={0: "c"}, token={0: 9})
    world.losses.look(again)
    assert world.losses.excuse((GROUP, 0), (7, 9)) == "", "what stands beside the data names a foreign holder (M8)"


def test_a_document_that_is_lost_with_what_stood_beside_the_data() -> None:
    for frozen_until, excused in ((0, True), (1, False)):
        world = World()
        world.losses.lost(BEFORE, held(lease={}, token={}, document=False, leases=False), "all")
        world.losses.look(held(lease={0: "c"}, token={0: 9}, frozen_until=frozen_until))
        found = world.losses.excuse((GROUP, 0), (7, 9))
        assert bool(found) is excused, "who knew the group makes it frozen (M8): then there is no excuse"
        if excused:
            assert found == "all, and a member that had never seen the group made it again"


@pytest.mark.parametrize(
    ("gone", "settled", "allowed"),
    [(True, False, True), (False, False, False), (True, True, False)],
    ids=["lost with its slot", "still there", "settled all the same"],
)
def test_what_is_done_under_a_token_runs_again_under_it_only_if_the_token_was_lost_before_it_was_settled(
    gone: bool, settled: bool, allowed: bool
) -> None:
    """The document keeps the token where only the partition's slot is lost: its owner takes the partition again under the same one."""
    world, owner = World(), Told("a")
    record, held_now = world.record, held(lease={1: "a"}, token={1: 5})
    message: Message[Any] = Message("orders", {}, msg_id="1", partition=1, attempt=1, token=5, entry=b"7-0")
    world.losses.tokens[GROUP, 1] = 5
    record.event(owner, GROUP, PartitionAcquired(topic="orders", group="billing", member="a", partition=1, token=5))
    record.end(record.begin(owner, GROUP, message, message), "returned", None)
    world.now += 1.0
    after = held_now.copied()
    if gone:
        after.leases.clear()
    world.losses.lost(held_now, after, "a slot")
    world.losses.tokens[GROUP, 1] = 5
    if settled:
        world.courts[0].census.ended[GROUP, 1] = {(7, 0): "done"}
    lost = LeaseLost(topic="orders", group="billing", member="a", partition=1, token=5, reason="refused", unsettled=1)
    record.event(owner, GROUP, lost)
    world.now += 1.0
    record.event(owner, GROUP, PartitionAcquired(topic="orders", group="billing", member="a", partition=1, token=5))
    record.begin(owner, GROUP, message, message)
    assert [text for text in record.violations if "done under the same token" in text] == record.violations
    assert bool(record.violations) is not allowed


@pytest.mark.parametrize("settled", [False, True])
def test_a_repeated_run_that_is_broken_off_leaves_something_to_do_only_if_the_server_still_has_it(settled: bool) -> None:
    """A failover forgot the delivery, so the owner got the entry twice; what the first run settled then counted already, or did not."""
    world, owner, place = World(), Told("a"), (GROUP, 1)
    record, court = world.record, world.courts[0]
    record.store = store = MemoryStore("memory://losses", current_environment())
    store.topic_names.add("orders")
    stream = store.make_stream("orders", 1)
    entry = stream.append((b"i", b"one"), 7)
    stream.groups["billing"] = GroupCursor(entry, {} if settled else {entry: 1})
    record.whereabouts.look(store)
    message: Message[Any] = Message("orders", {}, msg_id="one", partition=1, attempt=1, token=5, entry=b"7-0")
    record.event(owner, GROUP, PartitionAcquired(topic="orders", group="billing", member="a", partition=1, token=5))
    record.end(record.begin(owner, GROUP, message, message), "returned", None)
    court.census.ended[place] = {entry: "done"}
    court.histories.set_back(place, entry)
    record.end(record.begin(owner, GROUP, message, message), "cancelled", None)
    missing = fates(store, [GROUP], record, court.census, forgot=True)
    assert missing == ([] if settled else ["message one, 7-0 of orders/1, is neither done nor dead for billing"])
    assert record.violations == []
