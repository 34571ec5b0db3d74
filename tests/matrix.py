"""Which combinations of event loop and server an ordinary run tries.

In: collected tests. Out: those that run. Always holds: a test that is parametrized by both runs at least once on every event loop and at
least once on every server, with each value of its other parameters. A checksum of the test's name decides which loop meets which server, so
that every pair meets in some tests. A test that is marked `backends_take_turns` runs on one event loop with each value of its other
parameters, and the next value takes the next loop. `REDISAQ_MATRIX=all` runs every combination. A combination that is named on the command
line, as in `pytest "tests/conformance/test_leases.py::test_the_first_install[trio-redis8]"`, runs in any case.
"""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Iterator
from typing import TypeAlias

import pytest

LOOPS = ("anyio_backend", "backend")
"""Parameters that are an event loop: of the test itself, or of processes that it starts."""

SERVERS = ("bench", "breakable_server", "kind", "own_server", "place", "server", "url", "world")
"""Fixtures that are a server, or lead to one."""

KINDS = ("memory", "valkey", "valkey9", "redis8", "redis7", "sentinel", "cluster", "cluster8")

Values: TypeAlias = tuple[tuple[str, int], ...]
"""Names of parameters, and which object each has: the combinations of one test share them."""

TURNS = "backends_take_turns"

Pair: TypeAlias = tuple[pytest.Item, str, str]
"""An item, its event loop and its server."""


def meet(loop: int, loops: int, server: int, servers: int, turn: int) -> bool:
    """Return whether these two, of so many each, run together: walk through the longer row, and begin the shorter one again."""
    return any((n % loops, (n + turn) % servers) == (loop, server) for n in range(max(loops, servers)))


def everything() -> bool:
    """Return whether every combination was asked for."""
    return os.environ.get("REDISAQ_MATRIX") == "all"


def thin_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the combinations that an ordinary run does without."""
    choice = os.environ.get("REDISAQ_MATRIX", "")
    if choice not in ("", "all"):
        raise pytest.UsageError(f"REDISAQ_MATRIX is {choice!r}; it is 'all' or not set")
    if choice or any("[" in argument for argument in config.args):
        return
    functions: dict[str, dict[Values, list[Pair]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        place = place_of(item)
        if place is not None:
            values, pair = place
            functions[item.nodeid.partition("[")[0]][values].append(pair)
    left_out: set[pytest.Item] = set()
    for function, rows in functions.items():
        for number, pairs in enumerate(rows.values()):
            left_out.update(spare(function, number, pairs))
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def spare(function: str, number: int, pairs: list[Pair]) -> Iterator[pytest.Item]:
    """Yield the items that an ordinary run does without, of those with one row of values of the other parameters."""
    loops, servers = (list(dict.fromkeys(column)) for column in zip(*((loop, server) for _, loop, server in pairs), strict=True))
    taking_turns = pairs[0][0].get_closest_marker(TURNS) is not None
    its_turn = loops[(zlib.crc32(function.encode()) + number) % len(loops)]
    turn = zlib.crc32(f"{function} {number}".encode())
    for item, loop, server in pairs:
        met = meet(loops.index(loop), len(loops), servers.index(server), len(servers), turn)
        if not (loop == its_turn if taking_turns else met):
            yield item


def place_of(item: pytest.Item) -> tuple[Values, Pair] | None:
    """Return the test's other parameters, and the item with its loop and its server; None if it has not both and takes no turns."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return None
    params: dict[str, object] = dict(item.callspec.params)
    servers = [name for name in SERVERS if params.get(name) in KINDS]
    loops = [name for name in LOOPS if name in params]
    if not loops or not (servers or item.get_closest_marker(TURNS)):
        return None
    loop, server = repr(params.pop(loops[0])), repr(params.pop(servers[0])) if servers else ""
    return tuple((name, id(value)) for name, value in params.items()), (item, loop, server)
