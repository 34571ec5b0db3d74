"""Moves delayed messages to where their keys belong, after a topic has grown (G8).

The owner of a partition does it before it moves anything that is due into the stream. What belongs elsewhere is adopted there under a mark,
and then removed here. So a sweep that is cut short can be repeated, by the same owner or another. What is placed here after the growth was
placed right, so the set of misplaced messages only shrinks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from redisaq.brokers.growth import move, settle_growth
from redisaq.brokers.steps.growing import Adopt, DropAdopted, SetSwept
from redisaq.brokers.steps.messages import ListDelayed, Scheduled
from redisaq.consuming.contact import insist
from redisaq.consuming.context import Surroundings
from redisaq.core.partitioner import partition_for
from redisaq.core.records import UNREADABLE, decode_delayed

PAGE = 200
"""How many delayed messages one step returns, with their payloads."""


async def sweep(around: Surroundings, partition: int) -> None:
    """Move what belongs elsewhere, and note that this is done, as far as the topic's state allows it."""
    broker, topic = around.broker, around.group.topic
    state = await insist(partial(settle_growth, broker, topic), around.environment)  # G3: the stream is cut, and that may be all
    if state is None:  # lost: it is made again, and then this is asked for again
        return
    run = await insist(partial(broker.do, Adopt(topic, partition, partition, (), state.cuts)), around.environment)  # nothing, here
    if run is None:
        return
    servers = broker.run_id
    last: Scheduled | None = None
    while True:
        page = await insist(partial(broker.do, ListDelayed(topic, partition, last, PAGE)), around.environment)
        misplaced: dict[int, list[tuple[bytes, bytes, bytes]]] = {}
        for row in page.rows:
            place = _place_of(row.body, state.partitions)
            if row.body is not None and place is not None and place != partition:
                misplaced.setdefault(place, []).append((row.id, row.score, row.body))
        for place, rows in sorted(misplaced.items()):
            put, drop = Adopt(topic, place, partition, rows, state.cuts), partial(DropAdopted, topic, partition, [row[0] for row in rows])

            async def moved(put: Adopt = put, drop: Callable[[str], DropAdopted] = drop) -> int | None:
                # Another server may have forgotten the growth, and its owner may have moved these rows into the stream since.
                return await move(broker, put, drop) if broker.run_id == servers else None

            if await insist(moved, around.environment) is None:
                return  # it has grown once more meanwhile, or another server answers: this is asked for again
        if not page.rows:
            break
        last = page.rows[-1]
    # Refused by another run of the server, which may have forgotten what was dropped: then this is asked for again.
    await insist(partial(broker.do, SetSwept(topic, partition, state.cuts, run)), around.environment)


def _place_of(body: bytes | None, partitions: int) -> int | None:
    """Return where a delayed message's key belongs; None if it has none, or if it cannot be read: then it belongs where it is."""
    try:
        words = decode_delayed(body or b"")
    except UNREADABLE:
        return None
    key = dict(zip(words[::2], words[1::2], strict=False)).get(b"k")
    return None if key is None else partition_for(key, partitions)
