"""Doorbells at a server that lets everybody in and closes at once: they are patient with it, as with one that lets nobody in."""

from __future__ import annotations

import anyio
import pytest

from redisaq.environment import Environment
from redisaq.link import Link, parse_address, switchboard
from tests.link_chance import Longest
from tests.link_proxy import Proxy

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("cap", "dialled"), [(1000.0, 1), (0.0, 2)], ids=["it stood for less than the longest pause", "for more"])
async def test_a_connection_that_broke_soon_is_made_again_after_a_pause(
    proxy: Proxy, namespace: str, monkeypatch: pytest.MonkeyPatch, *, cap: float, dialled: int
) -> None:
    monkeypatch.setattr(switchboard, "BASE", 1000.0)
    monkeypatch.setattr(switchboard, "CAP", cap)
    link = Link(parse_address(proxy.url), Environment(random=Longest()))
    try:
        bell = await link.listen(f"{{{namespace}}}:channel")
        proxy.cut()
        rings = 0
        for _ in range(5):
            with anyio.move_on_after(0.1):
                await bell.wait()
                rings += 1
        assert (proxy.accepted, rings) == (dialled, dialled - 1)
    finally:
        await link.close()


async def test_it_is_not_dialled_in_a_busy_loop(proxy: Proxy, namespace: str) -> None:
    """With the pauses as they are, the longest drawn each time: 0.05 s, 0.1 s, 0.2 s, 0.4 s."""
    link = Link(parse_address(proxy.url), Environment(random=Longest()))
    try:
        bell = await link.listen(f"{{{namespace}}}:channel")
        with anyio.move_on_after(0.7):
            while True:
                proxy.cut()
                await bell.wait()
        assert 2 <= proxy.accepted <= 4
    finally:
        await link.close()
