"""How a link to a cluster of fake nodes keeps its map: when it looks, whom it asks, and what it makes of nodes that changed (C1, E2)."""

from __future__ import annotations

import random
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from redisaq.environment import Environment, current_environment, time_limit
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link import ClusterAddress, Link, parse_url
from redisaq.link.cluster import AGE, ANSWER_WITHIN, RECENT, ClusterLink
from redisaq.link.resp import pack_command
from redisaq.link.slot_map import Node
from tests.integration.test_link_cluster import HIGH, LOW, MARK, FakeCluster, close, cluster, link, opened, until
from tests.link_fake import FakeServer, bulk

__all__ = ["cluster", "link"]

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns]


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def environment(self, **more: Any) -> Environment:
        return replace(current_environment(), monotonic=lambda: self.now, **more)


class Chance(random.Random):
    """Leaves a list in its order, or turns it round."""

    def __init__(self, *, turned: bool) -> None:
        super().__init__(1)
        self._turned = turned

    def shuffle(self, x: Any) -> None:
        if self._turned:
            x.reverse()


def node_of(server: FakeServer) -> Node:
    return Node("127.0.0.1", server.port)


def count(server: FakeServer, word: str) -> int:
    return server.words().count(word)


def asked(cluster: FakeCluster) -> list[int]:
    """Return how often each node was asked for the map."""
    return [count(node, "CLUSTER") for node in cluster.nodes]


def connections(server: FakeServer) -> int:
    """Return how many connections to a node are open."""
    return sum(thread.is_alive() for thread in server._threads[1:])


def unconnected(cluster: FakeCluster, **options: Any) -> ClusterLink:
    address = parse_url(cluster.url)
    assert isinstance(address, ClusterAddress)
    return ClusterLink(address, **options)


def append(link: ClusterLink, *keys: bytes) -> Awaitable[list[Any]]:
    return link.call_keyed([pack_command((b"GET", key)) for key in keys], keys, lambda key: key)


# -- when it looks --------------------------------------------------------------------------------------------------------------------


async def test_a_map_is_asked_for_by_the_way_when_it_is_older_than_five_seconds(cluster: FakeCluster) -> None:
    """Once, however many calls there are; of the node to which the call goes."""
    clock = Clock()
    async with opened(cluster.url, environment=clock.environment()) as link:
        before = asked(cluster)
        clock.now += AGE
        await link.call((b"GET", LOW))
        assert asked(cluster) == before
        clock.now += 0.001
        for _ in range(3):
            await link.call((b"GET", LOW))
        assert [now - then for now, then in zip(asked(cluster), before, strict=True)] == [0, 1, 0]
    assert AGE == 5.0


async def test_a_reader_is_opened_by_a_map_that_is_new(cluster: FakeCluster) -> None:
    clock = Clock()
    async with opened(cluster.url, environment=clock.environment()) as link:
        clock.now += RECENT
        await (await link.open_reading(HIGH)).close()
        assert link.looks == 1
        clock.now += 0.001
        cluster.owners[0] = 2
        reading = await link.open_reading(HIGH)
        assert link.looks == 2
        assert await reading.call((b"GET", HIGH)) == [b"from 2"]
    assert RECENT == 0.25


async def test_before_it_connects_again_it_looks_whether_the_node_was_replaced(cluster: FakeCluster) -> None:
    """Unless the map is new. A node that was replaced may still answer: nothing is sent to it."""
    clock = Clock()
    async with opened(cluster.url, environment=clock.environment()) as link:
        clock.now += RECENT
        cluster.nodes[0].drop()
        await until(lambda: connections(cluster.nodes[0]) == 0)
        assert await link.call((b"GET", HIGH)) == [b"from 0"]
        assert link.looks == 1
        clock.now += 0.001
        cluster.owners[0] = 2
        cluster.nodes[0].drop()
        await until(lambda: connections(cluster.nodes[0]) == 0)
        with pytest.raises(ConnectionFailed, match="no master of the cluster any more") as failed:
            await link.call((b"GET", HIGH))
        assert not failed.value.maybe_executed
        assert link.looks == 2
        assert count(cluster.nodes[0], "GET") == 1
        assert await link.call((b"GET", HIGH)) == [b"from 2"]


@pytest.mark.parametrize("code", ["READONLY", "MASTERDOWN", "NOAUTH", "DENIED", "WRONGTYPE", "OOM"])
async def test_an_error_ages_the_map_if_another_node_may_serve_the_slot_now(cluster: FakeCluster, code: str) -> None:
    """Who is a replica now, or does not take us for logged in any more, is also dialled again."""
    async with opened(cluster.url, environment=Clock().environment()) as link:
        cluster.nodes[0].answers["GET"] = f"-{code} it says\r\n".encode()
        hellos = count(cluster.nodes[0], "HELLO")
        await link.call((b"GET", HIGH))
        await link.call((b"GET", HIGH))
        assert link.looks == (1 if code in {"WRONGTYPE", "OOM"} else 2)
        assert count(cluster.nodes[0], "HELLO") - hellos == (1 if code in {"READONLY", "NOAUTH", "DENIED"} else 0)


async def test_a_redirect_without_a_host_means_the_same_host(cluster: FakeCluster, link: ClusterLink) -> None:
    cluster.nodes[0].answers["GET"] = b"-MOVED 1 :7\r\n"
    await link.call((b"GET", HIGH))
    assert link._hint == Node("127.0.0.1", 7)


async def test_a_node_that_cannot_be_used_is_not_tried_again_before_a_look(cluster: FakeCluster) -> None:
    """By whatever it was found: a reader, a bell, or a call of its own link that met a replica."""
    clock = Clock()
    async with opened(cluster.url, environment=clock.environment()) as link:
        await link.call((b"GET", HIGH))
        cluster.nodes[0].answers["INFO"] = bulk("redis_version:7.2.4\r\nrun_id:x\r\nrole:slave\r\n")
        with pytest.raises(ConnectionFailed, match="replica now"):
            await link.open_reading(HIGH)
        assert link.route(HIGH) is None
        assert link.looks == 1
        await link.link_to(HIGH)
        assert link.looks == 2
        with pytest.raises(ConnectionFailed, match="replica now"):
            await link.listen(HIGH.decode())
        assert link.route(HIGH) is None
        own = [one for one in await link.nodes() if one.url.endswith(f":{cluster.nodes[0].port}/0")]
        await link.call((b"GET", HIGH))  # over the connection that is there
        own[0].give_up("the test ends it")
        with pytest.raises(ConnectionFailed, match="replica now"):
            await own[0].call((b"GET", HIGH))
        assert link.route(HIGH) is None


async def test_a_node_that_cannot_be_reached_by_a_reader_is_not_tried_again_before_a_look(cluster: FakeCluster) -> None:
    async with opened(cluster.url, environment=Clock().environment()) as link:
        await link.call((b"GET", HIGH))
        close(cluster.nodes[0])
        with pytest.raises(ConnectionFailed, match="cannot connect"):
            await link.open_reading(HIGH)
        assert link.route(HIGH) is None
        assert link.route(LOW) is not None


async def test_a_silent_node_is_not_used_while_others_are_asked_about_it(cluster: FakeCluster, link: ClusterLink) -> None:
    await link.call((b"GET", HIGH), (b"GET", LOW))
    for node in cluster.nodes:
        node.answers["CLUSTER"] = b""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.nodes)
        await until(lambda: link.looks == 2)
        await link._on_silence(node_of(cluster.nodes[0]))
        assert link.looks == 2, "somebody looks already"
        assert link.route(HIGH) is None
        assert link.route(LOW) is not None
        tasks.cancel_scope.cancel()


# -- whom it asks ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
async def test_any_node_may_be_asked_first_over_the_connection_that_is_there(cluster: FakeCluster, turned: bool) -> None:
    async with opened(cluster.url, environment=replace(current_environment(), random=Chance(turned=turned))) as link:
        before, hellos = asked(cluster), [count(node, "HELLO") for node in cluster.nodes]
        await link.nodes()
        first = max(cluster.nodes[:2], key=node_of) if turned else min(cluster.nodes[:2], key=node_of)
        assert [now - then for now, then in zip(asked(cluster), before, strict=True)] == [int(node is first) for node in cluster.nodes]
        assert [count(node, "HELLO") for node in cluster.nodes] == hellos


@pytest.mark.parametrize("key", [LOW, HIGH])
async def test_a_node_that_gave_trouble_is_asked_last(cluster: FakeCluster, link: ClusterLink, key: bytes) -> None:
    """Unless a redirect names it."""
    own = 0 if key == HIGH else 1
    for redirect, expected in ((b"-TRYAGAIN\r\n", 1 - own), (cluster.moved(own), own), (cluster.moved(1 - own), 1 - own)):
        cluster.nodes[own].answers["GET"] = redirect
        await link.call((b"GET", key))
        before = asked(cluster)
        await link.link_to(key)
        changed = [now - then for now, then in zip(asked(cluster), before, strict=True)]
        assert changed == [int(number == expected) for number in range(3)]


async def test_who_was_asked_over_a_connection_of_its_own_keeps_none(cluster: FakeCluster) -> None:
    async with opened(cluster.url):
        await until(lambda: [connections(node) for node in cluster.nodes] == [1, 1, 0])


async def test_a_node_that_does_not_say_is_called_silent(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.nodes[0].answers["CLUSTER"] = b""
    monkeypatch.setattr("redisaq.link.cluster.ANSWER_WITHIN", 0.3)
    address = parse_url(f"redis+cluster://127.0.0.1:{cluster.nodes[0].port}")
    assert isinstance(address, ClusterAddress)
    with pytest.raises(ConnectionFailed) as failed:
        await ClusterLink(address).connect()
    said = f"redis://127.0.0.1:{cluster.nodes[0].port}/0: no answer within 0.3 s"
    assert failed.value.reason == f"no node says who serves which slot ({said})"
    assert failed.value.silent
    assert not failed.value.permanent


async def test_a_look_that_has_no_time_left_is_one_that_met_silence(cluster: FakeCluster) -> None:
    for node in cluster.nodes:
        node.answers["CLUSTER"] = b""
    with time_limit(0.01), pytest.raises(ConnectionFailed, match="within the time of the call") as failed:
        await unconnected(cluster).call((b"GET", HIGH))
    assert failed.value.silent


def test_one_node_may_take_a_second() -> None:
    assert ANSWER_WITHIN == 1.0


async def test_who_waits_for_a_look_whose_task_leaves_as_the_link_is_closed_asks_nobody(cluster: FakeCluster, link: ClusterLink) -> None:
    for node in cluster.nodes:
        node.answers["CLUSTER"] = b""

    async def look() -> None:
        with pytest.raises(ConnectionFailed, match="closed"):
            await link.nodes()

    async with anyio.create_task_group() as tasks, anyio.create_task_group() as first:
        first.start_soon(look)
        await until(lambda: link.looks == 2)
        tasks.start_soon(look)
        await anyio.wait_all_tasks_blocked()
        link._era += 1
        first.cancel_scope.cancel()
    assert link.looks == 2


async def test_a_look_asks_no_other_node_once_the_link_is_closed(cluster: FakeCluster, link: ClusterLink) -> None:
    for node in cluster.nodes:
        node.answers["CLUSTER"] = b""
    before = sum(asked(cluster))

    async def look() -> None:
        with pytest.raises(ConnectionFailed, match="closed"):
            await link.nodes()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        await until(lambda: sum(asked(cluster)) > before)
        hellos = [count(node, "HELLO") for node in cluster.nodes]
        await link.close()
    assert [count(node, "HELLO") for node in cluster.nodes] == hellos


async def test_a_look_that_succeeds_as_the_link_is_closed_is_of_no_use(link: ClusterLink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its map is forgotten."""

    async def share(*_: object) -> bool:
        await link.close()
        return True

    monkeypatch.setattr(link._looks, "share", share)
    with pytest.raises(ConnectionFailed, match="closed"):
        await link.nodes()


# -- what it makes of the answer ------------------------------------------------------------------------------------------------------


async def test_its_run_changes_with_the_map_and_with_each_run(cluster: FakeCluster, link: ClusterLink) -> None:
    """E2: it names the runs of those that serve, and of no other; at once, though nothing is connected to the new master yet."""
    runs = [str(number) * 40 for number in range(3)]
    assert link.run_id.split()[1:] == runs[:2]
    seen = {link.run_id}
    cluster.owners[0] = 2
    await link.nodes()
    assert link.run_id.split()[1:] == [runs[1]]
    assert link.run_id not in seen
    seen.add(link.run_id)
    await link.call((b"GET", HIGH))
    assert link.run_id.split()[1:] == runs[1:]
    seen.add(link.run_id)
    await link.nodes()
    assert link.run_id in seen, "nothing has changed"
    cluster.nodes[2].answers["INFO"] = bulk(f"redis_version:7.2.4\r\nrun_id:{'9' * 40}\r\nrole:master\r\n")
    (await link.link_to(HIGH)).give_up("it restarts")
    await link.call((b"GET", HIGH))
    assert link.run_id.split()[1:] == [runs[1], "9" * 40]
    seen.add(link.run_id)
    cluster.owners = [1, 2]
    await link.nodes()
    assert link.run_id.split()[1:] == [runs[1], "9" * 40]
    assert link.run_id not in seen, "the same nodes serve other slots"


async def test_it_remembers_so_many_routes_and_no_more(cluster: FakeCluster, link: ClusterLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redisaq.link.cluster._MOST_ROUTES", 2)
    sizes = []
    for number in range(5):
        await link.call((b"GET", b"%d" % number))
        sizes.append(len(link._routes))
    assert sizes == [1, 2, 1, 2, 1]


# -- calls ----------------------------------------------------------------------------------------------------------------------------


async def test_a_call_that_broke_says_that_it_is_about_one_node(cluster: FakeCluster, link: ClusterLink) -> None:
    close(cluster.nodes[0])
    with pytest.raises(ConnectionFailed) as failed:
        await link.call((b"GET", HIGH))
    assert failed.value.of_node


@pytest.mark.parametrize("keys", [(HIGH,), (HIGH, LOW)])
async def test_only_what_places_messages_has_an_order_to_keep(
    cluster: FakeCluster, link: ClusterLink, keys: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """E4: at one node, and at several."""
    real, in_order = Link.call_packed, list[bool]()

    async def call_packed(one: Link, data: bytes, replies: int, **options: bool) -> list[object]:
        in_order.append(options["in_order"])
        return await real(one, data, replies, **options)

    monkeypatch.setattr(Link, "call_packed", call_packed)
    await append(link, *keys)
    await link.call(*[(b"GET", key) for key in keys])
    assert in_order == [True] * len(keys) + [False] * len(keys)


# -- closing, and using it again ------------------------------------------------------------------------------------------------------


async def test_to_connect_to_close_and_to_ask_for_what_is_known_are_checkpoints(cluster: FakeCluster, link: ClusterLink) -> None:
    bell = await link.listen(HIGH.decode())
    for function in (link.connect, link.watched, bell.close, link.close):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await function()
        assert scope.cancelled_caught
    await until(lambda: [connections(node) for node in cluster.nodes] == [0, 0, 0])
    with pytest.raises(ConnectionFailed, match="closed"):
        await bell.wait()


async def test_closing_it_ends_readers_and_connections(cluster: FakeCluster, link: ClusterLink) -> None:
    reading = await link.open_reading(HIGH)
    await link.close()
    with pytest.raises(ConnectionFailed, match="the link was closed"):
        await reading.call((b"GET", HIGH))
    await until(lambda: [connections(node) for node in cluster.nodes] == [0, 0, 0])


async def test_when_it_is_used_again_it_begins_with_a_look_and_connects_to_all(cluster: FakeCluster, link: ClusterLink) -> None:
    """Slots may have moved meanwhile."""
    assert await link.call((b"GET", HIGH)) == [b"from 0"]
    await link.close()
    cluster.owners[0] = 2
    hellos = count(cluster.nodes[0], "HELLO")
    assert await link.call((b"GET", HIGH)) == [b"from 2"]
    await link.close()
    await link.connect()
    await until(lambda: [connections(node) for node in cluster.nodes] == [0, 1, 1])
    assert link.run_id.split()[1:] == ["1" * 40, "2" * 40]
    assert count(cluster.nodes[0], "HELLO") <= hellos + 2, "those of two looks"


async def test_what_a_cancelled_call_left_is_killed_before_it_is_used_again(cluster: FakeCluster, link: ClusterLink) -> None:
    """E1: a call that was cancelled is reported to nobody, and its connection may still carry it when the link was closed."""
    cluster.nodes[0].answers["GET"] = b""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.call, (b"GET", HIGH))
        await until(lambda: count(cluster.nodes[0], "GET") == 1)
        tasks.cancel_scope.cancel()
    await link.close()
    cluster.nodes[0].answers["GET"] = b"+again\r\n"
    before = len(cluster.nodes[0].commands)
    assert await link.call((b"GET", HIGH)) == [b"again"]
    came = [command for command in cluster.nodes[0].commands[before:] if command[0] in {b"GET", b"CLIENT"}]
    assert came[-2:] == [[b"CLIENT", b"KILL", b"ID", b"7", b"ADDR", b"127.0.0.1:5"], [b"GET", HIGH]]


async def test_after_it_was_closed_it_kills_where_the_run_is_now(cluster: FakeCluster, link: ClusterLink) -> None:
    """C4: nowhere, if that node serves nothing any more."""
    for node in cluster.nodes:
        node.answers["CLIENT"] = b":1\r\n"
    await link.close()
    assert await link.kill([MARK]) == [1]
    await link.close()
    cluster.owners[0] = 2
    before = link.looks
    assert await link.kill([MARK]) == []
    assert link.looks == before + 1
    assert sum(command[:2] == [b"CLIENT", b"KILL"] for command in cluster.nodes[0].commands) == 1


async def test_a_link_that_is_not_connected_kills_though_another_node_cannot_be_reached(cluster: FakeCluster) -> None:
    """Its run is found, so it is not that node's."""
    cluster.nodes[0].answers["CLIENT"] = b":1\r\n"
    cluster.nodes[1].answers["HELLO"] = lambda _: None
    link = unconnected(cluster)
    assert await link.kill([MARK]) == [1]
    await link.close()


@pytest.mark.parametrize("how", ["silent", "broken"])
async def test_a_connection_that_could_not_be_killed_says_why(
    cluster: FakeCluster, link: ClusterLink, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def answer(command: list[bytes]) -> bytes | None:
        return b"" if how == "silent" else None

    cluster.nodes[0].answers["CLIENT"] = answer
    monkeypatch.setattr("redisaq.link.cluster.ANSWER_WITHIN", 0.4)
    words = "no answer within 0.4 s" if how == "silent" else "the server closed the connection"
    with pytest.raises(ConnectionFailed, match=rf"could not be killed \({words}") as failed:
        await link.kill([MARK])
    assert failed.value.url.endswith(f":{cluster.nodes[0].port}/0")
    assert link.looks == 2


async def test_connecting_again_asks_nothing_of_nodes_that_are_known(cluster: FakeCluster, link: ClusterLink) -> None:
    """Not even whether they are still there: the next call finds out."""
    before = [len(node.commands) for node in cluster.nodes]
    (await link.link_to(HIGH)).give_up("it broke")
    await link.connect()
    assert [len(node.commands) for node in cluster.nodes] == before


async def test_a_node_that_refuses_us_for_good_fails_the_connection_and_one_that_is_away_does_not(cluster: FakeCluster) -> None:
    cluster.nodes[1].answers["HELLO"] = lambda _: None
    async with opened(cluster.url) as link:
        assert await link.call((b"GET", HIGH)) == [b"from 0"]
    cluster.nodes[1].answers["HELLO"] = b"-WRONGPASS no\r\n"
    with pytest.raises(ConnectionFailed, match="wrong user name or password"):
        async with opened(cluster.url):
            pass


async def test_a_refusal_is_no_reason_to_follow_a_later_answer(cluster: FakeCluster, link: ClusterLink) -> None:
    """A reply of the server that is an error stays in its place among the others."""
    cluster.nodes[0].answers["GET"] = b"-WRONGTYPE no\r\n"
    replies = await link.call((b"GET", HIGH), (b"GET", LOW))
    assert isinstance(replies[0], ServerError)
    assert replies[1] == b"from 1"
