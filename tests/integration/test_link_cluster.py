"""The link to a cluster of fake nodes: whom it asks, and what becomes of calls, readers and bells when nodes fail, or slots move (C)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import pytest

from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.steps.producing import AppendOnce, Delay, Delayed
from redisaq.environment import time_limit
from redisaq.errors import ConnectionFailed, ServerError
from redisaq.link import ClusterAddress, Link, parse_address, parse_url
from redisaq.link.cluster import ClusterLink
from redisaq.link.resp import pack_command
from redisaq.link.slot_map import SLOTS, Node, slot_of
from tests.link_fake import Answer, FakeServer, bulk, hello, usual_answers
from tests.ticks import Ticks

pytestmark = pytest.mark.anyio

HANG_SECONDS = 30
LOW, HIGH = b"{a}", b"{b}"
"""Keys of a slot in the upper half, and of one in the lower half: served by the second, and by the first node at the beginning."""


class FakeCluster:
    """Nodes that answer as a test says who serves what: the first serves the lower half of the slots, the second the upper half.

    Attributes:
        nodes: all of them; those after the second serve nothing at first.
        owners: who serves the lower and the upper half.
    """

    def __init__(self, count: int = 3, host: str = "127.0.0.1") -> None:
        self.host = host
        self.nodes = [self._make(number) for number in range(count)]
        self.owners = [0, 1]

    def _make(self, number: int) -> FakeServer:
        answers: dict[str, Answer] = usual_answers() | {
            "HELLO": hello("7.2.4").replace(b"%4", b"%5", 1) + bulk("mode") + bulk("cluster"),
            "INFO": bulk(f"redis_version:7.2.4\r\nrun_id:{str(number) * 40}\r\nrole:master\r\n"),
            "CLUSTER": lambda _: self.slots(),
            "GET": bulk(f"from {number}"),
            "SSUBSCRIBE": lambda command: b">3\r\n+ssubscribe\r\n+%s\r\n:1\r\n" % command[1],
        }
        return FakeServer(answers)

    def slots(self) -> bytes:
        """Return the answer to CLUSTER SLOTS."""
        middle = SLOTS // 2
        said = b"*2\r\n"
        for (first, last), owner in zip([(0, middle - 1), (middle, SLOTS - 1)], self.owners, strict=True):
            said += b"*3\r\n:%d\r\n:%d\r\n*2\r\n%b:%d\r\n" % (first, last, bulk(self.host), self.nodes[owner].port)
        return said

    @property
    def url(self) -> str:
        """The address of all."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"

    def moved(self, to: int) -> bytes:
        """Return a redirect."""
        return b"-MOVED 1 127.0.0.1:%d\r\n" % self.nodes[to].port


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """Three nodes, of which two serve."""
    cluster = FakeCluster()
    with contextlib.ExitStack() as stack:
        for node in cluster.nodes:
            stack.enter_context(node)
        yield cluster


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[ClusterLink]:
    address = parse_url(url)
    assert isinstance(address, ClusterAddress)
    link = ClusterLink(address, **options)
    try:
        await link.connect()
        yield link
    finally:
        await link.close()


@pytest.fixture
async def link(cluster: FakeCluster) -> AsyncIterator[ClusterLink]:
    """A link to them, connected."""
    async with opened(cluster.url) as link:
        yield link


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(HANG_SECONDS):
        while not condition():
            await anyio.sleep(0.005)


def close(node: FakeServer) -> None:
    """Let a node be gone: it refuses, and its connections end."""
    node.__exit__(None, None, None)


def test_the_keys_lie_where_these_tests_need_them() -> None:
    assert slot_of(HIGH) < SLOTS // 2 <= slot_of(LOW)


# -- calls ----------------------------------------------------------------------------------------------------------------------------


async def test_each_command_goes_to_the_node_of_its_key_and_replies_keep_their_order(cluster: FakeCluster, link: ClusterLink) -> None:
    commands = [(b"GET", key) for key in (LOW, HIGH, HIGH, LOW, HIGH)]
    assert await link.call(*commands) == [b"from 1", b"from 0", b"from 0", b"from 1", b"from 0"]
    assert await link.call((b"GET", HIGH)) == [b"from 0"]
    assert link.looks == 1


async def test_a_redirect_carries_nothing_out_and_the_next_call_asks_its_target_first(cluster: FakeCluster, link: ClusterLink) -> None:
    """C1: nothing is followed or repeated."""
    cluster.nodes[0].answers["GET"] = cluster.moved(2)
    cluster.owners[0] = 2
    (reply,) = await link.call((b"GET", HIGH))
    assert isinstance(reply, ServerError)
    assert reply.code == "MOVED"
    asked = [node.words().count("CLUSTER") for node in cluster.nodes]
    assert await link.call((b"GET", HIGH)) == [b"from 2"]
    assert [node.words().count("CLUSTER") - before for node, before in zip(cluster.nodes, asked, strict=True)] == [0, 0, 1]
    assert link.looks == 2


@pytest.mark.parametrize("code", ["ASK 1 127.0.0.1:1", "TRYAGAIN", "CLUSTERDOWN", "MOVED 1 :7", "MOVED", "MOVED 1 x:y"])
async def test_each_redirect_ages_the_map(cluster: FakeCluster, link: ClusterLink, code: str) -> None:
    cluster.nodes[0].answers["GET"] = f"-{code}\r\n".encode()
    await link.call((b"GET", HIGH))
    assert await link.call((b"GET", LOW)) == [b"from 1"], "another node's calls do not look"
    assert link.looks == 1
    cluster.owners[0] = 2
    assert await link.call((b"GET", HIGH)) == [b"from 2"]
    assert link.looks == 2


@pytest.mark.parametrize("how", ["refused", "broken"])
async def test_a_connection_that_fails_ages_the_map(cluster: FakeCluster, link: ClusterLink, how: str) -> None:
    """Not only redirects do, or a client would hold on to a dead node forever."""
    await link.call((b"GET", HIGH))
    if how == "refused":
        close(cluster.nodes[0])
    else:
        cluster.nodes[0].answers["GET"] = lambda _: None
    cluster.owners[0] = 2
    run = link.run_id
    with pytest.raises(ConnectionFailed):
        await link.call((b"GET", HIGH))
    assert await link.call((b"GET", HIGH)) == [b"from 2"]
    assert link.run_id != run, "E2: the anchors may be of another server"
    assert "2" * 40 in link.run_id


async def test_a_frozen_node_is_given_up_when_others_have_replaced_it(cluster: FakeCluster, link: ClusterLink) -> None:
    """Its kernel still acknowledges; the call would wait for as long as a connection may be silent."""
    reading = await link.open_reading(HIGH)
    cluster.nodes[0].answers["GET"] = cluster.nodes[0].answers["CLUSTER"] = b""
    cluster.owners[0] = 2
    with anyio.fail_after(HANG_SECONDS), pytest.raises(ConnectionFailed, match="no master of the cluster any more") as failed:
        await link.call((b"GET", HIGH))
    assert failed.value.maybe_executed
    assert [run for _, _, run in failed.value.connections] == ["0" * 40]
    assert await link.call((b"GET", HIGH)) == [b"from 2"]
    with pytest.raises(ConnectionFailed, match="no master"):
        await reading.call((b"GET", HIGH))


async def test_a_sick_node_holds_up_nobody_elses_calls(cluster: FakeCluster, link: ClusterLink) -> None:
    """Others are served while somebody looks for its successor."""
    cluster.nodes[0].answers["GET"] = cluster.moved(2)  # which is silent
    cluster.nodes[2].answers["CLUSTER"] = b""

    async def keep_looking() -> None:
        while True:
            await call_in_vain(link)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_looking)
        with anyio.fail_after(HANG_SECONDS):
            while True:
                looking = link._looks.current
                assert await link.call((b"GET", LOW)) == [b"from 1"]
                if looking is not None and link._looks.current is looking:
                    break
                await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()


async def call_in_vain(link: ClusterLink) -> None:
    await link.call((b"GET", HIGH))


async def test_many_calls_that_fail_together_look_once(cluster: FakeCluster, link: ClusterLink) -> None:
    cluster.nodes[0].answers["GET"] = cluster.moved(2)
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(call_in_vain, link)
    assert link.looks == 1
    cluster.owners[0] = 2
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(call_in_vain, link)
    assert link.looks == 2


async def test_a_call_over_two_nodes_ends_when_both_parts_have_and_names_what_broke(cluster: FakeCluster, link: ClusterLink) -> None:
    """C2: the part that goes on may still be carried out; so the whole call is uncertain, and not over before."""
    reached: list[float] = []

    def slow(_: list[bytes]) -> bytes:
        reached.append(time.monotonic())
        time.sleep(0.3)  # the fake serves in a thread of its own
        return b"+late\r\n"

    cluster.nodes[0].answers["GET"] = lambda _: None
    cluster.nodes[1].answers["GET"] = slow
    with pytest.raises(ConnectionFailed) as failed:
        await link.call((b"GET", HIGH), (b"GET", LOW))
    assert time.monotonic() >= reached[0] + 0.3
    assert failed.value.maybe_executed
    assert [run for _, _, run in failed.value.connections] == ["0" * 40]
    close(cluster.nodes[0])
    with pytest.raises(ConnectionFailed) as failed:
        await link.call((b"GET", HIGH), (b"GET", LOW))
    assert failed.value.maybe_executed, "the other part has been"
    assert failed.value.connections == ()


def append(link: ClusterLink, *keys: bytes) -> Awaitable[list[Any]]:
    """Send a command for each key, as an appender does."""
    return link.call_keyed([pack_command((b"GET", key)) for key in keys], keys, lambda key: key)


async def test_nothing_passes_a_call_that_broke_at_one_node_and_is_not_over_at_another(cluster: FakeCluster, link: ClusterLink) -> None:
    """E4: what it lacks is sent again first. Its caller hears of it only when all its parts have ended (C2)."""
    go_on = threading.Event()
    broker, names = RedisBroker(link, "ns"), Keys("ns")
    there = next(partition for partition in range(100) if slot_of(names.stream("t", partition)) < SLOTS // 2)
    once = AppendOnce("t", there, [b"i", b"x"], dedup_id="d", window=60.0, due=None, maxlen=None, approximate=False)
    delays = [Delay("t", partition, [Delayed(partition, b"x", 1, [b"i", b"x"])]) for partition in range(there + 1)]
    delays.reverse()

    def slow(_: list[bytes]) -> bytes:
        go_on.wait(HANG_SECONDS)
        return b"+late\r\n"

    await link.call((b"GET", HIGH), (b"GET", LOW))
    cluster.nodes[0].answers["GET"] = lambda _: None
    cluster.nodes[1].answers["GET"] = slow
    failures: list[ConnectionFailed] = []

    async def broken() -> None:
        with pytest.raises(ConnectionFailed) as failed:
            await append(link, HIGH, LOW)
        failures.append(failed.value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(broken)
        await until(lambda: cluster.nodes[0].words().count("GET") == 2 and bool(link._spreader.torn))
        cluster.nodes[0].answers["GET"] = b"+passed\r\n"
        for keys in ((HIGH,), (HIGH, LOW)):
            with pytest.raises(ConnectionFailed, match="nothing was sent") as refused:
                await append(link, *keys)
            assert not refused.value.maybe_executed
        for place in (lambda: broker.do(once), lambda: broker.do(delays[0]), lambda: broker.do_each(delays)):
            with pytest.raises(ConnectionFailed, match="nothing was sent"):
                await place()
        assert cluster.nodes[0].words().count("EVALSHA") == 0
        assert await link.call((b"GET", HIGH)) == [b"passed"], "what is no append has no order to keep"
        go_on.set()
    assert failures[0].maybe_executed
    assert not failures[0].another_run
    assert await append(link, HIGH) == [b"passed"]


@pytest.mark.parametrize("by_the_map", [False, True])
async def test_what_waited_for_the_map_does_not_pass_a_call_that_broke_meanwhile(
    cluster: FakeCluster, link: ClusterLink, by_the_map: bool
) -> None:
    """E4: its connection has ended, or the map says that the node at which it waits is no master any more."""
    go_on, failures = threading.Event(), list[ConnectionFailed]()

    def slow(_: list[bytes]) -> bytes:
        go_on.wait(HANG_SECONDS)
        return cluster.slots()

    async def broken(*, written: bool) -> None:
        with pytest.raises(ConnectionFailed) as failed:
            await append(link, HIGH)
        assert failed.value.maybe_executed is written
        failures.append(failed.value)

    await link.call((b"GET", HIGH), (b"GET", LOW))
    cluster.nodes[0].answers["GET"] = b""
    for node in cluster.nodes:
        node.answers["CLUSTER"] = slow
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(broken, written=True))
        await until(lambda: cluster.nodes[0].words().count("GET") == 2)
        link.doubt(await link.link_to(HIGH))  # as any other call may
        tasks.start_soon(partial(broken, written=False))
        await until(lambda: link.looks == 2)
        if by_the_map:
            cluster.owners[0] = 1
        else:
            cluster.nodes[0].answers["GET"] = b"+passed\r\n"
            cluster.nodes[0].drop()
            await until(lambda: bool(failures))
        go_on.set()
    assert len(failures) == 2
    assert cluster.nodes[0].words().count("GET") == 2
    assert await append(link, HIGH) == [b"from 1" if by_the_map else b"passed"]


@pytest.mark.parametrize("how", ["no master any more", "slot elsewhere"])
async def test_nothing_passes_a_call_whose_caller_has_yet_to_hear_that_it_broke(cluster: FakeCluster, link: ClusterLink, how: str) -> None:
    """E4: in the turns of the event loop between the break and its hearing of it, the new map already leads to another node."""
    broken: list[ConnectionFailed] = []

    async def unanswered() -> None:
        with pytest.raises(ConnectionFailed) as failed:
            await append(link, HIGH)
        broken.append(failed.value)

    await link.call((b"GET", HIGH), (b"GET", LOW))
    cluster.nodes[0].answers["GET"] = b""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(unanswered)
        await until(lambda: cluster.nodes[0].words().count("GET") == 2)
        first = await link.link_to(HIGH)
        cluster.owners = [1, 1] if how == "no master any more" else [1, 0]  # the other one is connected
        stranger = Link(parse_address(cluster.nodes[1].url))
        (answer,) = await stranger.call(("CLUSTER", "SLOTS"))
        await stranger.close()
        link._take(first, answer, link._question())  # from here on to `call_keyed` no other task runs
        first.give_up("it broke")
        with pytest.raises(ConnectionFailed, match="nothing was sent") as refused:
            await append(link, HIGH)
        assert not refused.value.maybe_executed
        assert not broken
    assert broken[0].maybe_executed
    assert cluster.nodes[1].words().count("GET") == 1
    assert await append(link, HIGH) == [b"from 1"]


@pytest.mark.parametrize("how", ["broke", "refused"])
async def test_nothing_passes_what_a_call_lacks_where_its_slot_is_now(cluster: FakeCluster, link: ClusterLink, how: str) -> None:
    """E4: the slot has another node meanwhile, and the call that lacks something in it is not over yet."""
    go_on, over = threading.Event(), list[bool]()

    def slow(_: list[bytes]) -> bytes:
        go_on.wait(HANG_SECONDS)
        return b"+late\r\n"

    async def lacking() -> None:
        if how == "broke":
            with pytest.raises(ConnectionFailed):
                await append(link, HIGH, LOW)
        else:
            assert isinstance((await append(link, HIGH, LOW))[0], ServerError)
        over.append(True)

    await link.call((b"GET", HIGH), (b"GET", LOW))
    cluster.nodes[0].answers["GET"] = cluster.moved(2) if how == "refused" else lambda _: None
    cluster.nodes[1].answers["GET"] = slow
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lacking)
        await until(lambda: bool(link._spreader._lacking))
        cluster.owners[0] = 2
        link.doubt(await link.link_to(HIGH))
        link._hint = Node("127.0.0.1", cluster.nodes[2].port)  # as a redirect of any other call says
        try:
            with pytest.raises(ConnectionFailed, match="nothing was sent"):
                await append(link, HIGH)
            assert not over
            assert await link.call((b"GET", HIGH)) == [b"from 2"], "what is no append has no order to keep"
        finally:
            go_on.set()
    assert await append(link, HIGH) == [b"from 2"]


async def test_a_call_is_split_again_after_a_look_that_was_under_way(cluster: FakeCluster, link: ClusterLink) -> None:
    """Otherwise the messages of one slot are at two nodes, of which one refuses them: they lose their order (C3)."""
    asked, go_on, replies = threading.Event(), threading.Event(), list[object]()

    def slow(_: list[bytes]) -> bytes:
        asked.set()
        go_on.wait(HANG_SECONDS)
        return cluster.slots()

    async def call() -> None:
        replies.extend(await append(link, HIGH, LOW, HIGH))

    await link.call((b"GET", HIGH), (b"GET", LOW))
    for node in cluster.nodes:
        node.answers["CLUSTER"] = slow
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.nodes)
        await until(asked.is_set)
        cluster.owners[0] = 2
        link.doubt(await link.link_to(LOW))
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    assert replies == [b"from 2", b"from 1", b"from 2"]


async def test_a_look_does_not_wait_behind_calls_that_wait_for_a_replica(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """C7: the server holds back what comes behind a WAIT."""
    async with opened(cluster.url, confirmed=True) as link:
        monkeypatch.setattr("redisaq.link.cluster.ANSWER_WITHIN", 10 * HANG_SECONDS)
        for node in cluster.nodes:
            node.answers["WAIT"] = b""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.call, (b"GET", HIGH), (b"GET", LOW))
            await until(lambda: all(node.words().count("WAIT") for node in cluster.nodes[:2]))
            with anyio.fail_after(HANG_SECONDS):
                await link.nodes()
            tasks.cancel_scope.cancel()


async def test_what_waits_for_a_replica_does_not_ask_by_the_way(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """C7: what is refused is not waited for, and a node that was replaced confirms nothing."""
    monkeypatch.setattr("redisaq.link.cluster.AGE", -1.0)
    async with opened(cluster.url, confirmed=True) as link:
        cluster.nodes[1].answers["GET"] = cluster.moved(2)
        (refused,) = await link.call((b"GET", LOW))
        assert isinstance(refused, ServerError)
        assert cluster.nodes[1].words().count("CLUSTER") == 0


async def test_a_redirect_to_a_node_whose_address_is_not_known_is_no_hint(cluster: FakeCluster, link: ClusterLink) -> None:
    cluster.nodes[0].answers["GET"] = b"-MOVED 1 ?:7000\r\n"
    (moved,) = await link.call((b"GET", HIGH))
    assert isinstance(moved, ServerError)
    assert link._hint is None


async def test_a_call_that_met_another_run_says_so(cluster: FakeCluster, link: ClusterLink) -> None:
    """E2: one part broke, and another was carried out by a server that took over: the anchors are of the one before."""
    cluster.nodes[1].answers["GET"] = lambda _: None
    cluster.nodes[0].answers["GET"] = cluster.moved(2)
    await append(link, HIGH)
    cluster.owners[0] = 2
    with pytest.raises(ConnectionFailed) as failed:
        await append(link, HIGH, LOW)
    assert failed.value.another_run
    assert [run for _, _, run in failed.value.connections] == ["1" * 40]


async def test_two_replies_for_one_command_break_the_connection(cluster: FakeCluster, link: ClusterLink) -> None:
    """Some servers sent two redirects for one blocked read: a reply that nothing asked for never becomes another call's."""
    cluster.nodes[0].answers["GET"] = cluster.moved(0) * 2
    (reply,) = await link.call((b"GET", HIGH))
    assert isinstance(reply, ServerError)
    cluster.nodes[0].answers["GET"] = b"+mine\r\n"
    assert await link.call((b"GET", HIGH)) == [b"mine"]
    assert cluster.nodes[0].words().count("HELLO") == 3, "one of the first look, and the shared connection twice"


async def test_an_old_map_is_asked_for_by_the_way(cluster: FakeCluster, link: ClusterLink, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a call that goes to the node anyway, so that nothing waits for it; it finds who was replaced without a word."""
    reading = await link.open_reading(HIGH)
    monkeypatch.setattr("redisaq.link.cluster.AGE", -1.0)
    cluster.owners[0] = 2
    assert await link.call((b"GET", LOW)) == [b"from 1"]
    assert link.looks == 1
    with pytest.raises(ConnectionFailed, match="no master"):
        await reading.call((b"GET", HIGH))
    monkeypatch.setattr("redisaq.link.cluster.AGE", 1000.0)
    assert await link.call((b"GET", HIGH)) == [b"from 2"]


async def test_an_answer_to_an_earlier_question_replaces_no_later_map(
    cluster: FakeCluster, link: ClusterLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was stalled says what it knew then, and would break what goes to those that have taken over."""
    awake, old = threading.Event(), cluster.slots()

    def say(_: list[bytes]) -> bytes:
        awake.wait(HANG_SECONDS)
        return old

    async with anyio.create_task_group() as tasks:
        cluster.nodes[0].answers["CLUSTER"] = say
        monkeypatch.setattr("redisaq.link.cluster.AGE", -1.0)
        tasks.start_soon(link.call, (b"GET", HIGH))
        await until(lambda: "CLUSTER" in cluster.nodes[0].words()[-1:])
        monkeypatch.setattr("redisaq.link.cluster.AGE", 1000.0)
        cluster.nodes[1].answers["GET"] = cluster.moved(2)
        cluster.owners[1] = 2
        await link.call((b"GET", LOW))
        assert await link.call((b"GET", LOW)) == [b"from 2"]
        awake.set()
    assert await link.call((b"GET", LOW)) == [b"from 2"]
    assert cluster.nodes[2].words().count("HELLO") <= 2, "that of the look, and one that stays"


async def test_a_look_ends_with_the_time_of_the_call(cluster: FakeCluster, link: ClusterLink) -> None:
    for node in cluster.nodes:
        node.answers["CLUSTER"] = b""
    cluster.nodes[0].answers["GET"] = b"-CLUSTERDOWN\r\n"
    await link.call((b"GET", HIGH))
    with time_limit(0.1), pytest.raises(ConnectionFailed, match="within the time of the call"):
        await link.call((b"GET", HIGH))


async def test_if_the_call_that_looks_for_all_is_cancelled_the_next_one_looks(cluster: FakeCluster, link: ClusterLink) -> None:
    cluster.nodes[0].answers["GET"] = b"-CLUSTERDOWN\r\n"
    await link.call((b"GET", HIGH))
    for node in cluster.nodes:
        node.answers["CLUSTER"] = b""
    cluster.owners[0] = 2
    replies: list[object] = []

    async def call() -> None:
        replies.extend(await link.call((b"GET", HIGH)))

    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks, anyio.create_task_group() as first:
            first.start_soon(call)
            await until(lambda: link.looks == 2)
            tasks.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            for node in cluster.nodes:
                node.answers["CLUSTER"] = lambda _: cluster.slots()
            first.cancel_scope.cancel()
    assert (replies, link.looks) == ([b"from 2"], 3)


# -- kills ----------------------------------------------------------------------------------------------------------------------------

MARK = (7, "127.0.0.1:5", "0" * 40)


async def test_a_connection_is_killed_where_its_run_is(cluster: FakeCluster, link: ClusterLink) -> None:
    for node in cluster.nodes:
        node.answers["CLIENT"] = b":1\r\n"
    before = [len(node.commands) for node in cluster.nodes]
    assert await link.kill([MARK, (8, "", "9" * 40)]) == [1]
    came = [node.commands[count:] for node, count in zip(cluster.nodes, before, strict=True)]
    assert came == [[[b"CLIENT", b"KILL", b"ID", b"7", b"ADDR", b"127.0.0.1:5"]], [], []]
    assert await link.kill([MARK], HIGH) == [1]
    assert await link.kill([MARK], LOW) == [], "C4: nothing that the other node holds can come into its stream"


async def test_a_kill_does_not_wait_for_nodes_that_have_nothing_to_kill(cluster: FakeCluster) -> None:
    """Also not for one that has never answered."""
    cluster.nodes[0].answers["CLIENT"] = b":1\r\n"
    cluster.nodes[1].answers["HELLO"] = lambda _: None
    async with opened(cluster.url) as link:
        before = len(cluster.nodes[1].commands)
        assert await link.kill([MARK]) == [1]
        assert len(cluster.nodes[1].commands) == before


async def test_a_node_that_was_replaced_needs_no_kill(cluster: FakeCluster, link: ClusterLink) -> None:
    """C4: as long as the map calls it a master, it does."""
    close(cluster.nodes[0])
    with pytest.raises(ConnectionFailed, match="could not be killed"):
        await link.kill([MARK])
    cluster.owners[0] = 2
    assert await link.kill([MARK]) == []
    assert await link.kill([MARK]) == []


async def test_a_run_that_nobody_knows_may_be_that_of_a_master_that_cannot_be_reached(cluster: FakeCluster) -> None:
    """C4: a link that was opened since the connection was made does not know which node that was."""
    close(cluster.nodes[0])
    async with opened(cluster.url) as link:
        with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{cluster.nodes[0].port} .* could not be killed"):
            await link.kill([MARK])
        cluster.owners[0] = 2
        await link.nodes()
        assert await link.kill([MARK]) == []


# -- bells ----------------------------------------------------------------------------------------------------------------------------


def push(channel: bytes) -> bytes:
    return b">3\r\n+smessage\r\n+%s\r\n+x\r\n" % channel


async def test_a_bell_follows_its_slot_and_leaves_its_neighbours_alone(cluster: FakeCluster, link: ClusterLink) -> None:
    """The server ends the subscription, and refuses it when asked again; the others on that connection stay."""
    moving, staying = await link.listen(HIGH.decode()), await link.listen("{b}:other")
    cluster.nodes[0].answers["SSUBSCRIBE"] = cluster.moved(2)
    cluster.owners[0] = 2
    cluster.nodes[0].send(b">3\r\n+sunsubscribe\r\n+%s\r\n:0\r\n" % HIGH)
    with anyio.fail_after(HANG_SECONDS):
        await moving.wait()  # something may have been missed
        await staying.wait()  # it moved along, since the map says so
        assert [node.words().count("SSUBSCRIBE") for node in cluster.nodes] == [3, 0, 2]
        cluster.nodes[2].send(push(HIGH))
        await moving.wait()
    await moving.close()
    with pytest.raises(ConnectionFailed, match="closed"):
        await moving.wait()
    await staying.close()
    assert not link.bells, "nothing of a bell that is closed stays"


@pytest.mark.parametrize("waiting", [True, False])
async def test_a_bell_of_a_node_that_died_rings_at_its_successor(cluster: FakeCluster, link: ClusterLink, waiting: bool) -> None:
    bell = await link.listen(HIGH.decode())
    rang = anyio.Event()

    async def wait() -> None:
        await bell.wait()
        rang.set()

    async with anyio.create_task_group() as tasks:
        if waiting:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
        close(cluster.nodes[0])
        cluster.owners[0] = 2
        if not waiting:
            tasks.start_soon(wait)
        with anyio.fail_after(HANG_SECONDS):
            await rang.wait()
    assert cluster.nodes[2].words().count("SSUBSCRIBE") == 1
    await bell.close()


async def test_a_bell_waits_for_a_slot_that_nobody_serves(cluster: FakeCluster, link: ClusterLink) -> None:
    bell = await link.listen(HIGH.decode())
    rung = anyio.Event()

    async def wait() -> None:
        await bell.wait()
        rung.set()

    close(cluster.nodes[0])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: link.looks >= 3)
        assert not rung.is_set()
        cluster.owners[0] = 2
        await until(rung.is_set)  # for what it may have missed
    assert "SSUBSCRIBE" in cluster.nodes[2].words()
    await bell.close()


async def test_who_may_not_listen_hears_so(cluster: FakeCluster, link: ClusterLink) -> None:
    cluster.nodes[0].answers["SSUBSCRIBE"] = b"-NOPERM no permissions\r\n"
    with pytest.raises(ServerError, match="NOPERM"):
        await link.listen(HIGH.decode())
    cluster.nodes[0].answers["SSUBSCRIBE"] = cluster.moved(0)
    with pytest.raises(ConnectionFailed, match="MOVED") as failed:
        await link.listen(HIGH.decode())
    assert not failed.value.permanent
    assert not link.bells
    async with opened(cluster.url) as other:
        bell = await other.listen(LOW.decode())
        await other.close()
        with pytest.raises(ConnectionFailed, match="closed"):
            await bell.wait()


# -- where to begin -------------------------------------------------------------------------------------------------------------------


async def test_seeds_are_asked_again_when_all_addresses_have_changed() -> None:
    """Every node that was known is gone; the seeds' names lead to new ones."""
    old, new = FakeCluster(3), FakeCluster(2)
    with contextlib.ExitStack() as stack:
        for node in (*old.nodes, *new.nodes):
            stack.enter_context(node)
        url = f"redis+cluster://127.0.0.1:{old.nodes[2].port}"
        async with opened(url) as link:
            assert await link.call((b"GET", HIGH)) == [b"from 0"]
            old.nodes[2].answers["CLUSTER"] = lambda _: new.slots()
            new.nodes[0].answers["GET"] = b"+new\r\n"
            close(old.nodes[0])
            close(old.nodes[1])
            with pytest.raises(ConnectionFailed):
                await link.call((b"GET", HIGH))
            assert await link.call((b"GET", HIGH)) == [b"new"]


async def test_one_seed_that_answers_is_enough(cluster: FakeCluster) -> None:
    close(cluster.nodes[2])
    async with opened(f"redis+cluster://127.0.0.1:{cluster.nodes[2].port},127.0.0.1:{cluster.nodes[1].port}") as link:
        assert await link.call((b"GET", HIGH)) == [b"from 0"]


@pytest.mark.parametrize(
    ("answer", "words", "permanent"),
    [
        (b"-ERR This instance has cluster support disabled\r\n", "use redis://", True),
        (b"-NOPERM User x has no permissions to run the 'cluster|slots' command\r\n", "NOPERM", True),
        (b"*0\r\n", "no node that serves slots", False),
        (b"+what\r\n", "CLUSTER SLOTS", False),
        (b"-LOADING it is\r\n", "LOADING", False),
    ],
)
async def test_who_cannot_tell_the_slots_is_named(cluster: FakeCluster, answer: bytes, words: str, permanent: bool) -> None:
    for node in cluster.nodes:
        node.answers["CLUSTER"] = answer
    with pytest.raises(ConnectionFailed, match=words) as failed:
        async with opened(cluster.url):
            pass
    assert failed.value.permanent is permanent


async def test_addresses_that_clients_cannot_reach_name_the_setting() -> None:
    """As of a cluster in containers, whose nodes announce what only they can reach."""
    inside = FakeCluster(2, host="127.0.0.1")
    with inside.nodes[0] as seed, inside.nodes[1]:
        seed.answers["CLUSTER"] = lambda _: (
            inside.slots().replace(str(seed.port).encode(), b"1").replace(str(inside.nodes[1].port).encode(), b"2")
        )
        with pytest.raises(ConnectionFailed, match=r"announced.*cluster-announce-ip.*cluster-preferred-endpoint-type"):
            async with opened(f"redis+cluster://127.0.0.1:{seed.port}"):
                pass


async def test_a_replica_is_not_used(cluster: FakeCluster) -> None:
    """The map was old: nothing is sent there."""
    cluster.nodes[0].answers["INFO"] = bulk("redis_version:7.2.4\r\nrun_id:x\r\nrole:slave\r\n")
    async with opened(cluster.url) as link:
        with pytest.raises(ConnectionFailed, match="replica now"):
            await link.call((b"GET", HIGH))
        assert b"GET" not in [command[0] for command in cluster.nodes[0].commands]


async def test_passwords_are_not_shown(cluster: FakeCluster) -> None:
    for node in cluster.nodes:
        node.answers["HELLO"] = b"-WRONGPASS no\r\n"
    url = cluster.url.replace("://", "://me:s3cr3t@")
    with pytest.raises(ConnectionFailed, match="wrong user name or password") as failed:
        async with opened(url):
            pass
    assert failed.value.permanent
    assert "s3cr3t" not in str(failed.value)
    assert "s3cr3t" not in repr(parse_url(url))


async def test_it_may_be_used_again_after_it_was_closed(cluster: FakeCluster, link: ClusterLink) -> None:
    await link.close()
    assert await link.call((b"GET", HIGH)) == [b"from 0"]
    assert [one.url for one in await link.nodes()] == [f"redis://127.0.0.1:{port}/0" for port in sorted(n.port for n in cluster.nodes[:2])]


# -- while it is closed, or its map changes ----------------------------------------------------------------------------------------------


async def test_a_look_ends_when_the_link_is_closed(cluster: FakeCluster, link: ClusterLink) -> None:
    """Neither does it go on with other nodes, nor does its call make a connection afterwards."""
    before = [len(node.commands) for node in cluster.nodes]
    for node in cluster.nodes[:2]:
        node.answers["CLUSTER"] = b""
    cluster.nodes[0].answers["GET"] = b"-TRYAGAIN\r\n"
    await link.call((b"GET", HIGH))

    async def call() -> None:
        with pytest.raises(ConnectionFailed, match="closed"):
            await link.call((b"GET", HIGH))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await until(lambda: any("CLUSTER" in node.words()[n:] for node, n in zip(cluster.nodes, before, strict=True)))
        await link.close()
    assert len(cluster.nodes[2].commands) == before[2]


async def test_a_question_to_a_seed_ends_when_the_link_is_closed(cluster: FakeCluster) -> None:
    for node in cluster.nodes:
        node.answers["CLUSTER"] = b""
    address = parse_url(cluster.url)
    assert isinstance(address, ClusterAddress)
    link = ClusterLink(address)

    async def connect() -> None:
        with pytest.raises(ConnectionFailed, match="closed"):
            await link.connect()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connect)
        await until(lambda: "CLUSTER" in cluster.nodes[0].words())
        await link.close()
    assert not cluster.nodes[1].commands


async def test_a_look_passes_over_a_node_that_went_meanwhile(
    cluster: FakeCluster, link: ClusterLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def say(number: int) -> bytes:
        asked.append(number)
        return b"" if len(asked) == 1 else cluster.slots()

    cluster.nodes[0].answers["CLUSTER"] = lambda _: say(0)
    cluster.nodes[1].answers["CLUSTER"] = lambda _: say(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.nodes)
        await until(lambda: bool(asked))
        monkeypatch.setattr("redisaq.link.cluster.AGE", -1.0)
        cluster.owners = [2, 2]
        await link.call((b"GET", HIGH if asked[0] == 1 else LOW))  # hears by the way that neither is a master any more
    assert await link.call((b"GET", HIGH)) == [b"from 2"]


async def test_a_look_before_a_connection_does_not_wait_for_that_connection(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redisaq.link.cluster.RECENT", -1.0)
    cluster.owners = [0, 0]
    async with opened(cluster.url) as link:
        monkeypatch.setattr("redisaq.link.cluster.ANSWER_WITHIN", 10 * HANG_SECONDS)
        cluster.nodes[0].drop()
        with anyio.fail_after(HANG_SECONDS):
            while True:
                with contextlib.suppress(ConnectionFailed):
                    assert await link.call((b"GET", HIGH)) == [b"from 0"]
                    if cluster.nodes[0].words().count("GET") > 1:
                        break


async def test_a_bell_that_is_closed_while_it_subscribes_again_ends_at_once(cluster: FakeCluster, link: ClusterLink) -> None:
    bell = await link.listen(HIGH.decode())
    cluster.nodes[2].answers["SSUBSCRIBE"] = b""

    async def wait() -> None:
        with pytest.raises(ConnectionFailed, match="closed"):
            await bell.wait()

    with Ticks() as ticks:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            cluster.owners[0] = 2
            await link.nodes()
            await until(lambda: "SSUBSCRIBE" in cluster.nodes[2].words())
            began = time.monotonic()
            await bell.close()
        closed = time.monotonic()
    assert ticks.between(began, closed) < 3, "it waited until the node was silent for too long"


async def test_a_seed_that_cannot_be_reached_says_what_to_check(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redisaq.link.cluster.ANSWER_WITHIN", 0.1)
    for node in cluster.nodes:
        node.answers["HELLO"] = b""
    with pytest.raises(ConnectionFailed, match="check host, port and firewall"):
        async with opened(cluster.url):
            pass
