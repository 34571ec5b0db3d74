"""How long connecting may take: what the URL says, or else what suits the kind of server. In virtual time, at hosts that drop packets."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed
from redisaq.link import ClusterAddress, Link, SentinelAddress, parse_url
from redisaq.link.cluster import ClusterLink
from redisaq.link.dial import Dialer
from redisaq.link.sentinel import SentinelLink, Sentinels
from redisaq.testing import virtual_run


async def drop(_: Dialer, address: object) -> Any:
    await anyio.sleep_forever()


async def know(_: Sentinels) -> tuple[str, int]:
    return "master", 6379


def link_to(url: str) -> Link | ClusterLink | SentinelLink:
    address, environment = parse_url(url), Environment(clock=anyio.current_time)
    if isinstance(address, ClusterAddress):
        return ClusterLink(address, environment)
    return SentinelLink(address, environment) if isinstance(address, SentinelAddress) else Link(address, environment)


@pytest.mark.parametrize(
    ("url", "known", "by_default"),
    [
        pytest.param("redis://host", False, 5.0, id="server"),
        pytest.param("redis+cluster://host", False, 1.0, id="cluster"),
        pytest.param("redis+sentinel://host/service", False, 1.0, id="sentinel"),
        pytest.param("redis+sentinel://host/service", True, 1.0, id="master"),
    ],
)
@pytest.mark.parametrize("given", [None, 0.25, 3.0])
def test_connecting_takes_as_long_as_the_url_says(
    url: str, by_default: float, given: float | None, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    monkeypatch.setattr(Dialer, "_connect", drop)
    if known:
        monkeypatch.setattr(Sentinels, "_ask_in_turn", know)

    async def main() -> float:
        began = anyio.current_time()
        with pytest.raises(ConnectionFailed, match=f"no answer within {given or by_default:g} s"):
            await link_to(url if given is None else f"{url}?socket_connect_timeout={given}").connect()
        return anyio.current_time() - began

    assert virtual_run(main) == (given or by_default)
