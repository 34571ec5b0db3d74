"""Random operations, carried out by two brokers at once: whatever one answers, the other must answer, too.

The memory broker is held against a real server. What differs by nature (ids, versions, times) is compared by its order; see model.py.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from redisaq.brokers.terms import GroupName
from tests.conformance.model import Side
from tests.conformance.worlds import MemoryWorld, RedisWorld
from tests.server_fixtures import ServerPool

EXAMPLES = int(os.environ.get("REDISAQ_MODEL_EXAMPLES", "15"))
"""Sequences per server and event loop; some thousands take minutes (then give pytest `-o faulthandler_timeout=0`)."""

Operation = tuple[str, int, Mapping[str, Any]]

topics = st.sampled_from(["orders", "a name: with %s"])
groups = st.builds(GroupName, st.just("orders"), st.sampled_from(["billing", "shipping"]))
partitions = st.integers(0, 2)
incarnations = st.sampled_from("ABC")
tokens = st.integers(1, 4)
places = st.integers(0, 6)
maybe_places = st.none() | places
ages = st.none() | st.sampled_from([0, 0, 0, 0, 0, 1, 2])
fields = st.lists(st.binary(max_size=5), min_size=1, max_size=3).map(lambda values: [part for value in values for part in (b"f", value)])
changes = st.fixed_dictionaries(
    {},
    optional={
        "joins": st.just(True),
        "leaves": st.just(True),
        "freeze": st.just(True),
        "expired": st.lists(incarnations, max_size=2, unique=True).map(tuple),
    },
)
SHAPES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "topic": {"topic": topics},
    "make_topic": {"topic": topics, "partitions": st.integers(1, 3)},
    "grow_topic": {"topic": topics, "partitions": st.integers(1, 3)},
    "append": {
        "topic": topics,
        "partitions": st.lists(partitions, max_size=4),
        "fields": fields,
        "maxlen": st.none() | st.integers(1, 4),
    },
    "make_groups": {"group": groups, "partitions": st.lists(partitions, unique=True), "latest": st.booleans()},
    "remake_group": {"group": groups, "partition": partitions, "last": maybe_places, "start": maybe_places},
    "heartbeat": {"group": groups, "incarnation": incarnations, "ttl": st.integers(1, 3), "known": ages},
    "commit": {
        "group": groups,
        "incarnation": incarnations,
        "ttl": st.integers(1, 3),
        "known": ages,
        "epoch": st.integers(0, 9),
        "changes": changes,
    },
    "install": {"group": groups, "partition": partitions, "token": tokens, "incarnation": incarnations, "foreign": st.booleans()},
    "release": {"group": groups, "partition": partitions, "token": tokens},
    "fence": {"group": groups, "partition": partitions, "token": tokens, "readers": st.lists(st.integers(0, 5), max_size=3)},
    "open_reader": {"group": groups, "partition": partitions, "token": tokens, "incarnation": incarnations},
    "read": {"reader": st.integers(0, 5), "count": st.integers(1, 4)},
    "close_reader": {"reader": st.integers(0, 5)},
    "claim": {"group": groups, "partition": partitions, "token": tokens, "after": maybe_places, "count": st.integers(1, 4)},
    "set_deliveries": {
        "group": groups,
        "partition": partitions,
        "token": tokens,
        "counts": st.dictionaries(places, st.integers(1, 9), max_size=3),
    },
    "settle": {"group": groups, "acks": st.lists(st.tuples(partitions, tokens, st.lists(places, max_size=4)), max_size=3)},
    "remaining": {"group": groups, "partitions": st.lists(partitions, max_size=3)},
    "expire": {"group": groups, "incarnation": incarnations},
    "change_server": {"group": groups},
    "lose": {
        "what": st.sampled_from(["group", "topic", "partition", "cursor", "everything"]),
        "group": groups,
        "partition": partitions,
    },
    "delete": {"topic": topics, "partition": partitions, "places": st.lists(places, max_size=2), "maxlen": st.integers(0, 5)},
}
# What makes the rest meaningful comes more often: most random steps would be refused in an empty world.
OFTEN = {"append": 4, "read": 4, "open_reader": 3, "install": 3, "claim": 3, "settle": 2, "commit": 5, "heartbeat": 4, "make_groups": 2}
operations = st.sampled_from([name for name in SHAPES for _ in range(OFTEN.get(name, 1))]).flatmap(
    lambda name: st.tuples(st.just(name), st.integers(0, 1), st.fixed_dictionaries(SHAPES[name]))
)
BEGINNING: list[Operation] = [
    ("make_topic", 0, {"topic": "orders", "partitions": 3}),
    ("make_groups", 0, {"group": GroupName("orders", "billing"), "partitions": [0, 1, 2], "latest": False}),
    ("install", 1, {"group": GroupName("orders", "billing"), "partition": 0, "token": 1, "incarnation": "A", "foreign": False}),
]


async def compare(one: Side, other: Side, steps: list[Operation]) -> None:
    """Carry out the steps on both sides; both must answer the same."""
    try:
        for name, broker, arguments in steps:
            expected = await one.do(name, broker, arguments)
            answer = await other.do(name, broker, arguments)
            assert answer == expected, (name, arguments)
    finally:
        await one.close()
        await other.close()


@given(steps=st.lists(operations, min_size=20, max_size=60))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@pytest.mark.parametrize("kind", ["valkey9", "redis8", "redis7"])
def test_memory_answers_as_a_server_does(
    anyio_backend: tuple[str, dict[str, Any]], server_pool: ServerPool, kind: str, steps: list[Operation]
) -> None:
    namespace = f"m{uuid.uuid4().hex[:12]}"
    world = RedisWorld(server_pool.shared(kind), namespace)

    async def run() -> None:
        await compare(Side(world), Side(MemoryWorld(namespace)), [*BEGINNING, *steps])

    try:
        anyio.run(run, backend=anyio_backend[0], backend_options=anyio_backend[1])
    finally:
        world.flush()
