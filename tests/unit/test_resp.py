"""Commands and replies on the wire, and the key by which a command finds its server."""

from __future__ import annotations

from typing import Any, cast

import pytest

from redisaq.errors import ServerError, ServerFull
from redisaq.link.caller import InOrder, key_of
from redisaq.link.resp import NOTHING, Command, make_parser, pack, push_kind


def parsed(data: bytes) -> list[object]:
    parser = make_parser(1000)
    parser.feed(data, 0, len(data))
    replies = list[object]()
    while (reply := parser.gets()) is not NOTHING:
        replies.append(reply)
    return replies


def test_any_sequence_is_a_command() -> None:
    packed = b"*2\r\n$4\r\nECHO\r\n$1\r\n1\r\n"
    assert pack([("ECHO", 1), [b"ECHO", "1"]]) == packed * 2
    assert pack([]) == b""


def test_a_parser_keeps_its_memory_for_the_next_reply() -> None:
    parser: Any = make_parser(123_456)
    assert parser.getmaxbuf() == 123_456


def test_a_server_that_is_full_is_another_error_than_a_refusal() -> None:
    full, other = parsed(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n-OOMPH what\r\n")
    assert isinstance(full, ServerFull)
    assert isinstance(other, ServerError)
    assert not isinstance(other, ServerFull)


def test_pushed_messages_have_a_kind_and_replies_have_none() -> None:
    items = parsed(b">2\r\n+message\r\n+x\r\n>0\r\n*1\r\n+message\r\n+OK\r\n%1\r\n+a\r\n:1\r\n")
    assert [push_kind(item) for item in items] == [b"message", None, None, None, None]


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ((b"XADD", b"s", b"*"), b"s"),
        (("XADD", "s", "*"), b"s"),
        ((b"EVALSHA", b"sha", 2, b"k", b"j"), b"k"),
        ((b"EVAL", b"return 1", 1, b"k", b"arg"), b"k"),
        ((b"XINFO", b"STREAM", b"s", b"FULL"), b"s"),
        ((b"GET", "clé"), "clé".encode()),
        ((b"GET", 7, 8), b"7"),
    ],
)
def test_the_key_by_which_a_command_is_routed(command: Command, key: bytes) -> None:
    assert key_of(command) == key


def test_who_gives_up_a_carrier_of_commands_in_order_gives_up_the_connection() -> None:
    reasons: list[str] = []

    class Caller:
        url = "redis://host"

        def give_up(self, reason: str) -> None:
            reasons.append(reason)

    carrier = InOrder(cast("Any", Caller()))
    carrier.give_up("for a reason")
    assert (carrier.url, reasons) == ("redis://host", ["for a reason"])
