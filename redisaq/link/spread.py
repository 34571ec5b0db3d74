"""Calls over several nodes: each ends when all its parts have ended (C2), and none that places messages passes what one lacks (E4).

Input: the parts of a call, by node, and a function that sends one of them. Output: the answers, in the order of the call; or one error,
which names every connection that may still carry a part. A node is whatever its user calls one. A slot is what one node serves until
another one does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import anyio

from redisaq.errors import ConnectionFailed, RedisaqError
from redisaq.link.shared import PASSED

N = TypeVar("N", bound=Hashable)


class Spreader(Generic[N]):
    """Sends calls over several nodes, for one link.

    Attributes:
        breaks: how many calls, or parts of calls, broke of which a server may have something. The function that sends a part counts.
        torn: how many parts broke at each node of calls that are not over elsewhere.
    """

    def __init__(self, is_up: Callable[[N], bool], run_id: Callable[[], str], refusal: type) -> None:
        """Begin with nothing under way.

        Args:
            is_up: returns whether the connection to a node is up.
            run_id: returns the name of the runs of all nodes.
            refusal: the class of an answer that says that a command was not carried out. Nil, or 0, says that a message was not put.
        """
        self.breaks = 0
        self.torn: Counter[N] = Counter()
        self._lacking: Counter[Hashable] = Counter()  # how much is lacking in each slot of calls that are not over elsewhere
        self._under_way: Counter[N] = Counter()  # how many parts of calls over several nodes are under way at each
        self._is_up = is_up
        self._run_id = run_id
        self._refusal = refusal

    def check(self, url: str, nodes: Iterable[N], slots: Iterable[Hashable], breaks: int) -> None:
        """Refuse to send messages that would pass what an earlier call may lack (E4).

        Args:
            url: for the error.
            nodes: to which they go.
            slots: in which they are placed.
            breaks: how many there were when the messages were placed.

        Raises:
            ConnectionFailed: an earlier call broke meanwhile; or it broke at one of these nodes, or lacks something in one of these slots,
                which may have moved since, and is not over elsewhere.
        """
        torn = any(node in self.torn or (self._under_way[node] and not self._is_up(node)) for node in nodes)
        if self.breaks != breaks or torn or (self._lacking and not self._lacking.keys().isdisjoint(slots)):
            raise ConnectionFailed(url, PASSED)

    async def send(
        self, parts: Mapping[N, Sequence[int]], size: int, send: Callable[[N, Sequence[int]], Awaitable[Sequence[object]]]
    ) -> list[object]:
        """Send each part to its node, at the same time, and wait for all (C2).

        Args:
            parts: the places of each node's commands.
            size: how many commands there are.
            send: sends one part, and returns its answers.

        Raises:
            ConnectionFailed: a part failed; `maybe_executed` if another did not.
        """
        run_id, failures = self._run_id(), list[Exception]()
        answered: list[object] = [None] * size

        async def run(node: N, places: Sequence[int]) -> None:
            try:
                answers = await send(node, places)
            except RedisaqError as error:
                failures.append(error)
                return
            for place, answer in zip(places, answers, strict=True):
                answered[place] = answer

        async with anyio.create_task_group() as tasks:
            for node, places in parts.items():
                tasks.start_soon(run, node, places)
        if failures:
            raise _joined(failures, of=len(parts), another_run=self._run_id() != run_id)
        return answered

    async def send_in_order(
        self,
        parts: Mapping[N, Sequence[int]],
        size: int,
        send: Callable[[N, Sequence[int]], Awaitable[Sequence[object]]],
        slot: Callable[[int], Hashable],
    ) -> list[object]:
        """Send messages that `check` has let pass, and let nothing pass those that a part lacks; see `send`.

        Args:
            parts: see `send`.
            size: see `send`.
            send: see `send`.
            slot: returns the slot in which the command of this place puts its message.
        """
        torn: list[N] = []
        lacking: list[Hashable] = []

        def lack(slots: Iterable[Hashable]) -> None:
            lacked = list(slots)
            lacking.extend(lacked)
            self._lacking.update(lacked)

        async def counted(node: N, places: Sequence[int]) -> Sequence[object]:
            up = self._is_up(node)
            self._under_way[node] += up
            try:
                answers = await send(node, places)
            except ConnectionFailed:
                torn.append(node)
                self.torn[node] += 1
                lack(map(slot, places))
                raise
            finally:
                self._under_way -= Counter({node: up})
            lack(slot(place) for place, answer in zip(places, answers, strict=True) if not answer or isinstance(answer, self._refusal))
            return answers

        try:
            return await self.send(parts, size, counted)
        finally:  # nobody else runs between this and the caller's hearing of it
            self.torn -= Counter(torn)
            self._lacking -= Counter(lacking)


def _joined(failures: Sequence[Exception], of: int, *, another_run: bool) -> Exception:
    """Return the error of a call of which some parts failed (C2)."""
    broken = [error for error in failures if isinstance(error, ConnectionFailed)]
    if len(broken) < len(failures):
        return next(error for error in failures if not isinstance(error, ConnectionFailed))
    first = broken[0]
    joined = ConnectionFailed(
        first.url,
        first.reason,
        maybe_executed=len(broken) < of or any(error.maybe_executed for error in broken),
        permanent=any(error.permanent for error in broken),
        silent=first.silent,
    )
    joined.another_run = another_run
    joined.of_node = any(error.of_node for error in broken)
    joined.connections = tuple(dict.fromkeys(connection for error in broken for connection in error.connections))
    joined.__cause__ = first
    return joined
