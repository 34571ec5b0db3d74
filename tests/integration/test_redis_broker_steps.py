"""The Redis broker's own ways: which keys it uses, how scripts reach a server, that each step is one trip to one slot.

What its methods mean stands in tests/conformance; here is only what no other broker has.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from importlib.resources import files
from typing import Any

import anyio
import hiredis
import pytest

from redisaq.brokers.growth import make_or_grow
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.redis.appender import _Targets
from redisaq.brokers.redis.commands import run_all
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.leases import INSTALL
from redisaq.brokers.redis.scripts import SCRIPTS
from redisaq.brokers.redis.settling import SETTLE
from redisaq.brokers.steps.administration import Seek, ViewGroup, ViewPartition
from redisaq.brokers.steps.coordination import Heartbeat, make_groups
from redisaq.brokers.steps.leases import Claim, Fence, Install, Release, RemakeGroup, SetDeliveries
from redisaq.brokers.steps.producing import ReadBacklog
from redisaq.brokers.steps.settling import Acknowledge, ReadRemaining
from redisaq.brokers.steps.topics import MakeTopic, ReadTopic, ReadTopics
from redisaq.brokers.terms import GroupName
from redisaq.core.membership import Document
from redisaq.core.profile import Profile
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link import Command, Link, key_of, parse_address
from tests.conformance.steps import commit_document
from tests.integration.delivery_steps import KEYS, Step, exercise_delivery, steps as delivery_steps
from tests.link_fake import FakeServer, usual_answers
from tests.server_fixtures import KeyLeaks, ServerPool
from tests.servers import Server, free_port

pytestmark = pytest.mark.anyio

GROUP = GroupName("orders", "billing")
TOKEN = 1_700_000_000_123_457


@pytest.fixture
def link(server: Server) -> Link:
    """A link of the broker's own."""
    return Link(parse_address(server.url))


@pytest.fixture
async def broker(link: Link, namespace: str, server: Server) -> AsyncIterator[RedisBroker]:
    """A connected broker; its namespace is emptied afterwards."""
    broker = RedisBroker(link, namespace)
    await broker.connect()
    yield broker
    await broker.close()
    keys = server.command("KEYS", f"*{namespace}:*")
    if keys:
        server.command("DEL", *keys)


async def test_what_members_said_of_themselves_does_not_pile_up(broker: RedisBroker, server: Server, namespace: str) -> None:
    """A member of an older version drops another and leaves what that one said: who joins later clears it. Damage counts as nothing."""
    profile = Profile("anna")
    made = await commit_document(broker, GROUP, "A", 60.0, known_version="", document=Document(), joins=True, profile=profile)
    assert made is not None
    state = f"{{{namespace}:orders}}:g:billing:state"
    server.command("HSET", state, *(word for number in range(40) for word in (f"member:{number}", "7 {}")), "paused", "1")
    made = await commit_document(broker, GROUP, "B", 60.0, known_version=made, document=Document(), joins=True, profile=profile)
    assert made is not None
    kept = {field for field in server.command("HKEYS", state) if field.startswith(b"member:")}
    assert kept == {b"member:A", b"member:B"}
    for damaged in ("", "x {}", "7 [", "7 " + "{" * 9, "-7 {}", "7" * 30 + " {}"):
        server.command("HSET", state, "member:B", damaged)
        assert list((await broker.do(ViewGroup(GROUP))).presences) == ["A"], damaged
    assert (await broker.do(ViewGroup(GROUP))).paused
    assert await commit_document(broker, GROUP, "B", 60.0, known_version=made, document=Document(), leaves=True, expired=["A"]) is None
    made = await commit_document(broker, GROUP, "B", 60.0, known_version=made, document=Document(), leaves=True)
    assert made is not None
    assert not server.command("HEXISTS", state, "member:B")


async def exercise(broker: RedisBroker) -> None:
    """Do every step of the protocol once or twice."""
    await broker.do(MakeTopic("orders", 2))
    await make_or_grow(broker, "orders", 3)
    assert await broker.do(ReadTopics()) == ["orders"]
    assert await broker.do(ReadTopic("orders")) is not None
    await make_groups(broker, GROUP, [0, 1, 2], latest=False)
    doorbell = await broker.listen(GROUP)
    version = await commit_document(broker, GROUP, "A", 60, known_version="", document=Document(epoch=1), joins=True)
    assert version is not None
    assert (await broker.do(Heartbeat(GROUP, "A", 60, version))).alive
    with anyio.fail_after(30):
        await doorbell.wait()
    await doorbell.close()
    for partition in range(3):
        assert (await broker.do(Install(GROUP, partition, TOKEN, "A", foreign=False))).done
    reader = await broker.open_reader(GROUP, 1, TOKEN, "A")
    await broker.append("orders", [(number % 3, [b"i", b"%d" % number]) for number in range(30)], maxlen=1000, approximate=True, cuts=1)
    entries = await reader.read(4, 0)
    page = await broker.do(Claim(GROUP, 1, TOKEN, after=b"", count=3))
    assert len(page.entries) == 3
    assert page.last == page.entries[-1].entry_id
    assert await broker.do(SetDeliveries(GROUP, 1, TOKEN, {entries[0][0]: 3}))
    settled = await broker.do_each(
        [Acknowledge(GROUP, 1, TOKEN, [entry_id for entry_id, _ in entries]), Acknowledge(GROUP, 2, TOKEN, [b"1-1"])]
    )
    assert [one.done for one in settled] == [True, True]
    assert [one.unread for one in await broker.do_each([ReadRemaining(GROUP, 0), ReadRemaining(GROUP, 1), ReadRemaining(GROUP, 2)])] == [
        True,
        True,
        True,
    ]
    await broker.do(RemakeGroup(GROUP, 1, b""))
    await exercise_delivery(broker, TOKEN)
    await reader.close()
    assert await broker.do(Fence(GROUP, 1, TOKEN, [reader.mark]))
    assert await broker.do(Release(GROUP, 1, TOKEN))


# -- keys -----------------------------------------------------------------------------------------------------------------------------


def test_the_names_of_keys() -> None:
    keys = Keys("ns")
    group, partition = keys.group(GroupName("T", "G")), keys.of_partition(GroupName("T", "G"), 7)
    assert [keys.topics, keys.meta("T"), group.meta] == [b"ns:topics", b"{ns:T}:meta", b"{ns:T}:meta"]
    assert [group.members, group.state] == [b"{ns:T}:g:G:members", b"{ns:T}:g:G:state"]
    assert [group.doorbell, group.topic_doorbell, keys.topic_doorbell("T")] == [b"{ns:T}:g:G", b"{ns:T}", b"{ns:T}"]
    assert [keys.stream("T", 7), keys.stream("T", 7, 2), partition.stream] == [b"{ns:T:7}:0", b"{ns:T:7}:2", b"{ns:T:7}:0"]
    assert [partition.lease, partition.dead] == [b"{ns:T:7}:g:G:lease", b"{ns:T:7}:g:G:dead"]
    assert [partition.retry, partition.retry_bodies] == [b"{ns:T:7}:g:G:retry", b"{ns:T:7}:g:G:retry:body"]
    assert [keys.delayed("T", 7), keys.delayed_bodies("T", 7)] == [b"{ns:T:7}:delayed", b"{ns:T:7}:delayed:body"]
    assert [keys.partition_doorbell("T", 7), keys.once("T", 7, "x")] == [b"{ns:T:7}", b"{ns:T:7}:once:x"]


async def test_no_other_keys_are_made(broker: RedisBroker, key_leaks: KeyLeaks) -> None:
    await exercise(broker)
    partitions = [f"orders:{number}:{name}" for number in range(3) for name in ("0", "1", "cuts", "g:billing:lease")]
    assert key_leaks.left() == sorted([*partitions, *KEYS, "orders:g:billing:members", "orders:g:billing:state", "orders:meta", "topics"])
    key_leaks.allow("*")


async def test_a_release_leaves_only_the_token(broker: RedisBroker, server: Server, namespace: str) -> None:
    """M8, T3."""
    await exercise(broker)
    await broker.do(Install(GROUP, 1, TOKEN + 1, "B", foreign=False))
    reader = await broker.open_reader(GROUP, 1, TOKEN + 1, "B")
    lease = f"{{{namespace}:orders:1}}:g:billing:lease"
    assert server.command("HLEN", lease) == 3
    await reader.close()
    await broker.do(Release(GROUP, 1, TOKEN + 1))
    assert server.command("HGETALL", lease) == [b"token", str(TOKEN + 1).encode()]


@pytest.fixture(scope="session")
def clusters(server_pool: ServerPool) -> Iterator[dict[str, Server]]:
    """Clusters of one node, by kind, as they are asked for."""
    started: dict[str, Server] = {}
    yield started
    for node in started.values():
        node.close()


@pytest.fixture
def cluster(clusters: dict[str, Server], server_pool: ServerPool, server: Server) -> Server:
    """A cluster of one node, which refuses commands and scripts whose keys are not in one slot."""
    if server.kind not in clusters:
        node = server_pool.new(server.kind, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
        clusters[server.kind] = node
        node.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        limit = time.monotonic() + 20
        while b"cluster_state:ok" not in node.command("CLUSTER", "INFO"):
            assert time.monotonic() < limit
            time.sleep(0.02)
    return clusters[server.kind]


async def test_each_step_is_in_one_slot(cluster: Server, namespace: str) -> None:
    broker = RedisBroker(Link(parse_address(cluster.url)), namespace)
    await exercise(broker)
    await broker.close()


async def test_each_command_is_routed_as_the_server_would(
    broker: RedisBroker, link: Link, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a cluster's node is chosen by is the key that a server sees in the command, also in the steps that take several."""
    asked: list[Command] = []
    call = link.call

    def recording(*commands: Command) -> Coroutine[Any, Any, list[object]]:
        asked.extend(commands)
        return call(*commands)

    monkeypatch.setattr(link, "call", recording)
    await exercise(broker)
    to_each_node = {"CLIENT", b"INFO"}  # of connections, and of the node itself
    routed = {command[:2]: command for command in asked if command[0] not in to_each_node}
    assert {command[0] for command in routed.values()} >= {b"EVALSHA", b"HMGET", b"SMEMBERS", b"XRANGE", b"XDEL"}
    for command in routed.values():
        assert server.command("COMMAND", "GETKEYS", *command)[0] == key_of(command)


# -- scripts --------------------------------------------------------------------------------------------------------------------------


def test_every_script_is_shipped() -> None:
    names = sorted(path.name for path in (files("redisaq.brokers.redis") / "lua").iterdir())
    assert names == sorted({f"{name}.lua" for script in SCRIPTS.values() for name in (script.name, *script.begins_with)})
    for script in SCRIPTS.values():
        assert not script.text.startswith(b"#!"), "S2: such a script is refused when memory is full"
        last = max(number for number in range(10) if b"KEYS[%d]" % number in script.text)
        assert last == script.keys or "stand" in script.begins_with, "that one has as many as the stream had names"


async def test_a_server_that_lost_its_scripts(broker: RedisBroker, server: Server) -> None:
    await broker.do(MakeTopic("orders", 3))
    await make_groups(broker, GROUP, [0, 1, 2], latest=False)
    server.command("SCRIPT", "FLUSH")
    assert [one.pending for one in await broker.do_each([ReadRemaining(GROUP, 0), ReadRemaining(GROUP, 1), ReadRemaining(GROUP, 2)])] == [
        0,
        0,
        0,
    ]
    for partition in range(3):
        server.command("SCRIPT", "FLUSH")
        assert (await broker.do(Install(GROUP, partition, TOKEN, "A", foreign=False))).done
    server.command("SCRIPT", "FLUSH")
    acks = [Acknowledge(GROUP, number, token, [b"1-1"]) for number, token in ((0, TOKEN), (1, TOKEN + 1), (7, TOKEN))]
    assert [one.token for one in await broker.do_each(acks)] == [TOKEN, TOKEN, 0]
    server.command("SCRIPT", "FLUSH")
    reader = await broker.open_reader(GROUP, 0, TOKEN, "A")
    await reader.close()


async def test_only_unknown_scripts_are_sent_again(broker: RedisBroker, link: Link, server: Server, namespace: str) -> None:
    server.command("SCRIPT", "FLUSH")
    server.command("SCRIPT", "LOAD", INSTALL.text)
    counter, lease, stream = (f"{{{namespace}:x}}:{name}" for name in ("n", "lease", "s"))
    replies = await run_all(
        link,
        [
            ("INCR", counter),
            SETTLE(stream, lease, "g", 7, "1-1"),
            ("INCR", counter),
            INSTALL(lease, 7, "A", 1),
            SETTLE(stream, lease, "g", 7, "1-1"),
            ("NONSENSE",),
        ],
    )
    # The settles ran after the install, since the server did not know them the first time.
    assert replies[:5] == [1, b"7", 2, [1, b"7", b"", [], None, None], b"7"]
    assert isinstance(replies[5], ServerError)
    assert server.command("GET", counter) == b"2"


LATER = TOKEN + 1
STEPS: dict[str, Step] = {
    "topics": lambda broker: broker.do(ReadTopics()),
    "topic": lambda broker: broker.do(ReadTopic("orders")),
    "append": lambda broker: broker.append(
        "orders", [(number % 3, [b"i", b"1"]) for number in range(300)], maxlen=5, approximate=False, cuts=1
    ),
    "make_groups": lambda broker: make_groups(broker, GROUP, [0, 1, 2], latest=True),
    "heartbeat": lambda broker: broker.do(Heartbeat(GROUP, "A", 60, "")),
    "commit": lambda broker: commit_document(broker, GROUP, "A", 60, known_version="", document=Document()),
    "install": lambda broker: broker.do(Install(GROUP, 0, LATER, "A", foreign=True)),
    "claim": lambda broker: broker.do(Claim(GROUP, 0, LATER, after=b"", count=100)),
    "set_deliveries": lambda broker: broker.do(SetDeliveries(GROUP, 0, LATER, {b"1-1": 2})),
    "settle": lambda broker: broker.do_each([Acknowledge(GROUP, number, LATER, [b"1-1"] * 100) for number in range(3)]),
    "remaining": lambda broker: broker.do_each([ReadRemaining(GROUP, 0), ReadRemaining(GROUP, 1), ReadRemaining(GROUP, 2)]),
    "remake_group": lambda broker: broker.do(RemakeGroup(GROUP, 0, b"")),
    **delivery_steps(LATER),
    "release": lambda broker: broker.do(Release(GROUP, 0, LATER)),
}


async def test_each_step_is_one_round_trip(broker: RedisBroker, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []  # replies wanted, call by call
    call_packed = link.call_packed

    def counting(data: bytes, replies: int, *, in_order: bool = False) -> Coroutine[Any, Any, list[object]]:
        calls.append(replies)
        return call_packed(data, replies, in_order=in_order)

    monkeypatch.setattr(link, "call_packed", counting)
    await exercise(broker)
    for partition in range(3):
        await broker.do(Install(GROUP, partition, LATER, "A", foreign=True))
    for name, step in STEPS.items():
        calls.clear()
        await step(broker)
        assert len(calls) == (2 if name == "remake_group" else 1), f"{name}; that one reads first how the topic has grown"


async def test_a_steady_heartbeat_changes_one_score(broker: RedisBroker, server: Server) -> None:
    version = await commit_document(broker, GROUP, "A", 60, known_version="", document=Document(epoch=1), joins=True)
    assert version is not None

    def changes() -> int:
        (line,) = (line for line in server.command("INFO", "persistence").split() if line.startswith(b"rdb_changes_since_last_save:"))
        return int(line.partition(b":")[2])

    before = changes()
    for number in range(10):
        assert (await broker.do(Heartbeat(GROUP, "A", 61 + number, version))).document is None
    assert changes() - before == 10


# -- appending ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trimming", [(), (b"MAXLEN", b"~", b"1000")])
@pytest.mark.parametrize("topic", ["orders", "100 %d %", "ünïcode"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_commands_are_packed_as_hiredis_packs_them(topic: str, trimming: tuple[bytes, ...], count: int) -> None:
    fields = [b"", b"%d%%", b"\r\n\x00\xff", b"x" * 1000, b"d", b"y", b"h", b"z"][: 2 * count]
    packed = _Targets(Keys("ns"), topic, trimming, 0).pack([(3, fields), (12, fields), (3, fields)])
    streams = (f"{{ns:{topic}:{partition}}}:0" for partition in (3, 12, 3))
    commands = [("XADD", stream, "NOMKSTREAM", *trimming, "*", *fields) for stream in streams]
    assert packed == list(map(hiredis.pack_command, commands))  # type: ignore[arg-type]  # its stub says: one word


async def test_of_one_call_some_appends_are_refused_for_a_while() -> None:
    """C3: what is there is named, so that only the rest is sent again; a refusal that lasts says so for all."""
    answers = iter([b"$3\r\n1-1\r\n", b"-CLUSTERDOWN it is\r\n", b"_\r\n", b"-TRYAGAIN a slot moves\r\n"])
    with FakeServer(usual_answers() | {"XADD": lambda _: next(answers)}) as fake:
        broker = RedisBroker(Link(parse_address(fake.url)), "any")
        entries = [(number, [b"d", b"1"]) for number in (0, 1, 2, 1)]
        with pytest.raises(ConnectionFailed, match="CLUSTERDOWN") as failed:
            await broker.append("orders", entries, maxlen=None, approximate=False)
        assert failed.value.appended == [b"1-1", None, None, None]
        assert not failed.value.maybe_executed
        answers = iter([b"-CLUSTERDOWN it is\r\n", b"$3\r\n1-1\r\n", b"-OOM no\r\n", b"-TRYAGAIN a slot moves\r\n"])
        with pytest.raises(ServerError, match="OOM no") as refused:
            await broker.append("orders", entries, maxlen=None, approximate=False)
        assert refused.value.appended == [None, b"1-1", None, None]
        answers = iter([b"-CLUSTERDOWN it is\r\n", b"-CLUSTERDOWN it is\r\n"])
        with pytest.raises(ConnectionFailed) as none:
            await broker.append("orders", entries[:2], maxlen=None, approximate=False)
        assert none.value.appended is None
        await broker.close()


async def test_a_refused_append_tells_what_was_appended(broker: RedisBroker, server: Server, namespace: str) -> None:
    await broker.do(MakeTopic("orders", 3))
    stream = f"{{{namespace}:orders:1}}:0"
    server.command("DEL", stream)
    server.command("SET", stream, "somebody else's")
    with pytest.raises(ServerError) as caught:
        await broker.append("orders", [(number, [b"d", b"secret"]) for number in (0, 1, 2, 9)], maxlen=None, approximate=False)
    assert caught.value.code == "WRONGTYPE"
    assert "secret" not in caught.value.text
    appended = caught.value.appended
    assert appended is not None
    assert [entry_id is not None for entry_id in appended] == [True, False, True, False]
    assert server.command("XLEN", f"{{{namespace}:orders:2}}:0") == 1


# -- what somebody else left there ------------------------------------------------------------------------------------------------------


async def test_foreign_keys_are_errors_of_the_server(broker: RedisBroker, server: Server, namespace: str) -> None:
    for key in (f"{{{namespace}:orders}}:meta", f"{{{namespace}:orders}}:g:billing:state", f"{{{namespace}:orders:0}}:g:billing:lease"):
        server.command("SET", key, "somebody else's")
    server.command("SET", f"{{{namespace}:orders:0}}:0", "somebody else's")
    steps: dict[str, Step] = STEPS | {
        "make_topic": lambda broker: broker.do(MakeTopic("orders", 1)),
        "open_reader": lambda broker: broker.open_reader(GROUP, 0, TOKEN, "A"),
        "append": lambda broker: broker.append("orders", [(0, [b"i", b"1"])], maxlen=5, approximate=False),
    }
    for name, step in steps.items():
        # These look at none of these keys, or only whether it is there.
        if name not in {"topics", "delay", "dead_page", "purge", "purge some", "purge none"}:
            with pytest.raises(ServerError) as caught:
                await step(broker)
            assert caught.value.code == "WRONGTYPE", name


async def test_what_was_counted_after_a_seek_is_not_counted_again(broker: RedisBroker, server: Server, namespace: str) -> None:
    """The server knows no lag then, and counting holds it up: so it is let know."""
    await broker.do(MakeTopic("orders", 1))
    await make_groups(broker, GROUP, [0], latest=False)
    sent = await broker.append("orders", [(0, [b"i", b"x", b"d", b"1"])] * 6, maxlen=None, approximate=False)
    stream = Keys(namespace).stream("orders", 0)

    def group() -> dict[bytes, object]:
        (row,) = server.command("XINFO", "GROUPS", stream)
        return dict(zip(row[::2], row[1::2], strict=True))

    def lag() -> object:
        return group()[b"lag"]

    async def unread() -> int:
        return (await broker.do_each([ViewPartition(GROUP, 0)]))[0].unread

    assert sent[1] is not None
    assert sent[4] is not None
    await broker.do(Seek(GROUP, 0, sent[1]))
    assert (lag(), await unread(), lag(), await unread()) == (None, 4, 4, 4)
    await broker.do(Seek(GROUP, 0, sent[1]))
    assert await broker.do(ReadBacklog("orders", 0, enough=2)) > 2
    assert lag() is None, "it was not counted to the end"
    server.command("XDEL", stream, sent[4])
    assert (await unread(), group()[b"entries-read"]) == (3, None), "what was deleted would be counted as given"


async def test_who_may_not_let_the_server_know_counts_each_time(broker: RedisBroker, server: Server, namespace: str) -> None:
    """A user that may only look: the numbers are right, and nothing fails."""
    await broker.do(MakeTopic("orders", 1))
    await make_groups(broker, GROUP, [0], latest=False)
    sent = await broker.append("orders", [(0, [b"i", b"x", b"d", b"1"])] * 6, maxlen=None, approximate=False)
    assert sent[1] is not None
    await broker.do(Seek(GROUP, 0, sent[1]))
    server.command("ACL", "SETUSER", namespace, "on", "nopass", "~*", "&*", "+@all", "-@write", "+eval", "+evalsha")
    looking = RedisBroker(Link(parse_address(f"redis://{namespace}:x@127.0.0.1:{server.port}/0")), namespace)
    try:
        for _ in range(2):
            (view,) = await looking.do_each([ViewPartition(GROUP, 0)])
            assert view.unread == 4
            (row,) = server.command("XINFO", "GROUPS", Keys(namespace).stream("orders", 0))
            assert dict(zip(row[::2], row[1::2], strict=True))[b"lag"] is None
    finally:
        await looking.close()
        server.command("ACL", "DELUSER", namespace)
