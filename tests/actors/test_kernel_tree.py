"""Names, paths and snapshots."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import anyio
import pytest

from redisaq.actors import Actor, Supervisor
from redisaq.actors.tree import snake_case, unique_name
from tests.actors.kernel import QUICK, Recorder, until


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Flusher", "flusher"),
        ("PartitionReader", "partition_reader"),
        ("HTTPReader", "http_reader"),
        ("_Private", "private"),
        ("Worker2", "worker2"),
        ("already_snake", "already_snake"),
    ],
)
def test_snake_case(name: str, expected: str) -> None:
    assert snake_case(name) == expected


def test_unique_name() -> None:
    assert unique_name("a", set()) == "a"
    assert unique_name("a", {"a"}) == "a_2"
    assert unique_name("a", {"a", "a_2"}) == "a_3"


pytestmark = pytest.mark.anyio


class HTTPReader(Recorder):
    """A name in capitals."""


async def test_names_and_paths() -> None:
    named, unnamed = HTTPReader(name="mine"), HTTPReader()
    assert (named.path, unnamed.path) == ("mine", "http_reader"), "before they are started"
    async with Supervisor(name="root") as supervisor:
        for actor in (HTTPReader(), unnamed, named):
            await supervisor.start(actor)
        assert [node.path for node in supervisor.tree().children] == ["root/http_reader", "root/http_reader_2", "root/mine"]
        assert unnamed.name == "http_reader_2"
        assert repr(unnamed) == "<HTTPReader root/http_reader_2>"
        assert repr(unnamed.ref) == "<ActorRef root/http_reader_2>"
        assert unnamed.ref.path == "root/http_reader_2"


async def test_a_snapshot() -> None:
    actor, error = Recorder(capacity=5, restart=QUICK), ConnectionError()
    supervisor = Supervisor()
    assert supervisor.tree().status == "new"
    async with supervisor:
        ref = await supervisor.start(actor)
        before = anyio.current_time()
        for message in (1, 2, error, 3, anyio.sleep_forever, 4, 5):
            await ref.tell(message)
        await until(lambda: actor.mailbox.hand == (anyio.sleep_forever,))
        tree = supervisor.tree()
        (node,) = tree.children
        assert (tree.name, tree.path, tree.status) == ("supervisor", "supervisor", "running")
        assert (node.name, node.path, node.status) == ("recorder", "supervisor/recorder", "running")
        assert (node.depth, node.capacity, node.handled, node.restarts, node.last_error) == (2, 5, 3, 1, error)
        assert node.busy_since is not None
        assert before <= node.busy_since <= anyio.current_time()
        with pytest.raises(FrozenInstanceError):
            node.depth = 3  # type: ignore[misc]
        assert await supervisor.stop(ref, timeout=0) == 2
        assert supervisor.tree().children[0].status == "stopped"
        assert node.status == "running", "a snapshot does not change"


async def test_an_idle_actor_is_not_busy() -> None:
    async with Supervisor() as supervisor:
        actor = Recorder()
        ref = await supervisor.start(actor)
        await ref.tell(1)
        await until(lambda: supervisor.tree().children[0].handled == 1)
        await until(lambda: supervisor.tree().children[0].busy_since is None)


async def test_nested_supervisors_stand_below_their_actor() -> None:
    class Parent(Actor[Any]):
        up: anyio.Event

        async def on_start(self) -> None:
            self.up = anyio.Event()

        async def run(self) -> None:
            async with Supervisor(name="below", parent=self) as below:
                await below.start(Recorder(name="child"))
                self.up.set()
                await super().run()

    parent = Parent(name="parent")
    async with Supervisor(name="root") as supervisor:
        await supervisor.start(parent)
        await parent.up.wait()
        (node,) = supervisor.tree().children
        (below,) = node.children
        (child,) = below.children
        assert [one.path for one in (node, below, child)] == ["root/parent", "root/parent/below", "root/parent/below/child"]
        assert "root/parent/below/child" in {task.name for task in anyio.get_running_tasks()}
    assert supervisor.tree().children[0].children == ()


async def test_those_that_ended_are_forgotten_in_time() -> None:
    """A supervisor that starts and stops actors for months does not grow."""
    async with Supervisor() as supervisor:
        keeper = await supervisor.start(Recorder(name="keeper"))
        for _ in range(100):
            await supervisor.stop(await supervisor.start(Recorder()))
        children = supervisor.tree().children
        assert len(children) < 20
        assert children[0].name == "keeper"
        assert not keeper.stopped
