"""What an examination makes of a server's answers: missing rights, and how far the clocks are apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from redisaq.brokers.redis.examination import NOBODY, examine, tries
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.rights import commands_needed
from redisaq.brokers.steps.examination import Examine
from redisaq.core.diagnosis import Denial, Examination
from redisaq.environment import Environment, use_environment
from redisaq.errors import ConnectionFailed, ServerError

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns]

KEYS = Keys("ns")
KEY = KEYS.stream(NOBODY, 0)
REFUSED = "User walker has no permissions to run the '{}' command"


def named(words: list[Any]) -> str:
    """Return the name of a command, with its subcommand if it is one of several."""
    both = "|".join(str(word) for word in words[:2]).lower()
    return both if both in NAMES else str(words[0]).lower()


class Server:
    """A server with one user, who may not run these commands; `dry` is whether the user may ask about rights."""

    url = "redis://server"

    def __init__(self, *refused: str, dry: bool = True, others: Sequence[Server] = ()) -> None:
        self.refused = refused
        self.dry = dry
        self.others = others
        self.special: dict[str, Any] = {}
        self.asked: list[str] = []
        self.closed = 0

    async def nodes(self) -> Sequence[Server]:
        return [self, *self.others]

    async def watched(self) -> dict[str, str]:
        return {"flags": "master"}

    async def call(self, *commands: Any) -> list[Any]:
        return [self._answer(list(command)) for command in commands]

    def _answer(self, words: list[Any]) -> Any:
        name = named(words)
        self.asked.append(name if KEY not in words else f"{name} key")
        if name == "acl|whoami":
            return b"walker" if self.dry else ServerError("NOPERM User walker has no permissions to run the 'acl|whoami' command")
        if name == "acl|dryrun":
            asked = named(words[3:])
            if asked in self.special:
                return self.special[asked].encode()
            return REFUSED.format(asked).encode() if asked in self.refused else b"OK"
        if name in self.special:
            return ServerError(self.special[name])
        if name in self.refused:
            return ServerError(f"NOPERM {REFUSED.format(name)}")
        return {"info": b"redis_version:8.0\r\n", "config|get": {b"save": b"60 1"}, "time": [b"100", b"250000"]}.get(name, b"OK")

    async def listen(self, channel: str) -> Server:
        assert channel == KEYS.partition_doorbell(NOBODY, 0).decode()
        if "ssubscribe" in self.refused:
            raise ServerError("NOPERM this user has no permissions to access one of the channels used as arguments")
        return self

    async def close(self) -> None:
        self.closed += 1


NAMES = {*tries(KEYS), *commands_needed(), "info", "config|get", "acl|whoami", "acl|dryrun"}


async def examined(server: Any) -> Examination:
    times = iter([90.0, 92.0] * (1 + len(server.others)))
    with use_environment(Environment(wall_clock=lambda: next(times))):
        found: Examination = await examine(Examine(), server, KEYS)
    return found


async def test_a_server_whose_user_may_do_all() -> None:
    found = await examined(Server())
    assert found == Examination(
        "ns",
        "walker",
        {"redis_version": "8.0"},
        {"save": "60 1"},
        (),
        100.25 - 91.0,
        2.0,
        url="redis://server",
        watched={"flags": "master"},
    )


async def test_all_nodes_are_examined() -> None:
    server = Server(others=[Server("xadd"), Server("config|get", "time")])
    server.url = "redis+cluster://h"
    found = await examined(server)
    assert found.clustered
    assert [one.denials for one in found.others] == [(Denial("xadd"),), (Denial("time"),)]
    assert (found.others[1].config, found.others[1].clock) == (None, None)


@pytest.mark.parametrize("dry", [True, False])
async def test_what_is_forbidden_is_named(dry: bool) -> None:
    """Whether the user may ask about rights, or has to try; and each lack once."""
    server = Server("xadd", "wait", dry=dry)
    server.special |= {"hget": "NOPERM User walker has no permissions to access the 'x' key", "xdel": "ERR unknown command 'xdel'"}
    server.special |= {
        "get": "NOPERM User walker has no permissions to access the 'y' key",
        "spublish": "no permissions to access the 'c' channel",
    }
    found = await examined(server)
    assert found.user == ("walker" if dry else "")
    lacking = {Denial("xadd"), Denial("wait", dispensable=True), Denial("", "key"), Denial("", "channel", dispensable=True)}
    assert set(found.denials) == lacking | (set() if dry else {Denial("xdel")})
    assert len(found.denials) == len(set(found.denials))
    tried = [name for name in server.asked if not name.startswith(("acl", "config", "info", "time"))]
    assert ("xadd key" in tried) is not dry
    assert server.closed == (0 if dry else 1)


async def test_what_would_leave_a_key_behind_is_tried_only_where_it_can_be_removed() -> None:
    server = Server(dry=False)
    await examined(server)
    places = [place for place, name in enumerate(server.asked) if name in ("sadd key", "hsetnx key")]
    assert [server.asked[place + 1 : place + 3] for place in places] == [["del key", "unlink key"]] * 2
    one = Server("del", dry=False)
    await examined(one)
    assert {"sadd key", "hsetnx key"} < set(one.asked)
    neither = Server("del", "unlink", dry=False)
    found = await examined(neither)
    assert not {"sadd key", "hsetnx key"} & set(neither.asked)
    assert set(found.denials) == {Denial("del"), Denial("unlink")}


async def test_who_may_not_listen_lacks_a_channel() -> None:
    server = Server("ssubscribe", dry=False)
    assert (await examined(server)).denials == (Denial("", "channel", dispensable=True),)
    assert server.closed == 0


async def test_a_server_that_cannot_answer_now_is_asked_later() -> None:
    """C1; but that a node does not serve a key is no lack of a right."""
    server = Server(dry=False)
    server.special["xadd"] = "MOVED 1 h:1"
    assert (await examined(server)).denials == ()
    server.special["xadd"] = "LOADING"
    with pytest.raises(ConnectionFailed):
        await examined(server)
