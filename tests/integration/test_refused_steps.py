"""Each step of the broker with one right taken away, and with full memory: nothing is done, or all of it, and a hint fails nothing (S2)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer
from redisaq.admin import Admin
from redisaq.brokers.growth import make_or_grow
from redisaq.brokers.redis import RedisBroker
from redisaq.brokers.redis.rights import access_rules, called_by
from redisaq.brokers.redis.scripts import SCRIPTS
from redisaq.brokers.steps.administration import START, Disband, DropGroup, Note, Seek, SetPaused, ViewGroup, ViewPartition, ViewStream
from redisaq.brokers.steps.coordination import Beat, GiveBack, Heartbeat, Wait, Watch, make_groups
from redisaq.brokers.steps.growing import (
    Adopt,
    Announce,
    DropAdopted,
    DropTakenIn,
    NameStream,
    OpenBarrier,
    Publish,
    ReadPassed,
    SetSwept,
    TakeIn,
)
from redisaq.brokers.steps.leases import Claim, Fence, Install, Release, RemakeGroup, SetDeliveries
from redisaq.brokers.steps.messages import (
    CancelDelayed,
    CancelRetry,
    CountBacklog,
    CountDue,
    CountEntries,
    ListPending,
    ListRetries,
    ReadDelayed,
    ReadStanding,
    RetryNow,
    Scheduled,
    SearchDead,
    SummariseEntries,
)
from redisaq.brokers.steps.producing import AppendOnce, Confirm, Delayed, Find, ReadBacklog, delay
from redisaq.brokers.steps.retention import ReadKeeping, Sight, Trim
from redisaq.brokers.steps.retrying import CountDead, StartRetry, SummariseDead, TakeDue, redrive
from redisaq.brokers.steps.schedules import ReadSchedules, SetSchedule
from redisaq.brokers.steps.settling import Acknowledge, ReadRemaining, Resolve
from redisaq.brokers.steps.topics import MakeTopic, NoteHeldUp, Terms
from redisaq.brokers.terms import GroupName, ReaderMark
from redisaq.core.history import Change
from redisaq.core.membership import Document, MemberEntry
from redisaq.core.profile import Profile
from redisaq.core.records import Body, Resolution
from redisaq.core.waiting import Newcomer
from redisaq.errors import DamagedKeyError, ServerError
from redisaq.events import Event, NotificationsNotPermitted
from redisaq.link import Link, parse_address
from redisaq.outcomes import DeadLetter
from redisaq.settings import RetryPolicy
from tests.conformance.steps import commit_document
from tests.servers import Server

pytestmark = pytest.mark.anyio

GROUP = GroupName("orders", "billing")
TOKEN = 1_700_000_000_123_457
FIELDS = [b"i", b"p-1", b"d", b"1"]
USER = "walker"
HINTS = {"-spublish", "resetchannels"}

Step = Callable[["Scene"], Awaitable[Any]]


@dataclass
class Scene:
    """One namespace, full of everything, behind a broker whose rights can be taken away."""

    server: Server
    namespace: str
    broker: RedisBroker
    full: RedisBroker
    ids: list[bytes]
    beat: Beat = field(init=False)

    async def set_up(self, step: str = "") -> None:
        """Make everything again: three pending entries, one trimmed, one unread, a retry, a dead letter, a due delayed message.

        Then do what has to happen before the step of this name.
        """
        self.wipe()
        full, group = self.full, GROUP
        await full.do(MakeTopic("orders", 1, terms=Terms(10.0, acked=True, idle=60.0)))
        await make_groups(full, group, [0], latest=False)
        document = Document(1, {"A": MemberEntry("A")}, 1, {0: "A"}, {0: "A"}, {0: TOKEN})
        await commit_document(full, group, "A", 60.0, known_version="", document=document, joins=True)
        await full.do(Install(group, 0, TOKEN, "A", foreign=True))
        reader = await full.open_reader(group, 0, TOKEN, "A")
        appended = await full.append("orders", [(0, FIELDS)] * 7, maxlen=None, approximate=False)
        self.ids = [one for one in appended if one is not None]
        await reader.read(6, 0)
        await reader.close()
        resolutions = [
            Resolution("stream", "retry", Body(self.ids[0], FIELDS), due=1),
            Resolution("stream", "dead", Body(self.ids[1], FIELDS)),
        ]
        await full.do(Resolve(group, 0, TOKEN, resolutions, dead_maxlen=None))
        await delay(full, "orders", [Delayed(0, b"p-9", 2, FIELDS)])
        self.command("XDEL", self.key("0"), self.ids[2])
        if step in BEFORE:
            await BEFORE[step](self)

    async def begin_again(self) -> None:
        """Forget what an earlier step has taught the brokers: that the topic had grown, which the next one's has not."""
        await self.close()
        self.permit()
        self.broker, self.full = (RedisBroker(one._link, self.namespace) for one in (self.broker, self.full))
        await self.broker.connect()

    async def close(self) -> None:
        for one in (self.broker, self.full):
            await one.close()

    def key(self, name: str) -> str:
        return f"{{{self.namespace}:orders:0}}:{name}"

    def group_key(self, name: str) -> str:
        return f"{{{self.namespace}:orders}}:g:billing:{name}"

    def command(self, *words: Any) -> Any:
        return self.server.command(*words)

    def keys(self) -> list[bytes]:
        return sorted(key for key in self.command("KEYS", f"*{self.namespace}*"))

    def wipe(self) -> None:
        if keys := self.keys():
            self.command("DEL", *keys)

    def permit(self, *rules: str) -> None:
        """Give the walker every right, then these rules."""
        self.command("ACL", "SETUSER", USER, "reset", "on", "nopass", "~*", "&*", "+@all", *rules)

    def snapshot(self) -> dict[bytes, Any]:
        """Return all that the namespace holds."""
        found: dict[bytes, Any] = {}
        for key in self.keys():
            match self.command("TYPE", key):
                case b"hash":
                    words = self.command("HGETALL", key)
                    found[key] = dict(zip(words[::2], words[1::2], strict=True))
                case b"zset":
                    found[key] = self.command("ZRANGE", key, 0, -1, "WITHSCORES")
                case b"set":
                    found[key] = sorted(self.command("SMEMBERS", key))
                case b"stream":
                    groups = [row[:2] + row[4:] for row in self.command("XINFO", "GROUPS", key)]  # without the count of consumers
                    pending = {row[1]: self.command("XPENDING", key, row[1], "-", "+", 100) for row in groups}
                    waiting = {name: [(row[0], row[3]) for row in rows] for name, rows in pending.items()}
                    found[key] = (self.command("XRANGE", key, "-", "+"), groups, waiting)
                case _:
                    found[key] = self.command("GET", key)
        return found


async def _resolve(scene: Scene, source: Any, to: Any, entry_id: bytes) -> None:
    resolution = Resolution(source, to, Body(entry_id, FIELDS, 0, 0), due=99)
    assert (await scene.broker.do(Resolve(GROUP, 0, TOKEN, [resolution], dead_maxlen=5))).moved == (True,)


async def _open_reader(scene: Scene) -> None:
    await (await scene.broker.open_reader(GROUP, 0, TOKEN, "A")).close()


async def _once(scene: Scene, due: int | None) -> None:
    args: dict[str, Any] = {"dedup_id": "x", "window": 60.0, "due": due, "maxlen": None, "approximate": False}
    assert await scene.broker.do(AppendOnce("orders", 0, FIELDS, **args)) == b"p-1"


async def _be_another_server(scene: Scene) -> None:
    script = "redis.call('HDEL', KEYS[1], '') redis.call('HSET', KEYS[1], 'run_id', 'another')"  # also where memory is full
    scene.command("EVAL", script, 1, scene.group_key("state"))


async def _beat(scene: Scene) -> None:
    scene.beat = await scene.full.do(Heartbeat(GROUP, "A", 60.0, ""))


async def _commit(scene: Scene) -> None:
    assert scene.beat.document is not None
    args: dict[str, Any] = {"known_version": scene.beat.version, "document": scene.beat.document, "joins": True, "freeze": True}
    assert await commit_document(scene.broker, GROUP, "B", 60.0, **args) is not None


async def _lose_the_group(scene: Scene) -> None:
    scene.command("XGROUP", "DESTROY", scene.key("0"), "billing")


async def _lose_entries(scene: Scene) -> None:
    scene.command("XTRIM", scene.key("0"), "MAXLEN", 0)


async def _delay(scene: Scene) -> None:
    assert await delay(scene.broker, "orders", [Delayed(0, b"p-8", 1, FIELDS), Delayed(0, b"p-7", 5, FIELDS)]) == [True, True]


async def _put_off(scene: Scene) -> None:
    script = "redis.call('ZREM', KEYS[1], '') redis.call('ZADD', KEYS[1], 'XX', '9e15', ARGV[1])"  # also where memory is full
    scene.command("EVAL", script, 1, scene.key("g:billing:retry"), scene.ids[0])


async def _retry_now(scene: Scene) -> None:
    assert await scene.broker.do(RetryNow(GROUP, 0, [scene.ids[0]], 5)) == 1
    assert await scene.full.do(RetryNow(GROUP, 0, None, 5)) == 0


async def _note(scene: Scene) -> None:
    note = await scene.broker.do(Note(GROUP, Change("seek begun")))
    await scene.broker.do(Note(GROUP, None, replaces=note))


async def _trim(scene: Scene) -> None:
    await scene.broker.do(Trim("orders", 0, await scene.full.do(ReadKeeping(GROUP)), ["billing"]))


STEPS: dict[str, tuple[Step, tuple[str, ...]]] = {
    "make_topic": (
        lambda s: s.broker.do(MakeTopic("more", 1, terms=Terms(5.0, acked=True, idle=3.0))),
        ("make_topic", "name_topic", "name_stream"),
    ),
    "announce": (lambda s: s.broker.do(Announce("orders", 0, 2)), ("announce",)),
    "name_stream": (lambda s: s.broker.do(NameStream("orders", 0, (1, 2))), ("name_stream",)),
    "publish": (lambda s: s.broker.do(Publish("orders", 0, (1, 2))), ("publish",)),
    "passed": (lambda s: s.broker.do(ReadPassed(GROUP, 0, 0)), ("passed",)),
    "open_barrier": (lambda s: s.broker.do(OpenBarrier(GROUP, 0, 1, 1)), ("open_barrier",)),
    "take_in": (lambda s: s.broker.do(TakeIn(GROUP, 0, 1, [(b"1-0", Body(b"7-1099511627776", (b"i", b"m")))], 0)), ("take_in",)),
    "drop_taken_in": (lambda s: s.broker.do(DropTakenIn(GROUP, 0, [b"1-1"], s.broker.run_id)), ("drop_taken_in",)),
    "drop_adopted": (lambda s: s.broker.do(DropAdopted("orders", 0, [b"p-9"], s.broker.run_id)), ("drop_adopted",)),
    "set_swept": (lambda s: s.broker.do(SetSwept("orders", 0, 1, s.broker.run_id)), ("set_swept",)),
    "adopt": (lambda s: s.broker.do(Adopt("orders", 0, 1, [(b"m", b"1", b"")], 0)), ("adopt",)),
    "confirm": (lambda s: s.broker.do(Confirm("orders", 0)), ("confirm",)),
    "make_groups": (lambda s: make_groups(s.broker, GroupName("orders", "new"), [0], latest=False), ("make_group",)),
    "heartbeat": (lambda s: s.broker.do(Heartbeat(GROUP, "A", 60.0, "")), ("heartbeat",)),
    "heartbeat of another server": (lambda s: s.broker.do(Heartbeat(GROUP, "A", 60.0, "")), ("heartbeat",)),
    "wait": (lambda s: s.broker.do(Wait(GROUP, "N", Newcomer("N", Profile()))), ("wait",)),
    "give_back": (lambda s: s.broker.do(GiveBack(GROUP, "A", {0: TOKEN}, 0.0)), ("give_back",)),
    "commit": (_commit, ("commit",)),
    "install": (lambda s: s.broker.do(Install(GROUP, 0, TOKEN + 1, "B", foreign=True)), ("install",)),
    "open_reader": (_open_reader, ("register",)),
    "fence": (lambda s: s.broker.do(Fence(GROUP, 0, TOKEN, [ReaderMark(1, "x", "another")])), ("unregister",)),
    "release": (lambda s: s.broker.do(Release(GROUP, 0, TOKEN)), ("release",)),
    "claim": (lambda s: s.broker.do(Claim(GROUP, 0, TOKEN, after=b"", count=10)), ("claim",)),
    "set_deliveries": (lambda s: s.broker.do(SetDeliveries(GROUP, 0, TOKEN, {s.ids[3]: 4}, raising=True)), ("deliveries",)),
    "settle": (lambda s: s.broker.do_each([Acknowledge(GROUP, 0, TOKEN, [s.ids[3], s.ids[4]])]), ("settle",)),
    "resolve to retry": (lambda s: _resolve(s, "stream", "retry", s.ids[3]), ("resolve",)),
    "resolve to dead": (lambda s: _resolve(s, "stream", "dead", s.ids[3]), ("resolve",)),
    "resolve retry again": (lambda s: _resolve(s, "retry", "retry", s.ids[0]), ("resolve",)),
    "resolve retry to dead": (lambda s: _resolve(s, "retry", "dead", s.ids[0]), ("resolve",)),
    "resolve retry to done": (lambda s: _resolve(s, "retry", "done", s.ids[0]), ("resolve",)),
    "start_retry": (lambda s: s.broker.do(StartRetry(GROUP, 0, TOKEN, entry_id=s.ids[0], life=0, attempt=1)), ("start_retry",)),
    "due": (lambda s: s.broker.do(TakeDue(GROUP, 0, TOKEN, count=10)), ("due",)),
    "remake_group": (lambda s: s.broker.do(RemakeGroup(GROUP, 0, s.ids[3])), ("remake_group",)),
    "remaining": (lambda s: s.broker.do_each([ReadRemaining(GROUP, 0)]), ("remaining",)),
    "delay": (_delay, ("delay",)),
    "append_once": (lambda s: _once(s, None), ("append_once",)),
    "append_once delayed": (lambda s: _once(s, 1), ("append_once",)),
    "find": (lambda s: s.broker.do(Find("orders", 0, b"0-0", [b"p-1"])), ("find",)),
    "backlog": (lambda s: s.broker.do_each([ReadBacklog("orders", 0)]), ("backlog",)),
    "view_streams": (lambda s: s.broker.do_each([ViewStream("orders", 0)]), ("view_stream",)),
    "view_group": (lambda s: s.broker.do(ViewGroup(GROUP)), ("view_group",)),
    "view_partitions": (lambda s: s.broker.do_each([ViewPartition(GROUP, 0)]), ("view_partition",)),
    "pause": (lambda s: s.broker.do(SetPaused(GROUP, paused=True)), ("pause",)),
    "seek": (lambda s: s.broker.do(Seek(GROUP, 0, START)), ("seek",)),
    "note": (_note, ("note_change",)),
    "disband": (lambda s: s.broker.do(Disband(GROUP, force=True)), ("disband",)),
    "drop_group": (lambda s: s.broker.do_each([DropGroup(GROUP, 0)]), ("drop_group",)),
    "redrive": (lambda s: redrive(s.broker, GROUP, 0, None, count=5), ("redrive",)),
    "list_pending": (lambda s: s.broker.do(ListPending(GROUP, 0, b"", 5)), ("list_pending",)),
    "list_retries": (lambda s: s.broker.do(ListRetries(GROUP, 0, Scheduled(b"7-1", b"1", 1, None), 5)), ("list_scheduled",)),
    "read_delayed": (lambda s: s.broker.do(ReadDelayed("orders", 0, b"p-8")), ("read_delayed",)),
    "count_entries": (lambda s: s.broker.do(CountEntries("orders", 0, b"0-0", b"", 5)), ("count",)),
    "count_due": (lambda s: s.broker.do(CountDue("orders", 0, [1, 2])), ("count_due",)),
    "entry_summaries": (lambda s: s.broker.do(SummariseEntries("orders", 0, b"", 5, 5)), ("entry_summaries",)),
    "search_dead": (lambda s: s.broker.do(SearchDead(GROUP, 0, b"p-1", b"", 5)), ("search",)),
    "read_standing": (lambda s: s.broker.do(ReadStanding(GROUP, 0, s.ids[0])), ("standing",)),
    "cancel_delayed": (lambda s: s.broker.do(CancelDelayed("orders", 0, b"p-9")), ("cancel_delayed",)),
    "cancel_retry": (lambda s: s.broker.do(CancelRetry(GROUP, 0, s.ids[0])), ("cancel_retry",)),
    "retry_now": (_retry_now, ("retry_now",)),
    "count_backlog": (lambda s: s.broker.do(CountBacklog(GROUP, 0)), ("group_backlog",)),
    "keeping": (lambda s: s.broker.do(ReadKeeping(GROUP)), ("keeping",)),
    "read_schedules": (lambda s: s.broker.do(ReadSchedules("orders")), ("read_schedules",)),
    "set_schedule": (lambda s: s.broker.do(SetSchedule("orders", "nightly", was=None, value=b"{}")), ("set_schedule",)),
    "dead_summaries": (lambda s: s.broker.do(SummariseDead(GROUP, 0, b"", 5, 100)), ("dead_summaries",)),
    "count_dead": (lambda s: s.broker.do(CountDead(GROUP, 0, b"", 5, 100)), ("dead_kinds",)),
    "trim": (_trim, ("trim",)),
    "sight": (lambda s: s.broker.do(Sight(GROUP, 0, TOKEN, since=None, read=0)), ("sight",)),
    "note_held_up": (lambda s: s.broker.do(NoteHeldUp("orders", 0, 5)), ("note_held_up",)),
    "watch": (lambda s: s.broker.do(Watch(GROUP)), ("watch",)),
}

BEFORE: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "heartbeat of another server": _be_another_server,
    "commit": _beat,
    "remake_group": _lose_the_group,
    "sight": _lose_entries,
    "retry_now": _put_off,
}
"""What has to happen first."""

REPEATED = {"make_topic", "name_stream", "make_groups", "remake_group", "drop_group", "note"}
"""Those that are several steps: a repeat completes them."""

PORTIONS = 8
"""In how many tests the steps are walked."""

AT_FULL_MEMORY = {"append_once", "append_once delayed", "delay"}
"""Those that are refused then."""


def commands_of(names: tuple[str, ...]) -> set[str]:
    """Return the commands that scripts call, as access rules name them."""
    return called_by(script for script in SCRIPTS.values() if script.name in names)


@pytest.fixture
async def scene(server: Server, namespace: str) -> AsyncIterator[Scene]:
    server.command("ACL", "SETUSER", USER, "reset", "on", "nopass", "~*", "&*", "+@all")
    urls = f"redis://{USER}:x@127.0.0.1:{server.port}/0", server.url
    broker, full = (RedisBroker(Link(parse_address(url)), namespace) for url in urls)
    scene = Scene(server, namespace, broker, full, [])
    yield scene
    await scene.close()
    scene.wipe()
    server.command("ACL", "DELUSER", USER)


def test_every_script_is_walked() -> None:
    assert {name for _, names in STEPS.values() for name in names} == {script.name for script in SCRIPTS.values()}


async def test_a_key_of_the_wrong_type_is_reported_where_type_is_forbidden(scene: Scene) -> None:
    """TYPE only tells which key it is. Without it, a step still ends, and still follows a stream that was cut (G2)."""
    await scene.set_up()
    scene.permit("-type")
    await make_or_grow(scene.full, "orders", 2)
    with anyio.fail_after(30):
        assert (await scene.broker.do(ReadRemaining(GROUP, 0))).pending == 4
        for key in ("g:billing:lease", "g:billing:retry"):
            scene.command("DEL", scene.key(key))
            scene.command("SET", scene.key(key), "somebody else's")
        with pytest.raises(DamagedKeyError, match=r"g:billing:lease is of the wrong type, and should be a hash"):
            await scene.broker.do(Release(GROUP, 0, TOKEN))
        with pytest.raises(DamagedKeyError, match=r"orders:0}:1 or one of .*:g:billing:retry, .* wrong type: permit TYPE"):
            await scene.broker.do(ReadRemaining(GROUP, 0))


@pytest.mark.parametrize("there", [True, False])
async def test_a_stream_gets_no_new_name_where_no_seal_may_be_left(scene: Scene, there: bool) -> None:
    """Otherwise a repeat would find nothing to do, and something could make a stream under the old name again (G2)."""
    await scene.set_up()
    if not there:
        scene.command("DEL", scene.key("0"))
    before = scene.snapshot()
    scene.permit("-set")
    with pytest.raises(ServerError) as refused:
        await scene.broker.do(NameStream("orders", 0, (1, 2)))
    assert refused.value.forbidden
    assert scene.snapshot() == before
    scene.permit()
    assert await scene.broker.do(NameStream("orders", 0, (1, 2))) == (1, 2)
    assert scene.command("GET", scene.key("0")) == b"1,2"


async def test_a_commit_that_may_not_tidy_up_is_done_all_the_same(scene: Scene) -> None:
    """What members of older versions leave behind is no reason to fail after the document was replaced (S2)."""
    await scene.set_up("commit")
    scene.command("HSET", scene.group_key("state"), *(word for number in range(40) for word in (f"member:{number}", "1 x")))
    before = scene.snapshot()
    scene.permit("-zscore")
    with pytest.raises(ServerError):
        await _commit(scene)
    assert scene.snapshot() == before
    scene.permit("-hkeys")
    await _commit(scene)
    scene.permit()
    assert "B" in (await scene.full.do(ViewGroup(GROUP))).members


@pytest.mark.parametrize("portion", range(PORTIONS))
async def test_one_right_less(scene: Scene, portion: int) -> None:
    """A command, or a channel: what is refused has changed nothing, or is completed by a repeat; what is only a hint fails nothing."""
    refused = 0
    for name, (step, script_names) in list(STEPS.items())[portion::PORTIONS]:
        commands = sorted(commands_of(script_names))
        await scene.begin_again()
        fresh = False
        for rule in [*(f"-{command}" for command in commands), "resetchannels"]:
            if not fresh:
                scene.permit()
                await scene.set_up(name)
            before = scene.snapshot()
            scene.permit(rule)
            try:
                await step(scene)
            except ServerError as error:
                failed: Exception | None = error
            else:
                failed = None
            fresh = False
            if failed is not None:
                assert isinstance(failed, ServerError), (name, rule, failed)
                assert failed.forbidden, (name, rule, failed)
                assert rule not in HINTS, (name, rule)
                refused += 1
                scene.permit()
                if name in REPEATED:
                    await step(scene)
                else:
                    assert scene.snapshot() == before, (name, rule)
                    fresh = True
    assert refused > 150 / PORTIONS / 2


def documented() -> tuple[str, ...]:
    """Return the rules that docs/operate/redis.md gives, for the namespace `redisaq`."""
    page = (Path(__file__).parents[2] / "docs" / "operate" / "redis.md").read_text()
    (line,) = re.findall(r"^ACL SETUSER worker on >secret (.+)$", page, re.MULTILINE)
    return tuple(line.split())


def test_the_documented_rights_are_those_that_are_used() -> None:
    assert sorted(documented()) == sorted(access_rules("redisaq"))


async def test_the_documented_rights_are_enough(scene: Scene) -> None:
    """For each step, and for a producer, a consumer and an Admin at work."""
    rules = [rule.replace("redisaq", scene.namespace) for rule in documented()]
    scene.command("ACL", "SETUSER", USER, "reset", "on", "nopass", *rules)
    scene.command("ACL", "LOG", "RESET")
    for name, (step, _) in STEPS.items():
        await scene.set_up(name)
        await step(scene)
    scene.wipe()
    url, namespace, got, failed = f"redis://{USER}:x@127.0.0.1:{scene.server.port}/0", scene.namespace, Counter[Any](), set[Any]()

    async def handle(message: Message[Any]) -> None:
        got[message.payload] += 1
        if message.payload in {1, 2} and message.payload not in failed:
            failed.add(message.payload)
            raise ValueError if message.payload == 1 else DeadLetter("at once")

    quick: dict[str, Any] = {"heartbeat_interval": 0.2, "heartbeat_ttl": 3.0}  # for so long a pause is not known yet (G4)
    consumer = Consumer("jobs", url, namespace=namespace, retry=RetryPolicy(backoff=0.0), **quick)
    async with (
        Producer("jobs", url, namespace=namespace, init_partitions=2, maxlen=100, retention="acked") as producer,
        Admin(url, namespace=namespace) as admin,
        anyio.create_task_group() as tasks,
    ):
        await tasks.start(consumer.process, handle)
        await producer.batch_enqueue([0, 1, 2, 3])
        await producer.enqueue(4, delay=0.05)
        await producer.enqueue(5, dedup_id="five")
        await producer.enqueue(6, dedup_id="six", delay=0.05)
        await producer.request_partition_increase(3)
        with anyio.fail_after(30):
            while len(got) < 7 or got[1] < 2:
                await anyio.sleep(0.01)
            while not await admin.redrive("jobs", "default_group"):
                await anyio.sleep(0.01)
            while got[2] < 2:
                await anyio.sleep(0.01)
        await admin.pause("jobs", "default_group")
        await admin.seek("jobs", "default_group", "latest")
        await admin.resume("jobs", "default_group")
        await admin.group("jobs", "default_group")
        await consumer.stop()
        await admin.delete_topic("jobs", force=True)
    assert [dict(zip(entry[::2], entry[1::2], strict=True))[b"object"] for entry in scene.command("ACL", "LOG")] == []


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_consumer_without_notifications_looks_every_second(scene: Scene, when: str) -> None:
    """It says so once, and hears of growth, of what is delayed, and of pauses in time."""
    url, got, told = f"redis://{USER}:x@127.0.0.1:{scene.server.port}/0", list[Any](), list[Event]()

    async def handle(message: Message[Any]) -> None:
        got.append(message.payload)

    if when == "before":
        scene.permit("resetchannels")
    consumer = Consumer("jobs", url, namespace=scene.namespace, heartbeat_interval=20.0, heartbeat_ttl=60.0, on_event=told.append)
    async with (
        Producer("jobs", scene.server.url, namespace=scene.namespace, init_partitions=2) as producer,
        anyio.create_task_group() as tasks,
    ):
        await tasks.start(consumer.process, handle)
        if when == "meanwhile":
            scene.permit("resetchannels")
        with anyio.fail_after(30):
            while not any(isinstance(event, NotificationsNotPermitted) for event in told):
                await anyio.sleep(0.01)
            await producer.batch_enqueue(["late"] * 2, delay=0.1)
            while len(got) < 2:
                await anyio.sleep(0.01)
            await producer.request_partition_increase(3)
            while len(consumer.assignment) < 3:
                await anyio.sleep(0.01)
        await consumer.stop()
    assert len([event for event in told if isinstance(event, NotificationsNotPermitted)]) == 1


async def test_a_new_group_at_full_memory_drains_it(scene: Scene) -> None:
    async with Producer("jobs", scene.server.url, namespace=scene.namespace) as producer:
        await producer.batch_enqueue([1, 2, 3])
    got: list[Any] = []

    async def handle(message: Message[Any]) -> None:
        got.append(message.payload)

    scene.command("CONFIG", "SET", "maxmemory", 1)
    try:
        with anyio.fail_after(30):
            await Consumer("jobs", scene.server.url, namespace=scene.namespace).process(handle, until_empty=True)
    finally:
        scene.command("CONFIG", "SET", "maxmemory", 0)
    assert got == [1, 2, 3]


async def test_full_memory(scene: Scene) -> None:
    """What a group needs to work off what fills the memory passes; what adds to it is refused whole."""
    for name, (step, _) in STEPS.items():
        await scene.set_up(name)
        before = scene.snapshot()
        scene.command("CONFIG", "SET", "maxmemory", 1)
        try:
            if name in AT_FULL_MEMORY:
                with pytest.raises(ServerError, match="OOM"):
                    await step(scene)
                assert scene.snapshot() == before, name
            else:
                await step(scene)
        finally:
            scene.command("CONFIG", "SET", "maxmemory", 0)
