"""Which combinations of event loop and server an ordinary run tries.

Input: the combinations of a test's parameters. Output: those that run. Invariant: a test that is parametrized by both runs at least once on
every event loop and at least once on every server, with each value of its other parameters. A checksum of the test's name decides which
loop meets which server, so that every pair meets in some tests. A test that is marked `backends_take_turns` runs on one event loop with
each value of its other parameters, and the next value takes the next loop. `REDISAQ_MATRIX=all` runs every combination. A combination that
is named on the command line, as in `pytest "tests/conformance/test_leases.py::test_the_first_install[trio-redis8]"`, runs in any case.
"""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import pytest

LOOPS = ("anyio_backend", "backend")
"""Parameters that are an event loop: of the test itself, or of processes that it starts."""

SERVERS = ("bench", "breakable_server", "kind", "own_server", "place", "server", "url", "world")
"""Fixtures that are a server, or lead to one."""

KINDS = ("memory", "valkey", "valkey9", "redis8", "redis7", "sentinel", "cluster", "cluster8")

Values: TypeAlias = tuple[tuple[str, int], ...]
"""Names of parameters, and which object each has: the combinations of one test share them."""

TURNS = "backends_take_turns"

Pair: TypeAlias = tuple[object, str, str]
"""A combination of parameters, its event loop and its server."""


def meet(loop: int, loops: int, server: int, servers: int, turn: int) -> bool:
    """Return whether these two, of so many each, run together: walk through the longer row, and begin the shorter one again."""
    return any((n % loops, (n + turn) % servers) == (loop, server) for n in range(max(loops, servers)))


def everything() -> bool:
    """Return whether every combination was asked for. Raises UsageError for a setting that means nothing."""
    choice = os.environ.get("REDISAQ_MATRIX", "")
    if choice not in ("", "all"):
        raise pytest.UsageError(f"REDISAQ_MATRIX is {choice!r}; it is 'all' or not set")
    return choice == "all"


def thin_out(metafunc: pytest.Metafunc) -> None:
    """Drop the combinations of a test that an ordinary run does without, before pytest makes an item of each: two of five.

    pytest has no public way to drop one of what its fixtures and marks have combined.
    """
    if everything() or any("[" in argument for argument in metafunc.config.args):
        return
    calls: list[Any] = vars(metafunc)["_calls"]
    taking_turns = metafunc.definition.get_closest_marker(TURNS) is not None
    rows: dict[Values, list[Pair]] = defaultdict(list)
    for call in calls:
        place = place_of(call.params, taking_turns=taking_turns)
        if place is not None:
            values, loop, server = place
            rows[values].append((call, loop, server))
    left_out: set[int] = set()
    for number, pairs in enumerate(rows.values()):
        left_out.update(map(id, spare(metafunc.definition.nodeid, number, pairs, taking_turns=taking_turns)))
    calls[:] = [call for call in calls if id(call) not in left_out]


def spare(function: str, number: int, pairs: list[Pair], *, taking_turns: bool) -> Iterator[object]:
    """Yield the combinations that an ordinary run does without, of those with one row of values of the other parameters."""
    loops, servers = (list(dict.fromkeys(column)) for column in zip(*((loop, server) for _, loop, server in pairs), strict=True))
    its_turn = loops[(zlib.crc32(function.encode()) + number) % len(loops)]
    turn = zlib.crc32(f"{function} {number}".encode())
    for call, loop, server in pairs:
        met = meet(loops.index(loop), len(loops), servers.index(server), len(servers), turn)
        if not (loop == its_turn if taking_turns else met):
            yield call


def place_of(params: Mapping[str, object], *, taking_turns: bool) -> tuple[Values, str, str] | None:
    """Return a test's other parameters, its loop and its server; None if it has not both and takes no turns."""
    others = dict(params)
    servers = [name for name in SERVERS if others.get(name) in KINDS]
    loops = [name for name in LOOPS if name in others]
    if not loops or not (servers or taking_turns):
        return None
    loop, server = repr(others.pop(loops[0])), repr(others.pop(servers[0])) if servers else ""
    return tuple((name, id(value)) for name, value in others.items()), loop, server
