"""Calls over several nodes: when they end, with what, and what may not pass them (C2, E4). In virtual time."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Literal

import anyio
import pytest

from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link.shared import PASSED
from redisaq.link.spread import Spreader
from redisaq.testing import virtual_run

Outcome = tuple[float, Sequence[object] | Exception]
"""After how many seconds a part ends, and how."""

PLACES = {"a": [0, 2], "b": [1]}
REFUSED = ServerError("CLUSTERDOWN no")


class Scene:
    """Two nodes, whose parts of a call end as the test says."""

    def __init__(self) -> None:
        self.runs = "1"
        self.up = {"a", "b"}
        self.spreader: Spreader[str] = Spreader(self.up.__contains__, lambda: self.runs, ServerError)

    async def send(self, outcomes: Mapping[str, Outcome], *, in_order: bool = False) -> list[object]:
        async def part(node: str, places: Sequence[int]) -> Sequence[object]:
            seconds, outcome = outcomes[node]
            await anyio.sleep(seconds)
            if isinstance(outcome, Exception):
                raise outcome
            assert len(outcome) == len(places)
            return outcome

        parts = {node: PLACES[node] for node in outcomes}
        if in_order:
            return await self.spreader.send_in_order(parts, 3, part, lambda place: f"slot {place}")
        return await self.spreader.send(parts, 3, part)

    def passes(self, *, nodes: str = "", slots: Sequence[str] = (), breaks: int = 0) -> bool:
        try:
            self.spreader.check("redis://x", nodes, slots, breaks)
        except ConnectionFailed as error:
            return (error.reason, error.maybe_executed) != (PASSED, False)
        return True


def failed(
    reason: str = "gone",
    *connections: int,
    maybe: bool = False,
    permanent: bool = False,
    silent: bool = False,
    of_node: bool = False,
) -> ConnectionFailed:
    error = ConnectionFailed("redis://x", reason, maybe_executed=maybe, permanent=permanent, silent=silent)
    error.connections = tuple((number, "here", "run") for number in connections)
    error.of_node = of_node
    return error


def error_of(outcomes: Mapping[str, Outcome]) -> Exception:
    """Return the error with which a call ends, after its last part."""

    async def main() -> Exception:
        with pytest.raises((ConnectionFailed, ServerError)) as raised:
            await Scene().send(outcomes)
        assert anyio.current_time() == max(seconds for seconds, _ in outcomes.values())
        return raised.value

    return virtual_run(main, backend="asyncio")


def test_answers_come_in_the_order_of_the_call() -> None:
    async def main() -> None:
        assert await Scene().send({"a": (1.0, ["0", "2"]), "b": (0.5, ["1"])}) == ["0", "1", "2"]
        assert anyio.current_time() == 1.0

    virtual_run(main, backend="trio")


def test_a_call_of_which_nothing_was_sent_has_not_been_executed() -> None:
    """And its error is that of the part that failed first."""
    error = error_of({"a": (2.0, failed("second")), "b": (1.0, failed("first"))})
    assert isinstance(error, ConnectionFailed)
    assert (error.url, error.reason, error.maybe_executed, error.permanent, error.silent) == ("redis://x", "first", False, False, False)
    assert (error.another_run, error.of_node, error.connections) == (False, False, ())
    assert isinstance(error.__cause__, ConnectionFailed)


def test_a_call_that_was_executed_at_one_node_may_have_been_executed() -> None:
    error = error_of({"a": (1.0, ["0", "2"]), "b": (2.0, failed())})
    assert isinstance(error, ConnectionFailed)
    assert error.maybe_executed


@pytest.mark.parametrize("which", ["maybe", "permanent", "of_node"])
def test_what_holds_for_one_part_holds_for_the_call(which: Literal["maybe", "permanent", "of_node"]) -> None:
    special = failed("second", **{which: True})
    error = error_of({"a": (1.0, failed("first")), "b": (2.0, special)})
    assert isinstance(error, ConnectionFailed)
    assert (error.reason, error.maybe_executed, error.permanent, error.of_node) == (
        "first", which == "maybe", which == "permanent", which == "of_node",
    )  # fmt: skip


def test_each_connection_that_may_carry_a_part_is_named_once() -> None:
    error = error_of({"a": (1.0, failed("first", 7, 8, maybe=True, silent=True)), "b": (2.0, failed("second", 8, 9, maybe=True))})
    assert isinstance(error, ConnectionFailed)
    assert [number for number, _, _ in error.connections] == [7, 8, 9]
    assert error.silent


def test_an_error_of_another_kind_comes_first() -> None:
    """To try again, as after a broken connection, would not help."""
    for outcomes in ({"a": (1.0, REFUSED), "b": (2.0, failed())}, {"a": (2.0, REFUSED), "b": (1.0, failed())}):
        assert error_of(outcomes) is REFUSED


def test_a_run_that_changes_during_the_call_is_noted() -> None:
    async def main() -> None:
        scene = Scene()
        async with anyio.create_task_group() as tasks:

            async def change() -> None:
                await anyio.sleep(0.5)
                scene.runs = "2"

            tasks.start_soon(change)
            with pytest.raises(ConnectionFailed) as raised:
                await scene.send({"a": (1.0, failed())})
        assert raised.value.another_run

    virtual_run(main, backend="asyncio")


def during(outcomes: Mapping[str, Outcome], story: Coroutine[Any, Any, None], scene: Scene) -> None:
    """Tell a story while messages are sent, which may fail."""

    async def main() -> None:
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                try:
                    await scene.send(outcomes, in_order=True)
                except ConnectionFailed:
                    assert any(isinstance(outcome, ConnectionFailed) for _, outcome in outcomes.values())

            tasks.start_soon(send)
            await story
        assert anyio.current_time() == max(seconds for seconds, _ in outcomes.values())
        assert scene.passes(nodes="ab", slots=["slot 0", "slot 1", "slot 2"]), "it is over"
        assert not any((scene.spreader.torn, scene.spreader._lacking, scene.spreader._under_way))

    virtual_run(main, backend="trio")


def test_nothing_passes_a_call_that_broke_at_one_node_until_it_is_over_at_the_other() -> None:
    """E4: neither at that node, nor in the slots of what it lacks, wherever they are by then."""
    scene = Scene()

    async def story() -> None:
        await anyio.sleep(0.5)
        assert scene.passes(nodes="ab", slots=["slot 0", "slot 1", "slot 2"])
        await anyio.sleep(1.0)
        assert not scene.passes(nodes="a", slots=["slot 7"])
        assert not scene.passes(nodes="b", slots=["slot 1", "slot 2"])
        assert scene.passes(nodes="b", slots=["slot 1"])
        await scene.send({"b": (0.0, ["later"])}, in_order=True)
        assert not scene.passes(nodes="a")
        assert not scene.passes(slots=["slot 0"])

    during({"a": (1.0, failed(maybe=True)), "b": (2.0, ["1"])}, story(), scene)


@pytest.mark.parametrize("answer", [REFUSED, None], ids=["refused", "its stream is missing"])
def test_nothing_passes_a_message_that_one_node_did_not_take(answer: object) -> None:
    scene = Scene()

    async def story() -> None:
        await anyio.sleep(1.5)
        assert not scene.passes(slots=["slot 2"])
        assert scene.passes(nodes="ab", slots=["slot 0", "slot 1"])

    during({"a": (1.0, ["0", answer]), "b": (2.0, ["1"])}, story(), scene)


def test_nothing_is_sent_to_a_node_whose_connection_broke_under_a_call() -> None:
    """Its part has not heard of it yet."""
    scene = Scene()

    async def story() -> None:
        await anyio.sleep(0.5)
        scene.up.discard("a")
        assert not scene.passes(nodes="a")
        assert scene.passes(nodes="b")
        scene.up.add("a")

    during({"a": (1.0, ["0", "2"]), "b": (1.0, ["1"])}, story(), scene)


def test_what_is_sent_to_a_node_that_is_not_up_yet_holds_up_nothing() -> None:
    scene = Scene()
    scene.up.discard("a")

    async def story() -> None:
        await anyio.sleep(0.5)
        assert scene.passes(nodes="a")
        await anyio.sleep(1.0)
        assert scene.passes(nodes="a")
        scene.up.add("a")

    during({"a": (1.0, ["0", "2"]), "b": (2.0, ["1"])}, story(), scene)


def test_what_was_placed_before_a_call_broke_is_placed_again() -> None:
    scene = Scene()
    scene.spreader.breaks = 3
    assert scene.passes(nodes="a", slots=["slot 0"], breaks=3)
    assert not scene.passes(nodes="a", slots=["slot 0"], breaks=2)
