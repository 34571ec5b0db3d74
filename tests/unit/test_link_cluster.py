"""A bell of a cluster whose slot moves, on links in a script: when it leaves a node, and how often it tries again. In virtual time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, cast

import anyio
import pytest

from redisaq.environment import current_environment
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link.cluster import ClusterBell, ClusterLink
from redisaq.testing import virtual_run
from tests.link_chance import Longest


class Stub:
    """The bell at one node.

    Attributes:
        dropped: how often it was.
        ends: what its wait ends with, a ring if it is None.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self.ends: Exception | None = None
        self._event = anyio.Event()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()
        if self.ends is not None:
            raise self.ends

    def ring(self, ends: Exception | None = None) -> None:
        self.ends = ends
        self._event.set()

    def drop(self) -> None:
        self.dropped += 1
        self.ring(ConnectionFailed("redis://node", "the subscription was closed"))


class Node:
    """The link to one node.

    Attributes:
        listened: when somebody began to listen, and to what.
        error: what that fails with.
        then: called before it returns.
    """

    def __init__(self) -> None:
        self.listened: list[tuple[float, tuple[str, ...], bool]] = []
        self.bells: list[Stub] = []
        self.error: Exception | None = None
        self.then: Callable[[], object] = lambda: None

    async def listen(self, *channels: str, moving: bool) -> Stub:
        self.listened.append((anyio.current_time(), channels, moving))
        await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.bells.append(Stub())
        self.then()
        return self.bells[-1]


class Cluster:
    """The link to the cluster.

    Attributes:
        at: the node of the slot.
        doubts: how often a node was doubted.
        redirects: what nodes answered that do not serve the slot.
    """

    url = "redis+cluster://test"

    def __init__(self) -> None:
        self.at = Node()
        self.bells: set[ClusterBell] = set()
        self.doubts: list[Node] = []
        self.redirects: list[Node] = []
        self.environment = replace(current_environment(), random=Longest())

    def route(self, key: bytes) -> Node:
        assert key == b"a"
        return self.at

    async def link_to(self, key: bytes) -> Node:
        return self.route(key)

    def doubt(self, node: Node) -> None:
        self.doubts.append(node)

    def redirected(self, node: Node, error: ServerError) -> None:
        assert error.redirect
        self.redirects.append(node)


def play(story: Callable[[Cluster, ClusterBell], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        cluster = Cluster()
        bell = ClusterBell(cast("ClusterLink", cluster), ("a", "b"))
        cluster.bells.add(bell)
        with anyio.fail_after(1000):
            await story(cluster, bell)

    virtual_run(main, backend="trio")


MOVED = ServerError("MOVED 1 other:1")


def test_it_listens_to_all_its_channels_at_the_node_of_the_first() -> None:
    async def story(cluster: Cluster, bell: ClusterBell) -> None:
        await bell.begin()
        assert cluster.at.listened == [(0.0, ("a", "b"), True)]
        cluster.at.bells[0].ring()
        await bell.wait()

    play(story)


def test_each_pause_before_it_subscribes_again_is_longer_until_it_has() -> None:
    async def story(cluster: Cluster, bell: ClusterBell) -> None:
        await bell.begin()
        node = cluster.at
        for number in range(2):
            began = anyio.current_time()
            node.error = ConnectionFailed("redis://node", "it is gone")
            node.bells[-1].ring(node.error)
            with anyio.move_on_after(0.3):
                await bell.wait()
            node.error = None
            await bell.wait()
            times = [at - began for at, _, _ in node.listened[1 + 4 * number :]]
            assert times == pytest.approx([0.0, 0.05, 0.15, 0.3])

    play(story)


def test_a_node_that_cannot_be_listened_to_is_doubted_and_one_that_redirects_is_asked_about() -> None:
    async def story(cluster: Cluster, bell: ClusterBell) -> None:
        node = cluster.at
        node.error = ConnectionFailed("redis://node", "it is gone")
        with pytest.raises(ConnectionFailed, match="gone"):
            await bell.begin()
        assert (cluster.doubts, cluster.redirects) == ([node], [])
        node.error = MOVED
        with pytest.raises(ConnectionFailed, match="cannot do this now"):
            await bell.begin()
        assert (cluster.doubts, cluster.redirects) == ([node], [node])
        node.error = None
        await bell.begin()
        node.bells[0].ring(MOVED)
        await bell.wait()
        assert cluster.redirects == [node, node]
        node.bells[1].ring(ServerError("NOPERM no"))
        with pytest.raises(ServerError, match="NOPERM"):
            await bell.wait()
        assert cluster.redirects == [node, node]

    play(story)


def test_a_slot_that_moved_while_it_subscribed_is_followed() -> None:
    async def story(cluster: Cluster, bell: ClusterBell) -> None:
        former, later = cluster.at, Node()
        former.then = lambda: setattr(cluster, "at", later)
        await bell.begin()
        assert former.bells[0].dropped == 1
        await bell.wait()
        assert len(later.bells) == 1
        bell.follow()
        assert later.bells[0].dropped == 0, "it is where its slot is"

    play(story)


@pytest.mark.parametrize("again", [False, True])
def test_closed_as_it_has_just_subscribed_it_leaves_no_subscription(again: bool) -> None:
    async def story(cluster: Cluster, bell: ClusterBell) -> None:
        node = cluster.at
        if again:
            await bell.begin()
            node.bells[0].ring(ConnectionFailed("redis://node", "it is gone"))
        node.then = bell.end
        if again:
            with pytest.raises(ConnectionFailed, match="closed"):
                await bell.wait()
        else:
            await bell.begin()
        assert node.bells[-1].dropped == 1
        assert not cluster.bells
        with pytest.raises(ConnectionFailed, match="closed"):
            await bell.wait()

    play(story)


def test_closed_under_a_wait_it_ends_its_subscription_and_that() -> None:
    async def story(cluster: Cluster, bell: ClusterBell) -> None:
        await bell.begin()

        async def wait() -> None:
            with pytest.raises(ConnectionFailed, match="closed"):
                await bell.wait()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await bell.close()
            assert scope.cancelled_caught, "it is a checkpoint"
        assert cluster.at.bells[0].dropped == 1
        assert len(cluster.at.listened) == 1

    play(story)
