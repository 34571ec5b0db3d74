"""Which combinations of event loop and server an ordinary run tries.

In: collected tests. Out: those that run. Always holds: a test that is parametrized by both runs at least once on every event loop and at
least once on every server, with each value of its other parameters. A checksum of the test's name decides which loop meets which server, so
that every pair meets in some tests. `REDISAQ_MATRIX=all` runs every combination. A combination that is named on the command line, as in
`pytest "tests/conformance/test_leases.py::test_the_first_install[trio-redis8]"`, runs in any case.
"""

from __future__ import annotations

import os
import zlib
from collections import defaultdict

import pytest

LOOPS = ("anyio_backend", "backend")
"""Parameters that are an event loop: of the test itself, or of processes that it starts."""

SERVERS = ("bench", "breakable_server", "own_server", "place", "server", "url", "world")
"""Fixtures that are a server, or lead to one."""

KINDS = ("memory", "valkey", "valkey9", "redis8", "redis7")


def meet(loop: int, loops: int, server: int, servers: int, turn: int) -> bool:
    """Return whether these two, of so many each, run together: walk through the longer row, and begin the shorter one again."""
    return any((n % loops, (n + turn) % servers) == (loop, server) for n in range(max(loops, servers)))


def thin_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the combinations that an ordinary run does without."""
    choice = os.environ.get("REDISAQ_MATRIX", "")
    if choice not in ("", "all"):
        raise pytest.UsageError(f"REDISAQ_MATRIX is {choice!r}; it is 'all' or not set")
    if choice or any("[" in argument for argument in config.args):
        return
    groups: dict[str, list[tuple[pytest.Item, int, int]]] = defaultdict(list)
    for item in items:
        place = place_of(item)
        if place is not None:
            groups[place[0]].append((item, *place[1:]))
    left_out: set[pytest.Item] = set()
    for name, group in groups.items():
        loops, servers = 1 + max(loop for _, loop, _ in group), 1 + max(server for _, _, server in group)
        turn = zlib.crc32(name.encode())
        left_out.update(item for item, loop, server in group if not meet(loop, loops, server, servers, turn))
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def place_of(item: pytest.Item) -> tuple[str, int, int] | None:
    """Return the test with its other parameters, the loop's number and the server's; None if it has not both."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return None
    indices: dict[str, int] = dict(item.callspec.indices)
    servers = [name for name in SERVERS if item.callspec.params.get(name) in KINDS]
    loops = [name for name in LOOPS if name in indices]
    if not loops or not servers:
        return None
    loop, server = indices.pop(loops[0]), indices.pop(servers[0])
    return f"{item.nodeid.partition('[')[0]} {sorted(indices.items())}", loop, server
