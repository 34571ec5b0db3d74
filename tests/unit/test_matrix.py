"""An ordinary run leaves out combinations of event loop and server, but no loop and no server."""

from __future__ import annotations

import functools
import itertools
import os
import re
import subprocess
import sys
from collections import defaultdict

import pytest

from tests.matrix import everything, meet
from tests.unit.source import ROOT

EXAMPLE = "tests/integration/test_every_seventh.py::test_on_a_server"
IN_TURNS = "tests/integration/test_silent_server.py::test_a_change_that_was_not_answered_says_so"


@functools.cache
def listed(*arguments: str, matrix: str = "") -> str:
    """Return the names of the items that would run, as pytest lists them."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "REDISAQ_MATRIX": matrix}
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=120).stdout


def collected(*arguments: str, matrix: str = "") -> list[tuple[str, str, str]]:
    """Return the event loop, the server and the other parameters of each item of the example that would run, if these are asked for."""
    return re.findall(r"::test_on_a_server\[(asyncio-eager|\w+)-(\w+)-(.*)\]", listed(*(arguments or (EXAMPLE, IN_TURNS)), matrix=matrix))


@pytest.mark.parametrize("loops", [1, 2, 3, 4])
@pytest.mark.parametrize("servers", [1, 2, 3, 4])
def test_each_loop_and_each_server_is_there_and_turns_bring_every_pair(loops: int, servers: int) -> None:
    pairs = list(itertools.product(range(loops), range(servers)))
    met: set[tuple[int, int]] = set()
    for turn in range(12):
        now = {(loop, server) for loop, server in pairs if meet(loop, loops, server, servers, turn)}
        assert len(now) == max(loops, servers)
        assert {loop for loop, _ in now} == set(range(loops))
        assert {server for _, server in now} == set(range(servers))
        met |= now
    assert met == set(pairs)


def test_a_setting_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDISAQ_MATRIX", "most")
    with pytest.raises(pytest.UsageError, match="REDISAQ_MATRIX is 'most'"):
        everything()


def test_with_each_value_of_its_other_parameters_a_test_meets_each_loop_and_each_server() -> None:
    whole, thinned = collected(matrix="all"), collected()
    rows: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for loop, server, others in thinned:
        rows[others].append((loop, server))
    loops, servers, values = (set(column) for column in zip(*whole, strict=True))
    assert len(whole) == len(loops) * len(servers) * len(values)
    assert set(rows) == values
    for pairs in rows.values():
        assert {loop for loop, _ in pairs} == loops
        assert {server for _, server in pairs} == servers
        assert len(pairs) == max(len(loops), len(servers))


def test_what_is_named_runs_in_any_case() -> None:
    named = [("trio", server, "1-parked") for server in ("valkey9", "redis8", "redis7")]
    assert collected(*(f"{EXAMPLE}[{loop}-{server}-{others}]" for loop, server, others in named)) == named


def test_loops_take_turns_where_a_test_is_marked_so() -> None:
    """Each value of the other parameters meets one loop, and the next value the next."""
    name = IN_TURNS.partition("::")[2]
    found = [re.findall(rf"::{name}\[(asyncio-eager|\w+)-(.*)\]", listed(EXAMPLE, IN_TURNS, matrix=matrix)) for matrix in ("", "all")]
    thinned, whole = ({value: [loop for loop, other in pairs if other == value] for _, value in pairs} for pairs in found)
    assert thinned.keys() == whole.keys()
    loops = [loop for value in whole for loop in thinned[value]]
    assert len(loops) == len(whole)
    assert set(loops) == set(itertools.chain(*whole.values()))
    assert all(one != other for one, other in itertools.pairwise(loops))
