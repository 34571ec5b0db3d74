"""Commands over a server whose replies are written down: what is sent again, what an error becomes, and what is kept of an append."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.redis.administration import drop_topic
from redisaq.brokers.redis.appender import Appender
from redisaq.brokers.redis.commands import (
    ELSEWHERE,
    PASSING,
    checked,
    checked_of,
    is_sealed,
    keys_of,
    milliseconds,
    not_now,
    run,
    run_all,
    run_each,
)
from redisaq.brokers.redis.growing import replicate_run
from redisaq.brokers.redis.keys import Keys, type_of
from redisaq.brokers.redis.leases import fence, kill, open_reader
from redisaq.brokers.redis.producing import written_last
from redisaq.brokers.redis.reader import RedisReader
from redisaq.brokers.redis.retention import KEEPING
from redisaq.brokers.redis.scripts import Script
from redisaq.brokers.redis.settling import SETTLE
from redisaq.brokers.redis.topics import NAME_TOPIC
from redisaq.brokers.steps.administration import DropTopic
from redisaq.brokers.steps.growing import ReplicateRun
from redisaq.brokers.steps.leases import Claim, Fence
from redisaq.brokers.steps.producing import Delay, Delayed
from redisaq.brokers.steps.topics import ReadTopics
from redisaq.brokers.terms import GroupName, ReaderMark
from redisaq.environment import Environment, use_environment
from redisaq.errors import ConnectionFailed, DamagedKeyError, LeaseLostError, ServerError
from redisaq.link import LOGGED_OUT

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns]

KEYS = Keys("ns")
GROUP = GroupName("jobs", "g")
STREAM = b"{ns:jobs:0}:0"
LEASE = b"{ns:jobs:0}:g:g:lease"
WRONG = "WRONGTYPE Operation against a key holding the wrong kind of value"


class Server:
    """A link, and a connection of it, that answers with what is written down, and notes what it is asked."""

    url = "redis://server"
    run_id = "r"
    client_id = 7
    client_address = "a:1"

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.asked: list[tuple[Any, ...]] = []
        self.given_up: list[str] = []
        self.aborted = 0
        self.killed: list[Any] = []

    async def call(self, *commands: Any) -> list[Any]:
        self.asked += commands
        found = [self.replies.pop(0) for _ in commands]
        for one in found:
            if isinstance(one, ConnectionFailed):
                raise one
        return found

    async def call_keyed(self, packed: Sequence[bytes], of: Sequence[Any], key: Callable[[Any], bytes]) -> list[Any]:
        self.asked += [(key(one), text) for one, text in zip(of, packed, strict=True)]
        return [self.replies.pop(0) for _ in packed]

    async def kill(self, connections: Any, key: bytes | None = None) -> list[Any]:
        self.killed.append((connections, key))
        return [self.replies.pop(0) for _ in connections]

    async def open_reading(self, key: bytes) -> Any:
        self.asked.append((b"OPEN", key))
        return self

    async def read(self, command: Any, block: float) -> Any:
        del block
        return (await self.call(command))[0]

    async def listen(self, *channels: str) -> Any:
        self.asked.append(channels)
        raise self.replies.pop(0)

    def give_up(self, reason: str) -> None:
        self.given_up.append(reason)

    def abort(self) -> None:
        self.aborted += 1


def serving(*replies: Any) -> Any:
    return Server(*replies)


# -- errors -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(PASSING))
def test_what_passes_counts_as_a_failed_connection(code: str) -> None:
    """C1: the caller tries again, over a new connection if that helps."""
    server = serving()
    error = ServerError(f"{code} for now")
    with pytest.raises(ConnectionFailed) as caught:
        checked(error, server)
    assert caught.value.__cause__ is error
    assert f"({code} for now)" in str(caught.value)
    assert server.given_up == ([f"{code} for now"] if code in ELSEWHERE else [])
    assert caught.value.of_node is error.redirect
    assert ("wants a log-in again" in str(caught.value)) is (code in LOGGED_OUT)


def test_other_errors_are_raised_as_they_are() -> None:
    error = ServerError("OOM no memory")
    with pytest.raises(ServerError) as caught:
        checked(error, serving())
    assert caught.value is error
    assert checked(b"reply", serving()) == b"reply"


@pytest.mark.parametrize(("url", "hint"), [("redis://h", True), ("redis+cluster://h", False), ("rediss+cluster://h", False)])
def test_the_hint_at_a_cluster_is_for_who_does_not_know_of_it(url: str, hint: bool) -> None:
    server = serving()
    server.url = url
    assert ("begin the URL with redis+cluster://" in str(not_now(ServerError("MOVED 1 h:2"), server))) is hint
    assert "begin the URL" not in str(not_now(ServerError("BUSY"), server))


def test_the_keys_of_a_command() -> None:
    assert keys_of(SETTLE(STREAM, LEASE, "g", 7, b"1:2")) == [STREAM, LEASE]
    assert keys_of(NAME_TOPIC(b"ns:topics", b"{a:b}")) == [b"ns:topics"]
    assert keys_of((b"GET", STREAM)) == [STREAM]
    assert keys_of((b"XINFO", b"STREAM", STREAM)) == [STREAM]
    assert keys_of((b"SET", STREAM, LEASE)) == [STREAM]
    assert keys_of((b"XREVRANGE", STREAM, b"(7-1", b"a:b")) == [STREAM]
    assert keys_of((b"SCAN", b"0", b"MATCH", b"{ns:jobs:*")) == []


async def test_a_key_of_the_wrong_type_is_named() -> None:
    """The server's own error does not name it. One that is missing has no wrong type."""
    command = SETTLE(STREAM, LEASE, "g", 7)
    for types, key, what in (
        ((b"string", b"hash"), STREAM, "is a string, and should be a stream: delete or rename it"),
        ((b"stream", b"list"), LEASE, "is a list, and should be a hash: delete or rename it"),
        ((b"none", b"set"), LEASE, "is a set, and should be a hash: delete or rename it"),
    ):
        server = serving(*types)
        with pytest.raises(DamagedKeyError) as caught:
            await checked_of(command, ServerError(WRONG), server)
        assert (caught.value.key, caught.value.code) == (key.decode(), "WRONGTYPE")
        assert str(caught.value).endswith(what)
        assert server.asked == [(b"TYPE", STREAM), (b"TYPE", LEASE)]
    error = ServerError(WRONG)
    with pytest.raises(ServerError) as other:
        await checked_of(command, error, serving(b"none", b"hash"))
    assert other.value is error, "no key has a wrong type any more"


async def test_a_key_of_the_wrong_type_that_nobody_may_look_at() -> None:
    forbidden = ServerError("NOPERM this user has no permissions to run the 'type' command")
    with pytest.raises(DamagedKeyError) as caught:
        await checked_of(SETTLE(STREAM, LEASE, "g", 7), ServerError(WRONG), serving(forbidden, forbidden))
    assert caught.value.key == STREAM.decode()
    assert str(caught.value).endswith(f"or one of {LEASE.decode()} is of the wrong type: permit TYPE to learn which one")
    with pytest.raises(DamagedKeyError) as caught:
        await checked_of((b"GET", STREAM), ServerError(WRONG), serving(forbidden))
    assert (caught.value.key, caught.value.code) == (STREAM.decode(), "WRONGTYPE")
    assert str(caught.value).endswith("is of the wrong type, and should be a stream: delete or rename it")
    error = ServerError(WRONG)
    with pytest.raises(ServerError) as other:
        await checked_of((b"GET", STREAM), error, serving(ServerError("ERR something else")))
    assert other.value is error


def test_the_types_of_keys() -> None:
    names = {
        b"{ns:jobs}:meta": b"hash",
        b"{ns:jobs:0}:1": b"stream",
        b"{ns:jobs:0}:once:x": b"string",
        b"{ns:jobs:0}:delayed": b"zset",
        b"ns:topics": b"set",
    }
    assert {name: type_of(name) for name in names} == names


async def test_whether_a_seal_is_under_a_name() -> None:
    """G2; if the server cannot be asked, the next step finds out."""
    for reply, sealed in (
        (b"2,5", True),
        (b"junk", False),
        (None, False),
        (ServerError("LOADING"), True),
        (ServerError(WRONG), False),
        (ConnectionFailed("redis://server", "gone"), True),
    ):
        server = serving(reply)
        assert await is_sealed(server, STREAM) is sealed, reply
        assert server.asked == [(b"GET", STREAM)]


def test_times_are_rounded_up() -> None:
    """No lease ends, and nothing is trimmed, too early."""
    assert [milliseconds(seconds) for seconds in (0.0, 0.0001, 1.0, 1.0001)] == [0, 1, 1000, 1001]


# -- scripts ----------------------------------------------------------------------------------------------------------------------------


async def test_only_scripts_that_the_server_does_not_know_are_sent_again() -> None:
    unknown = ServerError("NOSCRIPT No matching script")
    known, other = KEEPING(STREAM, LEASE, b"x", "g"), SETTLE(STREAM, LEASE, "g", 7)
    server = serving(b"1", unknown, b"3", b"2")
    assert await run_all(server, (known, other, known)) == [b"1", b"2", b"3"]
    assert server.asked[:3] == [known, other, known]
    ((name, text, *rest),) = server.asked[3:]
    assert (name, rest) == (b"EVAL", list(other[2:]))
    assert b"moved_over" in text
    assert await run(serving(b"1"), known) == b"1"
    server = serving(b"1", b"2")
    assert await run_each(server, (known, known)) == [b"1", b"2"]
    with pytest.raises(ServerError, match="OOM"):
        await run_each(serving(b"1", ServerError("OOM")), (known, known))


def test_scripts_are_named_where_their_hash_is_good_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers name them by SHA-1, which some machines forbid for what is to be secure."""
    sha1 = hashlib.sha1

    def strict(data: bytes, *, usedforsecurity: bool = True) -> Any:
        assert not usedforsecurity
        return sha1(data, usedforsecurity=False)

    monkeypatch.setattr(hashlib, "sha1", strict)
    assert Script("settle", keys=2) == SETTLE


# -- deleting ---------------------------------------------------------------------------------------------------------------------------


class Nodes(Server):
    """A link to several nodes, each with pages of keys for each look at it."""

    def __init__(self, *nodes: list[list[list[bytes]]]) -> None:
        super().__init__()
        self._nodes = [Node(rounds) for rounds in nodes]

    async def nodes(self) -> Sequence[Any]:
        return self._nodes

    async def call(self, *commands: Any) -> list[Any]:
        self.asked += commands
        return [1] * len(commands)

    @property
    def looks(self) -> list[int]:
        return [len(node.asked) for node in self._nodes]


class Node(Server):
    """One node; see above. After the last look at it, it shows the last pages again."""

    def __init__(self, rounds: list[list[list[bytes]]]) -> None:
        super().__init__()
        self.rounds = rounds

    async def call(self, *commands: Any) -> list[Any]:
        (command,) = commands
        self.asked.append(command)
        at = int(command[1])
        pages = self.rounds[0]
        last = at + 1 == len(pages)
        if last and len(self.rounds) > 1:
            self.rounds.pop(0)
        return [[b"%d" % (0 if last else at + 1), pages[at]]]


HISTORY = b"{ns:jobs}:g:g:history"


async def test_a_deleted_topic_leaves_nothing_and_its_histories_last() -> None:
    """They show the deletion that is under way; and the count goes after all that is looked for."""
    link: Any = Nodes([[[STREAM, HISTORY], [b"{ns:other:0}:0"], [LEASE]]])
    await drop_topic(DropTopic("jobs"), link, KEYS)
    assert link.asked == [
        (b"UNLINK", STREAM),
        (b"UNLINK", LEASE),
        (b"UNLINK", HISTORY),
        (b"SREM", b"ns:topics", "jobs"),
        (b"UNLINK", b"{ns:jobs}:meta"),
        (b"SPUBLISH", b"{ns:jobs}", b""),
    ]
    assert link.looks == [3], "a single server is looked through once"
    (node,) = await link.nodes()
    assert [(command[1], command[-1]) for command in node.asked] == [(b"0", 1000), (b"1", 1000), (b"2", 1000)]


async def test_of_several_servers_all_are_looked_through_until_nothing_is_found() -> None:
    """A slot may move from one to the other meanwhile; but not forever."""
    link: Any = Nodes([[[STREAM]], [[]], [[]]], [[[]], [[LEASE]], [[]]])
    await drop_topic(DropTopic("jobs"), link, KEYS)
    assert link.looks == [3, 3]
    endless: Any = Nodes([[[STREAM]]], [[[]]])
    await drop_topic(DropTopic("jobs"), endless, KEYS)
    assert endless.looks == [10, 10]
    assert endless.asked[-1][0] == b"SPUBLISH"


# -- appends ----------------------------------------------------------------------------------------------------------------------------

FIELDS = [b"i", b"m", b"d", b"1%"]


def packed(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


async def test_what_an_append_sends() -> None:
    """E5: to streams that exist only; however many words a message has, and however it trims."""
    server = serving(*[b"7-1"] * 8)
    append = Appender(server, KEYS).append
    assert await append("jobs", [], maxlen=None, approximate=False) == []
    for maxlen, approximate, cuts, trimming, name in (
        (None, True, 0, (), b"0"),
        (9, True, 0, (b"MAXLEN", b"~", b"9"), b"0"),
        (9, False, 2, (b"MAXLEN", b"=", b"9"), b"2"),
    ):
        entries = [(1, FIELDS), (0, [b"i", b"m"])]
        assert await append("jobs", entries, maxlen=maxlen, approximate=approximate, cuts=cuts) == [b"7-1"] * 2
        keys = [b"{ns:jobs:%d}:%b" % (partition, name) for partition in (1, 0)]
        assert server.asked[-2:] == [
            (keys[0], packed(b"XADD", keys[0], b"NOMKSTREAM", *trimming, b"*", *FIELDS)),
            (keys[1], packed(b"XADD", keys[1], b"NOMKSTREAM", *trimming, b"*", b"i", b"m")),
        ]
    assert await append("jobs", [(0, FIELDS)], maxlen=None, approximate=False) == [b"7-1"]
    assert server.asked[-1][0] == STREAM, "the usual name is the one before any cut"


async def append_to(*replies: Any, partitions: Sequence[int]) -> list[bytes | None]:
    return await Appender(serving(*replies), KEYS).append(
        "jobs", [(partition, FIELDS) for partition in partitions], maxlen=None, approximate=False
    )


async def test_of_several_appends_some_were_refused() -> None:
    """E6: to streams that were cut since, nothing was appended; the first refusal that does not pass is raised, with what was."""
    wrong, full, busy = ServerError(WRONG), ServerError("OOM no memory"), ServerError("BUSY a script runs")
    sealed = b"2,5"
    assert await append_to(b"1-1", wrong, wrong, None, sealed, partitions=[0, 1, 1, 2]) == [b"1-1", None, None, None]
    with pytest.raises(ServerError, match="OOM") as caught:
        await append_to(busy, b"1-1", full, wrong, None, sealed, partitions=[0, 1, 2, 3, 4])
    assert type(caught.value) is ServerError
    assert caught.value.appended == [None, b"1-1", None, None, None]
    with pytest.raises(DamagedKeyError) as damaged:
        await append_to(b"1-1", wrong, wrong, sealed, b"junk", partitions=[0, 1, 2])
    assert damaged.value.key == "{ns:jobs:2}:0"
    assert damaged.value.appended == [b"1-1", None, None]


async def test_of_several_appends_some_were_refused_for_a_while() -> None:
    """C3: who appends again needs to know of those that were not refused."""
    busy, loading = ServerError("BUSY a script runs"), ServerError("LOADING")
    with pytest.raises(ConnectionFailed, match="BUSY") as caught:
        await append_to(busy, None, loading, partitions=[0, 1, 2])
    assert caught.value.appended is None
    with pytest.raises(ConnectionFailed, match="BUSY") as caught:
        await append_to(b"1-1", busy, partitions=[0, 1])
    assert caught.value.appended == [b"1-1", None]


# -- steps ------------------------------------------------------------------------------------------------------------------------------


async def test_a_delay_for_a_stream_that_was_cut_since_is_refused() -> None:
    """E6, G8: it names the stream as it was; another kind of key under that name is damage."""
    step = Delay("jobs", 0, [Delayed(0, b"m", 9, [b"i", b"m"])])
    wrong = ServerError(WRONG)
    types = [b"string", b"zset", b"hash"]
    assert await RedisBroker(serving(wrong, *types, b"2,5"), "ns").do(step) is False
    with pytest.raises(DamagedKeyError):
        await RedisBroker(serving(wrong, *types, b"junk"), "ns").do(step)


async def test_a_step_is_sent_again_where_the_topic_was_deleted_meanwhile() -> None:
    """Then no key has a wrong type any more."""
    server = serving(ServerError(WRONG), b"none", b"none", [[], [], None])
    page = await RedisBroker(server, "ns").do(Claim(GROUP, 0, 7, b"", 5))
    assert (page.entries, page.last) == ((), None)
    assert server.asked[0] == server.asked[-1]


async def test_the_answer_that_the_group_is_gone_is_an_answer() -> None:
    page = await RedisBroker(serving(ServerError("NOGROUP No such key")), "ns").do(Claim(GROUP, 0, 7, b"", 5))
    assert page.entries == ()
    with pytest.raises(LeaseLostError):
        await RedisBroker(serving(None), "ns").do(Claim(GROUP, 0, 7, b"", 5))


async def test_a_step_without_a_place_of_a_wrong_type() -> None:
    with pytest.raises(DamagedKeyError, match="ns:topics"):
        await RedisBroker(serving(ServerError(WRONG), b"string"), "ns").do(ReadTopics())


async def test_who_may_not_listen_just_now_tries_again() -> None:
    with pytest.raises(ConnectionFailed):
        await RedisBroker(serving(ServerError("LOADING")), "ns").listen(GROUP)
    forbidden = ServerError("NOPERM no channel")
    server = serving(forbidden)
    with pytest.raises(ServerError) as caught:
        await RedisBroker(server, "ns").listen_partition("jobs", 3)
    assert caught.value is forbidden
    assert server.asked == [("{ns:jobs:3}",)]


# -- readers ----------------------------------------------------------------------------------------------------------------------------

MARKS = (ReaderMark(7, "a:1", "r"), ReaderMark(8, "b:1", "r"))


async def test_readers_are_killed_before_they_leave_the_list() -> None:
    """T3, T4: if that is not permitted, they stay, since they may still read."""
    step = Fence(GROUP, 0, 9, MARKS)
    server = serving(1, 0, b"OK")
    assert await fence(step, server, KEYS)
    assert server.killed == [([(7, "a:1", "r"), (8, "b:1", "r")], LEASE)]
    assert server.asked[0][3:] == (LEASE, 9, "reader:7:r", "reader:8:r")
    server = serving(1, ServerError("NOPERM this user has no permissions to run the 'client|kill' command"))
    assert not await fence(step, server, KEYS)
    assert server.asked == []
    server = serving()
    assert await fence(Fence(GROUP, 0, 9, ()), server, KEYS)
    assert server.killed == []


async def test_a_kill_that_the_server_cannot_do_now_is_tried_again() -> None:
    with pytest.raises(ConnectionFailed):
        await kill(serving(ServerError("LOADING")), MARKS[:1])


async def test_a_reader_that_is_not_registered_reads_nothing() -> None:
    """T3: whatever kept it from being so, its connection is gone."""

    async def settle() -> None:
        """Do nothing."""

    server = serving(0)
    with pytest.raises(LeaseLostError):
        await open_reader(server, KEYS, GROUP, 0, token=9, incarnation="A", settle=settle)
    assert server.aborted == 1
    assert server.asked[0] == (b"OPEN", LEASE)
    assert server.asked[1][3:] == (LEASE, 9, "A", "reader:7:r", "a:1")
    server = serving(ServerError("OOM"))
    with pytest.raises(ServerError, match="OOM"):
        await open_reader(server, KEYS, GROUP, 0, token=9, incarnation="A", settle=settle)
    assert server.aborted == 1
    server = serving(1)
    reader = await open_reader(server, KEYS, GROUP, 0, token=9, incarnation="A", settle=settle)
    assert (reader.mark, server.aborted) == (MARKS[0], 0)


class Connection(Server):
    """A reading connection on which nothing is under way."""

    leftover = None
    ahead = False


@pytest.mark.parametrize(("block", "words"), [(0.0, ()), (0.0001, (b"BLOCK", 1)), (0.0029, (b"BLOCK", 2)), (1.5, (b"BLOCK", 1500))])
async def test_how_long_a_read_waits_at_the_server(block: float, words: tuple[Any, ...]) -> None:
    """BLOCK 0 would wait forever."""

    async def settle() -> None:
        """Do nothing."""

    connection: Any = Connection(None)
    assert await RedisReader(connection, MARKS[0], lambda: STREAM, settle, "g").read(5, block) == []
    assert connection.asked == [(b"XREADGROUP", b"GROUP", b"g", b"owner", b"COUNT", 5, *words, b"STREAMS", STREAM, b">")]


# -- replicas ---------------------------------------------------------------------------------------------------------------------------

REPLICATED, ALONE = b"connected_slaves:1\r\n", b"connected_slaves:0\r\n"
NO_WAIT = ServerError("NOPERM this user has no permissions to run the 'wait' command")


@pytest.mark.parametrize(
    ("run", "replies", "answer", "asked"),
    [
        ("another", [], None, []),
        ("r", [ALONE], True, [b"INFO"]),
        ("r", [REPLICATED, b"OK", 1], True, [b"INFO", b"EVALSHA", b"WAIT"]),
        ("r", [REPLICATED, b"OK", 0], False, [b"INFO", b"EVALSHA", b"WAIT"]),
        ("r", [REPLICATED, b"OK", NO_WAIT], True, [b"INFO", b"EVALSHA", b"WAIT"]),
    ],
)
async def test_a_replica_of_the_run_that_has_it_is_waited_for(
    run: str, replies: list[Any], answer: bool | None, asked: list[bytes]
) -> None:
    """G8: of no other run; and where nobody may wait, or there is nobody to wait for, it goes on. No connection is left."""
    server = serving(*replies)
    with use_environment(Environment(monotonic=lambda: 7.0)):
        assert await replicate_run(ReplicateRun("jobs", 3, run, 0.0), server, KEYS) is answer
    assert server.asked[0] == (b"OPEN", b"{ns:jobs:3}:0")
    assert [command[0] for command in server.asked[1:]] == asked
    assert server.aborted == 1
    if b"EVALSHA" in asked:
        assert server.asked[2] == written_last(KEYS, "jobs", 3)
    if b"WAIT" in asked:
        assert server.asked[3] == (b"WAIT", 1, 1)


async def test_a_server_that_has_become_a_replica_confirms_nothing() -> None:
    server = serving(REPLICATED, b"OK", ServerError("ERR WAIT cannot be used with replica instances"))
    with pytest.raises(ConnectionFailed):
        await replicate_run(ReplicateRun("jobs", 3, "r", 9.0), server, KEYS)
    assert server.aborted == 1
    server = serving(REPLICATED, ServerError("OOM"))
    with pytest.raises(ServerError, match="OOM"):
        await replicate_run(ReplicateRun("jobs", 3, "r", 9.0), server, KEYS)
    assert server.aborted == 1
