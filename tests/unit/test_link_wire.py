"""The socket of a connection, asked whether something has arrived."""

from __future__ import annotations

import fcntl
import resource
import socket

import pytest

from redisaq.link.wire import RECEIVE_SIZE, Wire

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
