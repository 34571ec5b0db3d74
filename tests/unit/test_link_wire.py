"""The socket of a connection: what it sends, takes and counts, and when it says that something has arrived."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import socket
from collections.abc import Iterator

import anyio
import pytest

from redisaq.link import wire as wire_module
from redisaq.link.resp import NOTHING
from redisaq.link.wire import RECEIVE_SIZE, Inherited, Wire

HIGH = 1500
"""A number that `select` does not know: it ends at 1023."""


@pytest.fixture
def many_files() -> None:
    """Skip where a process may not have so many open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft <= HIGH:
        if hard <= HIGH:
            pytest.skip(f"no process may open {HIGH} files here")
        resource.setrlimit(resource.RLIMIT_NOFILE, (HIGH + 1, hard))


@pytest.mark.usefixtures("many_files")
def test_a_socket_with_a_high_number_is_asked_like_any_other() -> None:
    """A process with many connections has them."""
    near, far = socket.socketpair()
    with near, far, socket.socket(fileno=fcntl.fcntl(near.fileno(), fcntl.F_DUPFD_CLOEXEC, HIGH)) as high:
        wire = Wire(high, bytearray(RECEIVE_SIZE))
        assert not wire.arrived()
        far.send(b"+OK\r\n")
        assert wire.arrived()


@pytest.fixture
def pair() -> Iterator[tuple[Wire, socket.socket]]:
    """A wire, and the other end of its socket."""
    near, far = socket.socketpair()
    with near, far:
        wire = Wire(near, bytearray(RECEIVE_SIZE))
        yield wire, far
        wire.close()


def test_a_wire_counts_what_it_was_given_what_the_system_took_and_what_came(pair: tuple[Wire, socket.socket]) -> None:
    wire, far = pair
    assert wire.flush()
    assert (wire.queued, wire.handed, wire.taken, wire.closed) == (0, 0, 0, False)
    wire.put(b"12345")
    wire.put(b"678")
    assert (wire.queued, wire.handed) == (8, 0)
    assert wire.flush()
    assert (wire.queued, wire.handed) == (8, 8)
    assert far.recv(100) == b"12345678"
    assert not wire.receive()
    assert wire.next_reply() is NOTHING
    far.send(b"+OK\r\n:1")
    assert not wire.receive()
    assert wire.taken == 7
    assert wire.next_reply() == b"OK"
    assert wire.next_reply() is NOTHING


def test_what_the_system_does_not_take_is_sent_later_in_order(pair: tuple[Wire, socket.socket]) -> None:
    wire, far = pair
    data = bytes(range(256)) * 8192
    wire.put(data)
    assert not wire.flush()
    assert 0 < wire.handed < wire.queued == len(data)
    wire.put(b"the rest")
    got = b""
    while not wire.flush():
        got += far.recv(1 << 20)
    assert wire.handed == wire.queued
    far.setblocking(False)
    while len(got) < wire.queued:
        got += far.recv(1 << 20)
    assert got == data + b"the rest"


def test_more_may_be_there_when_as_much_came_as_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "RECEIVE_SIZE", 5)
    near, far = socket.socketpair()
    with near, far:
        wire = Wire(near, bytearray(5))
        far.send(b"+OK\r\n+K\r\n")
        assert [wire.receive(), wire.receive(), wire.receive()] == [True, False, False]
        assert [wire.next_reply(), wire.next_reply()] == [b"OK", b"K"]


def test_asking_whether_something_has_arrived_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[object] = []

    class Poll:
        def register(self, *_: object) -> None:
            """Watch nothing."""

        def poll(self, milliseconds: object) -> list[object]:
            waits.append(milliseconds)
            return []

    monkeypatch.setattr(select, "poll", Poll)
    near, far = socket.socketpair()
    with near, far:
        assert not Wire(near, bytearray(RECEIVE_SIZE)).arrived()
    assert waits == [0]


def test_a_wire_that_was_closed_has_nothing_left_to_send(pair: tuple[Wire, socket.socket]) -> None:
    wire, _ = pair
    wire.put(b"1")
    wire.close()
    assert wire.flush()
    assert wire.handed == 0


@pytest.mark.anyio
async def test_waiting_ends_when_the_wire_is_woken_or_closed_and_fails_when_somebody_else_closes_the_socket() -> None:
    near, far = socket.socketpair()
    with near, far, anyio.fail_after(30):
        wire = Wire(near, bytearray(RECEIVE_SIZE))
        wire.wake()  # nobody waits
        async with anyio.create_task_group() as tasks:
            for end in (wire.wake, lambda: anyio.notify_closing(near), wire.close):
                tasks.start_soon(_wait, wire, end.__name__ == "<lambda>")
                await anyio.wait_all_tasks_blocked()
                end()
                await anyio.wait_all_tasks_blocked()
        assert near.fileno() == -1
        await wire.wait_readable()


@pytest.mark.anyio
async def test_a_wire_that_nobody_waits_for_any_more_is_closed_at_once() -> None:
    near, far = socket.socketpair()
    with near, far, anyio.fail_after(30):
        wire = Wire(near, bytearray(RECEIVE_SIZE))
        far.send(b"+OK\r\n")
        await wire.wait_readable()
        wire.close()
        assert near.fileno() == -1


async def _wait(wire: Wire, strange: bool) -> None:
    try:
        await wire.wait_readable()
    except anyio.ClosedResourceError:
        assert strange
    else:
        assert not strange


def test_a_child_closes_its_copies_of_the_sockets_and_not_what_was_closed_before() -> None:
    inherited = Inherited()
    near, far = socket.socketpair()
    closed = socket.socket()
    descriptor = near.fileno()
    for sock in (closed, near):
        inherited.add(sock)
    closed.close()
    for _ in range(2):
        inherited.forked()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert near.fileno() == -1
    far.close()
