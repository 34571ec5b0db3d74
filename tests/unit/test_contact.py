"""Steps that a consumer repeats forever: after which errors, with which rests, and what it reports of them."""

from __future__ import annotations

import logging
from itertools import pairwise

import anyio
import pytest

from redisaq import events
from redisaq.consuming.bulletin import Bulletin
from redisaq.consuming.contact import Contact, Trouble, insist
from redisaq.consuming.lease import Lease
from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed, ServerError, ServerFull
from redisaq.testing import virtual_run
from tests.link_chance import Longest
from tests.unit.owning import owned_partition


def test_what_passes_is_tried_again_after_longer_and_longer_rests() -> None:
    async def main() -> None:
        came, reasons = list[float](), list[str]()

        async def step() -> str:
            came.append(anyio.current_time())
            if len(came) == 9:
                return "done"
            raise ServerFull("OOM full") if len(came) == 2 else ConnectionFailed("redis://x", "away")

        assert await insist(step, Environment(random=Longest()), reasons.append) == "done"
        rests = [after - before for before, after in pairwise(came)]
        assert rests == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])
        assert reasons == ["away", "OOM full", *["away"] * 6]

    virtual_run(main, backend="asyncio")


def test_any_other_error_ends_it() -> None:
    async def main() -> None:
        async def step() -> None:
            raise ServerError("NOPERM no")

        with pytest.raises(ServerError):
            await insist(step, Environment())

    virtual_run(main, backend="trio")


class Told:
    """A bulletin, and what it has reported at which time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[tuple[float, str, str]] = []
        self.bulletin = Bulletin("jobs", "group", self.note, logging.getLogger("tests.contact"))

    def clock(self) -> float:
        return self.now

    def note(self, event: events.Event) -> None:
        self.events.append((self.now, type(event).__name__, getattr(event, "reason", "")))


def test_what_lasts_is_reported_each_minute_and_its_end_once() -> None:
    told = Told()
    contact = Contact(told.bulletin, told.clock)
    for told.now, what in (
        (0.0, "heartbeat"),
        (1.0, "group"),
        (59.0, "group"),
        (60.0, "heartbeat"),
        (119.0, "group"),
        (120.0, "heartbeat"),
    ):
        contact.failed(what, f"{what} {told.now:g}")
        assert not contact.connected
    for told.now, what in ((121.0, "heartbeat"), (122.0, "heartbeat"), (123.0, "group"), (124.0, "group")):
        contact.answered(what)
    assert contact.connected
    told.now = 125.0
    contact.failed("group", "again")
    assert told.events == [
        (0.0, "Disconnected", "heartbeat 0"),
        (60.0, "Disconnected", "heartbeat 60"),
        (120.0, "Disconnected", "heartbeat 120"),
        (123.0, "Reconnected", ""),
        (125.0, "Disconnected", "again"),
    ]


def test_a_partition_that_cannot_be_read_for_a_ttl_is_reported_and_then_each_minute() -> None:
    told, stuck = Told(), list[int]()
    lease = Lease("me", 12.0, Environment(clock=told.clock))
    lease.deadline = 1000.0
    owned = owned_partition(partition=3, lease=lease)
    trouble = Trouble(told.bulletin, told.clock, owned, stuck.append)
    for told.now in (0.0, 11.5, 12.0, 71.5, 72.0):
        trouble.failed(f"at {told.now:g}")
    trouble.over()
    for told.now in (130.0, 141.5, 142.0):
        trouble.failed(f"at {told.now:g}")
    owned.begin_drain()
    told.now = 300.0
    trouble.failed("it is given back")
    assert told.events == [(when, "PartitionStuck", f"at {when:g}") for when in (12.0, 72.0, 142.0)]
    assert stuck == [3, 3, 3]


def test_an_answer_that_is_overdue_is_reported_with_how_long_it_has_been() -> None:
    async def main() -> None:
        notes = list[tuple[float, events.Event]]()
        bulletin = Bulletin("jobs", "group", lambda event: notes.append((anyio.current_time(), event)), logging.getLogger("tests.contact"))
        contact = Contact(bulletin, anyio.current_time)

        async def step() -> str:
            await anyio.sleep(130.0)
            return "answer"

        began = anyio.current_time()
        assert await contact.ask(step, within=5.0) == "answer"
        assert [(round(when - began, 6), getattr(event, "reason", type(event).__name__)) for when, event in notes] == [
            (5.0, "the server has not answered for 5 s"),
            (65.0, "the server has not answered for 65 s"),
            (125.0, "the server has not answered for 125 s"),
            (130.0, "Reconnected"),
        ]
        notes.clear()
        await anyio.sleep(300.0)
        assert notes == [], "nothing is overdue any more"

    virtual_run(main, backend="trio")
