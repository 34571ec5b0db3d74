"""Logging in, decided on what a server answers: which versions will do, what is asked, and what passes. Without a server."""

from __future__ import annotations

from typing import Any, cast

import anyio
import pytest

from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link.address import Address
from redisaq.link.greeting import Greeting, greet
from redisaq.link.line import Line

Replies = dict[str, object]
RUN = "a" * 40


def server(info: str = "redis_version:7.2.4", **more: object) -> Replies:
    """Return what a server answers, by the first word of each question."""
    usual: Replies = {
        "HELLO": {b"server": b"redis", b"version": b"7.2.4", b"proto": 3, b"id": 7},
        "INFO": f"# Server\r\n{info}\r\nrun_id:{RUN}\r\nmaxmemory_policy:noeviction\r\nrole:slave\r\n".encode(),
        "PING": b"PONG",
        "SELECT": b"OK",
        "CLIENT": b"id=7 addr=[::1]:5 laddr=[::1]:6379 fd=8 name=redisaq",
    }
    return usual | more


class Asked:
    """A line on which a server answers like this."""

    def __init__(self, replies: Replies) -> None:
        self.replies = replies
        self.commands: list[tuple[object, ...]] = []

    async def ask(self, *commands: tuple[object, ...]) -> list[object]:
        self.commands += commands
        return [self.replies[str(command[0])] for command in commands]


def greeted(line: Asked, address: Address | None = None) -> Greeting:
    async def main() -> Greeting:
        return await greet(cast("Line", line), address or Address(), "name")

    return anyio.run(main)


def refused(replies: Replies) -> ConnectionFailed:
    with pytest.raises(ConnectionFailed) as caught:
        greeted(Asked(replies))
    return caught.value


def test_what_is_asked_and_what_is_learned() -> None:
    line = Asked(server())
    greeting = greeted(line, Address(database=3))
    assert greeting == Greeting(7, "[::1]:5", RUN, eviction="noeviction", role="slave")
    assert line.commands == [
        ("HELLO", "3", "SETNAME", "name"),
        ("INFO", "server", "memory", "replication"),
        ("PING",),
        ("SELECT", 3),
        ("CLIENT", "INFO"),
    ]


@pytest.mark.parametrize(
    ("address", "login"),
    [
        (Address(username="me"), ("AUTH", "me", "")),
        (Address(password="pw"), ("AUTH", "default", "pw")),  # noqa: S106
        (Address(username="me", password="pw"), ("AUTH", "me", "pw")),  # noqa: S106
    ],
)
def test_a_user_or_a_password_is_enough_to_log_in(address: Address, login: tuple[str, ...]) -> None:
    line = Asked(server())
    greeted(line, address)
    assert line.commands[0] == ("HELLO", "3", *login, "SETNAME", "name")


@pytest.mark.parametrize(
    ("info", "too_old"),
    [
        ("redis_version:7.0", ""),
        ("redis_version:7.0.0", ""),
        ("redis_version:6.9.9", "Redis 6.9.9"),
        ("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.2", ""),
        ("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.2.0", ""),
        ("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.1.9", "Valkey 7.1.9"),
        ("redis_version:7.2.4\r\nvalkey_version:7.1.9", "Valkey 7.1.9"),
        ("redis_version:7.1.0\r\nserver_name:valkey", "Valkey 7.1.0"),
    ],
)
def test_the_oldest_versions_that_will_do(info: str, too_old: str) -> None:
    if not too_old:
        greeted(Asked(server(info)))
        return
    error = refused(server(info))
    assert f"the server is {too_old}, but redisaq needs at least Redis 7.0 or Valkey 7.2" in error.reason
    assert error.permanent


@pytest.mark.parametrize(("version", "words"), [("7.0", "renamed"), ("6.9", "older than 6.0")])
def test_a_server_without_hello_is_too_old_unless_it_says_otherwise(version: str, words: str) -> None:
    error = refused(server(f"redis_version:{version}", HELLO=ServerError("ERR unknown command 'HELLO'")))
    assert words in error.reason
    assert error.permanent


def test_a_server_that_loads_its_data_and_does_not_say_its_version_is_not_too_old() -> None:
    error = refused(server(HELLO={b"server": b"redis", b"id": 7}, INFO=ServerError("LOADING Redis is loading the dataset in memory")))
    assert "not ready" in error.reason
    assert not error.permanent


@pytest.mark.parametrize("code", ["NOPERM", "MISCONF"])
def test_who_may_not_ping_may_read_all_the_same(code: str) -> None:
    assert greeted(Asked(server(PING=ServerError(f"{code} no")))).client_id == 7


def test_what_a_server_does_not_say_of_a_connection_is_left_out() -> None:
    """Nobody else's connection is taken for it."""
    replies = server(HELLO={b"server": b"redis", b"version": b"7.2.4"}, CLIENT=ServerError("NOPERM no"))
    greeting = greeted(Asked(replies))
    assert (greeting.client_id, greeting.client_address) == (0, "")


@pytest.mark.parametrize(
    ("more", "words", "permanent"),
    [
        ({"HELLO": {b"server": b"redis", b"version": b"7.2.4", b"mode": b"sentinel"}}, "this is a sentinel", True),
        ({"HELLO": {b"version": b"7.2.4", b"mode": b"cluster"}, "CLUSTER": b"cluster_size:2\r\n"}, "this is a node of a cluster", True),
        ({"SELECT": ServerError("ERR DB index is out of range")}, "database 0 does not exist", True),
        ({"HELLO": ServerError("ERR max number of clients reached")}, "refused the connection", False),
        ({"HELLO": ServerError("NOAUTH Authentication required.")}, "asks for a password", True),
        ({"HELLO": ServerError("WRONGPASS invalid username-password pair")}, "wrong user name or password for the default user", True),
    ],
)
def test_what_another_attempt_cannot_help(more: dict[str, Any], words: str, permanent: bool) -> None:
    error = refused(server(**more))
    assert words in error.reason
    assert error.permanent == permanent


@pytest.mark.parametrize("size", [b"cluster_size:1\r\n", b"cluster_size:0\r\n", ServerError("NOPERM no")])
def test_a_node_that_has_all_slots_is_as_good_as_a_single_server(size: object) -> None:
    assert greeted(Asked(server(HELLO={b"version": b"7.2.4", b"mode": b"cluster", b"id": 7}, CLUSTER=size))).client_id == 7
