"""What the memory broker puts aside, where only it can show something: a clock that stands still."""

from __future__ import annotations

from redisaq.brokers.memory.shelf import Shelf
from redisaq.core.records import Body, encode_dead

NOW = 1_700_000_000_000_000


def test_redriving_keeps_its_order_though_the_clock_stands_still() -> None:
    shelf = Shelf()
    for number in range(25):
        shelf.dead.append(encode_dead(Body(b"5-%d" % number, (b"i", b"x"), 0, 1)), NOW // 1000)
    while page := shelf.dead_page(b"", 4):
        assert shelf.redrive([(one.dead_id, one.body) for one in page], NOW) == len(page)
    found, next_due = shelf.due(NOW + 25, 100)
    assert [entry_id for entry_id, _ in found] == [b"5-%d" % number for number in range(25)]
    assert next_due is None
    times = sorted(due for due, _ in shelf.retry.values())
    assert times == list(range(times[0], times[0] + 25))
    assert times[3] == NOW
