"""An ordinary run leaves out combinations of event loop and server, but no loop and no server."""

from __future__ import annotations

import itertools

import pytest

from tests.matrix import meet, thin_out


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


def test_a_setting_that_means_nothing_is_refused(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDISAQ_MATRIX", "most")
    with pytest.raises(pytest.UsageError, match="REDISAQ_MATRIX is 'most'"):
        thin_out(pytestconfig, [])
