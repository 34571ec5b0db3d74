"""A shared connection that waits for a replica behind each write (C7), and breaks in the middle of one."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import cast

import anyio
import pytest

from redisaq.environment import Environment
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link.confirmed import ConfirmedConnection
from redisaq.link.resp import NOTHING, pack
from redisaq.link.shared import Identity, NotSent
from redisaq.link.wire import Wire

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns]

COMMAND = pack((("SET", "k", "v"),))
WAIT = pack((("WAIT", 1, 1000),))
WHOLE = len(COMMAND)
CALM = replace(Environment(), timers=lambda: lambda _seconds, _function: None)
"""No alarm rings."""


class ShortWire:
    """A socket that takes so many bytes and no more."""

    def __init__(self) -> None:
        self.queued = self.handed = self.taken = 0
        self.put_last = b""
        self.takes = 1 << 20
        self.inbox: deque[object] = deque()
        self.event = anyio.Event()

    def put(self, data: bytes) -> None:
        self.queued += len(data)
        self.put_last = data

    def flush(self) -> bool:
        self.handed = min(self.queued, self.takes)
        return self.handed == self.queued

    def arrived(self) -> bool:
        return bool(self.inbox)

    def receive(self) -> bool:
        return False

    def next_reply(self) -> object:
        return self.inbox.popleft() if self.inbox else NOTHING

    async def wait_readable(self) -> None:
        self.event = anyio.Event()
        await self.event.wait()

    wait_writable = wait_readable

    def wake(self) -> None:
        self.event.set()

    close = wake


@pytest.mark.parametrize(
    ("takes", "replies"),
    [
        pytest.param(0, 0, id="nothing of it"),
        pytest.param(1, 0, id="a part of the first command"),
        pytest.param(WHOLE, 0, id="the first command"),
        pytest.param(WHOLE + 1, 1, id="a part of the second, the first is answered"),
        pytest.param(2 * WHOLE, 1, id="all commands, one is answered"),
        pytest.param(2 * WHOLE, 2, id="all commands, which are answered"),
        pytest.param(2 * WHOLE + 1, 2, id="a part of WAIT"),
        pytest.param(2 * WHOLE + len(WAIT), 0, id="all"),
        pytest.param(2 * WHOLE + len(WAIT), 2, id="all, WAIT is not answered"),
    ],
)
async def test_wherever_a_write_is_torn_its_calls_are_uncertain_until_they_have_heard_so(takes: int, replies: int) -> None:
    """E1, E4: two calls in one write. What the server may have of it is to be killed, and nothing passes it."""
    deserted: list[Identity] = []
    wire, identity = ShortWire(), (7, "there", "run")
    connection = ConfirmedConnection(cast("Wire", wire), "redis://test", identity, deserted=deserted.append)
    failures: dict[int, Exception] = {}

    async def call(number: int) -> None:
        with pytest.raises((NotSent, ConnectionFailed)) as failed:
            await connection.call(COMMAND, 1)
        failures[number] = failed.value

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.call, COMMAND, 1)  # behind which the others join one write
        await anyio.wait_all_tasks_blocked()
        wire.takes = wire.queued + takes
        for number in range(2):
            tasks.start_soon(call, number)
        await anyio.wait_all_tasks_blocked()
        assert wire.queued == WHOLE + len(WAIT) + 2 * WHOLE + len(WAIT)
        wire.inbox.extend([b"OK", 1, *[b"OK"] * replies])
        wire.wake()
        await anyio.wait_all_tasks_blocked()
        assert not failures, "nothing of this write is confirmed"
        connection.fail("torn")
        assert connection.torn is bool(takes), "before its callers have heard of it"
        assert deserted == [identity] * bool(takes)
    assert not connection.torn
    assert len(failures) == 2
    sent = [failure for failure in failures.values() if isinstance(failure, ConnectionFailed)]
    assert len(sent) == min(2, -(-takes // WHOLE)), "the others may be sent elsewhere"
    for failure in sent:
        assert failure.maybe_executed
        assert failure.connections == (identity,)


@pytest.mark.parametrize(
    ("answer", "permanent", "words"),
    [
        ("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)", False, "a failover is under way"),
        ("ERR WAIT cannot be used with replica instances.", False, "a failover is under way"),
        ("NOPERM User hasty has no permissions to run the 'wait' command", True, r"permit it .*\+wait"),
    ],
)
async def test_a_server_that_became_a_replica_is_left_and_one_that_forbids_wait_is_not_asked_again(
    answer: str, permanent: bool, words: str
) -> None:
    """C7: the first passes, with the failover."""
    wire = ShortWire()
    connection = ConfirmedConnection(cast("Wire", wire), "redis://test", (7, "there", "run"))
    async with anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises(ConnectionFailed, match=words) as failed:
                await connection.call(COMMAND, 1)
            assert (failed.value.permanent, failed.value.maybe_executed) == (permanent, True)

        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        wire.inbox.extend([b"OK", ServerError(answer)])
        wire.wake()


@pytest.mark.parametrize(("silence", "milliseconds"), [(math.inf, 1000), (2.0, 1000), (1.0, 500), (0.001, 1), (0.0001, 1)])
async def test_one_replica_has_half_of_the_time_for_which_the_connection_may_be_silent(silence: float, milliseconds: int) -> None:
    """And no more than a second. Zero would be forever."""
    wire = ShortWire()
    connection = ConfirmedConnection(cast("Wire", wire), "redis://test", silence=silence, environment=CALM)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.call, COMMAND, 1)
        await anyio.wait_all_tasks_blocked()
        assert wire.put_last == pack((("WAIT", 1, milliseconds),))
        tasks.cancel_scope.cancel()


async def test_the_only_call_of_a_write_has_heard_of_the_break_once_it_has_left() -> None:
    """E4: what follows need not wait for it any longer."""
    wire = ShortWire()
    connection = ConfirmedConnection(cast("Wire", wire), "redis://test", (7, "there", "run"))
    async with anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises(ConnectionFailed):
                await connection.call(COMMAND, 1)
            assert not connection.torn

        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        wire.inbox.append(b"OK")
        wire.wake()
        await anyio.wait_all_tasks_blocked()
        connection.fail("torn")
        assert connection.torn
