"""Single steps at a server, to the digit: what each writes and answers, from which number on, how much it looks at, and when it rings.

Without an event loop: a step is one command, or a few. What steps mean on every broker stands in tests/conformance.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Any, TypeVar

import hiredis
import pytest

from redisaq.brokers.redis.commands import Reply
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.leases import DELIVERIES
from redisaq.brokers.redis.registry import COMMANDS, SEQUENCES
from redisaq.brokers.redis.scripts import SCRIPTS, Command
from redisaq.brokers.steps import Step
from redisaq.brokers.steps.administration import Disband, DropGroup, Note, SetPaused, ViewGroup
from redisaq.brokers.steps.coordination import MakeGroup, Watch
from redisaq.brokers.steps.growing import Adopt, Announce, NameStream, OpenBarrier, Publish
from redisaq.brokers.steps.leases import Claim, Fence, Install, Installed, Release, SetDeliveries
from redisaq.brokers.steps.messages import (
    CancelRetry,
    CountBacklog,
    CountDue,
    Counted,
    CountEntries,
    ListPending,
    RetryNow,
    Searched,
    SearchStream,
    SummariseEntries,
)
from redisaq.brokers.steps.producing import Confirm, Delay, Delayed, Find, ReadBacklog
from redisaq.brokers.steps.retention import ReadKeeping
from redisaq.brokers.steps.retrying import CountDead, DeadLetterSummary, Redrive, StartRetry, SummariseDead, TakeDue
from redisaq.brokers.steps.schedules import SetSchedule
from redisaq.brokers.steps.topics import FORMAT, MakeTopic, NoteHeldUp, ReadTopic, Terms, TopicState
from redisaq.brokers.terms import GroupName, ReaderMark
from redisaq.core.history import Change
from redisaq.core.records import Body, Failure, encode_dead, encode_retry, retry_prefix
from redisaq.errors import DamagedKeyError, ServerError
from tests.servers import Server

TOPIC, GROUP = "orders", GroupName("orders", "billing")
TOKEN = 1_700_000_000_123_457
HOUR = 3_600_000_000

R = TypeVar("R")


class Place:
    """A namespace of a server. It stands for a link, too, in steps that are several commands."""

    url = "redis://here"

    def __init__(self, server: Server, namespace: str) -> None:
        self.server, self.keys = server, Keys(namespace)
        self.share, self.group = self.keys.of_partition(GROUP, 0), self.keys.group(GROUP)
        self.stream = self.share.stream
        self.meta = self.keys.meta(TOPIC)

    def do(self, step: Step[R]) -> R:
        """Do one step, as the broker does it."""
        if type(step) in COMMANDS:
            command, answer = COMMANDS[type(step)](step, self.keys)
            reply = self._send(command)
            if isinstance(reply, ServerError):
                raise reply
            found: R = answer(reply)
            return found
        link: Any = self
        sequence: Any = SEQUENCES[type(step)](step, link, self.keys)
        try:
            sequence.send(None)
        except StopIteration as stop:
            done: R = stop.value
            return done
        raise AssertionError("it waits for something")

    async def call(self, *commands: Command) -> list[Reply]:
        return [self._send(command) for command in commands]

    def _send(self, command: Command) -> Reply:
        if command[0] == b"EVALSHA":
            _, sha, *rest = command
            command = (b"EVAL", SCRIPTS[sha].text, *rest)
        try:
            return self(*command)
        except hiredis.HiredisError as error:
            return ServerError(str(error))

    def __call__(self, *words: Any) -> Any:
        """Send the server a command."""
        return self.server.command(*words)

    def hash(self, key: bytes) -> dict[bytes, bytes]:
        words = self("HGETALL", key)
        return dict(zip(words[::2], words[1::2], strict=True))

    def fill(self, *ids: str, count: int = 0) -> None:
        """Append entries with these ids, or `1-0`, `2-0`, ...; the message ids are the same."""
        script = "for i, id in ipairs(ARGV) do redis.call('XADD', KEYS[1], id, 'i', id) end"
        self("EVAL", script, 1, self.stream, *(ids or [f"{number}-0" for number in range(1, count + 1)]))

    def own(self) -> None:
        """Let incarnation A hold partition 0, and the group be in its stream, from the beginning."""
        self.do(MakeGroup(GROUP, 0, latest=False))
        assert self.do(Install(GROUP, 0, TOKEN, "A", foreign=True)).done

    def deliver(self) -> None:
        self("XREADGROUP", "GROUP", "billing", "owner", "STREAMS", self.stream, ">")

    def now(self) -> int:
        """Return the server's time in microseconds."""
        seconds, microseconds = self("TIME")
        return int(seconds) * 1_000_000 + int(microseconds)

    def calls(self, name: str) -> int:
        """Return how often a command was called, also by scripts."""
        found = re.search(rf"cmdstat_{name}:calls=(\d+)", self("INFO", "commandstats").decode())
        return int(found[1]) if found else 0

    def writes(self) -> int:
        """Return how many changes there were."""
        found = re.search(r"rdb_changes_since_last_save:(\d+)", self("INFO", "persistence").decode())
        assert found is not None
        return int(found[1])

    def left(self) -> list[str]:
        """Return the keys of the topic that there are, without what is before the topic's name."""
        found = self("KEYS", f"*{self.keys.namespace}*")
        return sorted(key.decode().partition(f"{self.keys.namespace}:")[2] for key in found)


class Bell:
    """A subscriber that counts rings."""

    def __init__(self, server: Server, channel: bytes) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(20.0)
        self._socket.connect(str(server.socket_path))
        self._replies = hiredis.Reader()
        self._say(b"SSUBSCRIBE", channel)
        assert self._next()[0] == b"ssubscribe"

    def rings(self) -> int:
        """Return how often it has rung since it was last asked: what comes before the answer to a PING."""
        self._say(b"PING")
        count = 0
        while self._next()[0] == b"smessage":
            count += 1
        return count

    def close(self) -> None:
        self._socket.close()

    def _say(self, *words: bytes) -> None:
        self._socket.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub says: exactly one word

    def _next(self) -> Any:
        while (reply := self._replies.gets()) is False:
            self._replies.feed(self._socket.recv(65536))
        return reply


@pytest.fixture
def place(valkey_server: Server, namespace: str) -> Iterator[Place]:
    place = Place(valkey_server, namespace)
    yield place
    if keys := place("KEYS", f"*{namespace}*"):
        place("DEL", *keys)


@pytest.fixture
def bell(place: Place) -> Iterator[Bell]:
    """What partition 0 rings."""
    bell = Bell(place.server, place.keys.partition_doorbell(TOPIC, 0))
    yield bell
    bell.close()


@pytest.fixture
def topic_bell(place: Place) -> Iterator[Bell]:
    """What the topic rings."""
    bell = Bell(place.server, place.keys.topic_doorbell(TOPIC))
    yield bell
    bell.close()


# -- numbers and ids -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "counts"),
    [("9007199254740991", True), ("9007199254740992", False), ("0000000000000005", True), ("00000000000000005", False), ("5x", False)],
)
def test_a_number_that_redisaq_cannot_have_written_counts_as_none(place: Place, token: str, counts: bool) -> None:
    """M6: from 2 ** 53 on, or of more digits than that has."""
    place("HSET", place.share.lease, "token", token)
    assert place.do(Install(GROUP, 0, 1, "A", foreign=True)).done is not counts


@pytest.mark.parametrize(
    ("anchor", "complete"), [(b"5-6", False), (b"5-7", True), (b"5-8", True), (b"4-9", False), (b"6-0", True), (b"50-0", True)]
)
def test_ids_are_compared_by_time_and_then_by_sequence(place: Place, anchor: bytes, complete: bool) -> None:
    """E2: a search is complete if the first entry that is there is not above the anchor."""
    place.fill("5-1", "5-7")
    place("XDEL", place.stream, "5-1")
    assert place.do(Find(TOPIC, 0, anchor, [b"x"])).complete is complete


# -- how much one step looks at --------------------------------------------------------------------------------------------------------


def test_a_search_says_where_to_go_on(place: Place) -> None:
    place.fill(count=3)
    rests = [place.do(Find(TOPIC, 0, b"0-0", [b"3-0"], most)) for most in (1, 2, 3, 4)]
    assert [(found.present, found.rest) for found in rests] == [
        ((None,), b"1-0"),
        ((None,), b"2-0"),
        ((b"3-0",), b"3-0"),
        ((b"3-0",), None),
    ]


def test_a_message_is_found_wherever_its_id_stands(place: Place) -> None:
    """Of the fields of an entry, the first that is named `i` is its id."""
    for number, fields in enumerate((["i", "m", "p", "x"], ["p", "x", "i", "m"], ["i", "n", "i", "m"], ["p", "i", "x", "m"])):
        place("DEL", place.stream)
        place("XADD", place.stream, "1-0", *fields)
        assert (place.do(SearchStream(TOPIC, 0, b"m", b"", 9)).found is not None) == (number < 2), fields


def test_payloads_are_looked_at_a_few_at_a_time(place: Place) -> None:
    """They may be large, and a script that holds many of them holds up the server."""
    place.fill(count=1100)
    place.own()
    place("XGROUP", "SETID", place.stream, "billing", "100-0")  # from here on, the server does not know how many are unread
    asked: list[tuple[Step[Any], str, int]] = [
        (Find(TOPIC, 0, b"0-0", [b"x"], 1000), "xrange", 1 + 2),
        (Find(TOPIC, 0, b"0-0", [b"x"], 501), "xrange", 1 + 2),
        (CountEntries(TOPIC, 0, b"0-0", b"", 250), "xrange", 3),
        (SearchStream(TOPIC, 0, b"x", b"", 250), "xrevrange", 3),
        (SummariseEntries(TOPIC, 0, b"", 21, 5), "xrevrange", 3),
        (SummariseEntries(TOPIC, 0, b"", 21, 5, b"7-0"), "xrange", 3),
        (SummariseEntries(TOPIC, 0, b"", 1, 5), "xrevrange", 1),
        (ReadBacklog(TOPIC, 0), "xrange", 3),
    ]
    answers: list[Any] = []
    for step, command, looks in asked:
        before = place.calls(command)
        answers.append(place.do(step))
        assert place.calls(command) - before == looks, step
    assert [found.rest for found in answers[:2]] == [b"1000-0", b"501-0"]
    assert answers[2:4] == [Counted(250, b"250-0"), Searched(250, b"851-0")]
    assert [[row.entry_id for row in rows] for rows in answers[4:7]] == [
        [b"%d-0" % number for number in range(1100, 1079, -1)],
        [b"%d-0" % number for number in range(8, 29)],
        [b"1100-0"],
    ]
    assert answers[7] == 1000


def test_what_was_counted_is_not_counted_again(place: Place) -> None:
    """Only where nothing above the group's position was deleted can the server know it from then on."""
    place.fill(count=40)
    place.own()
    place("XGROUP", "SETID", place.stream, "billing", "10-0")

    def looks() -> int:
        before = place.calls("xrange")
        assert place.do(ReadBacklog(TOPIC, 0)) == place("XLEN", place.stream) - 10
        return place.calls("xrange") - before

    assert [looks(), looks()] == [1, 0]
    place("XDEL", place.stream, "20-0")
    assert [looks(), looks()] == [1, 1]


def test_a_backlog_is_counted_until_it_is_enough(place: Place) -> None:
    place.fill(count=1050)
    place.own()
    place("XGROUP", "SETID", place.stream, "billing", "30-0")
    place("XDEL", place.stream, "1000-0")
    assert [place.do(ReadBacklog(TOPIC, 0, enough)) for enough in (5, 1000, 1018, 1019, 5000)] == [6, 1001, 1019, 1019, 1019]
    assert [place.do(ReadBacklog(TOPIC, 0, fits=fits)) for fits in (1048, 1049)] == [1019, 1049], (
        "where all of them fit, nothing is counted"
    )


def test_deleted_entries_that_are_pending_are_work(place: Place) -> None:
    place.fill("1-0", "2-0")
    place.own()
    assert place.do(CountBacklog(GROUP, 0)) == 2
    place.deliver()
    assert place.do(CountBacklog(GROUP, 0)) == 2
    place("XDEL", place.stream, "1-0", "2-0")
    assert place.do(CountBacklog(GROUP, 0)) == 2


# -- leases ----------------------------------------------------------------------------------------------------------------------------


def test_who_is_refused_learns_for_which_growth_the_partition_is_open(place: Place) -> None:
    place.own()
    assert place.do(OpenBarrier(GROUP, 0, TOKEN, 7))
    assert place.do(Install(GROUP, 0, TOKEN + 1, "B", foreign=False)) == Installed(done=False, token=TOKEN, holder="A", opened=7)
    assert place.do(Install(GROUP, 0, TOKEN + 1, "B", foreign=True)) == Installed(done=True, token=TOKEN + 1, holder="A", opened=7)


def test_fencing_under_another_token_leaves_the_readers_on_the_list(place: Place) -> None:
    place.own()
    marks = [ReaderMark(number, "x", "run") for number in (1, 2)]
    fields = [f"reader:{mark.client_id}:run" for mark in marks]
    place("HSET", place.share.lease, *(word for field in fields for word in (field, "x")))
    unregister = next(script for script in SCRIPTS.values() if script.name == "unregister")
    for token, left in ((TOKEN - 1, 2), (TOKEN, 0)):
        place("EVAL", unregister.text, 1, place.share.lease, token, *fields)
        assert len(place("HKEYS", place.share.lease)) == 2 + left


def test_a_claim_that_finds_all_bodies_writes_nothing(place: Place) -> None:
    """And each whose body is gone is acknowledged, and counted once."""
    place.fill("1-0", "2-0", "3-0", "4-0")
    place.own()
    place.deliver()
    lease, writes = place.hash(place.share.lease), place.writes()
    assert len(place.do(Claim(GROUP, 0, TOKEN, after=b"", count=10)).entries) == 4
    assert (place.hash(place.share.lease), place.writes()) == (lease, writes)
    for gone, lost in ((["1-0"], b"1"), (["2-0", "4-0"], b"3")):
        place("XDEL", place.stream, *gone)
        assert place.do(Claim(GROUP, 0, TOKEN, after=b"", count=10)).trimmed == tuple(name.encode() for name in gone)
        assert place.hash(place.share.lease)[b"lost"] == lost
    assert [row[0] for row in place("XPENDING", place.stream, "billing", "-", "+", 9)] == [b"3-0"]


def test_pages_of_pending_entries_have_as_many_as_were_asked_for(place: Place) -> None:
    place.fill("1-0", "2-0", "3-0")
    place.own()
    place.deliver()
    pages = [place.do(Claim(GROUP, 0, TOKEN, after=b"", count=count)) for count in (1, 2, 3)]
    assert [(len(page.entries), page.last) for page in pages] == [(1, b"1-0"), (2, b"2-0"), (3, None)]


def test_a_raise_that_was_done_before_changes_nothing(place: Place) -> None:
    """Also not when the entry was last delivered, which administrators see."""
    place.fill("1-0")
    place.own()
    place.deliver()
    place("XCLAIM", place.stream, "billing", "owner", 0, "1-0", "IDLE", 60_000, "RETRYCOUNT", 3)

    def row() -> tuple[int, bool]:
        (found,) = place("XPENDING", place.stream, "billing", "-", "+", 1)
        return found[3], found[2] >= 60_000

    for count in (3, 2):
        assert place.do(SetDeliveries(GROUP, 0, TOKEN, {b"1-0": count}, raising=True))
        assert row() == (3, True)
    assert place.do(SetDeliveries(GROUP, 0, TOKEN, {b"1-0": 4}, raising=True))
    assert row() == (4, False)


def test_a_count_is_set_in_the_very_millisecond_of_the_delivery(place: Place) -> None:
    place.fill("1-0")
    place.own()
    deliver = b"redis.call('XREADGROUP', 'GROUP', 'billing', 'owner', 'STREAMS', KEYS[1], '>')\n"  # for a script, time stands still
    text = deliver + DELIVERIES.text
    assert place("EVAL", text, 2, place.stream, place.share.lease, "billing", TOKEN, 0, "1-0", 5) == 1
    assert place("XPENDING", place.stream, "billing", "-", "+", 1)[0][3] == 5


# -- retries ---------------------------------------------------------------------------------------------------------------------------


def test_an_attempt_with_one_more_digit_is_begun_once(place: Place) -> None:
    """T5: a repeat finds it done; the rest of the body stays."""
    place.own()
    before, after = (encode_retry(Body(b"7-1", (b"i", b"1"), 0, attempt)) for attempt in (9, 10))
    place("HSET", place.share.retry_bodies, "7-1", before)
    start = StartRetry(GROUP, 0, TOKEN, entry_id=b"7-1", life=0, attempt=10)
    for _ in range(2):
        assert place.do(start) is True
        assert place.hash(place.share.retry_bodies) == {b"7-1": after}
    assert place.do(StartRetry(GROUP, 0, TOKEN, entry_id=b"7-1", life=0, attempt=12)) is False
    place("HSET", place.share.retry_bodies, "7-1", retry_prefix(0, 100))
    assert place.do(StartRetry(GROUP, 0, TOKEN, entry_id=b"7-1", life=0, attempt=11)) is False
    assert place.do(Release(GROUP, 0, TOKEN)) is True
    assert place.do(start) is False


def put_off(place: Place, *due: int) -> list[bytes]:
    """Let messages wait in `retry`; return their ids."""
    ids = [b"%d-0" % number for number in range(len(due))]
    for entry_id, when in zip(ids, due, strict=True):
        place("ZADD", place.share.retry, when, entry_id)
        place("HSET", place.share.retry_bodies, entry_id, "body")
    return ids


def waiting(place: Place) -> dict[bytes, int]:
    words = place("ZRANGE", place.share.retry, 0, -1, "WITHSCORES")
    return {name: int(score) for name, score in zip(words[::2], words[1::2], strict=True)}


def test_each_message_that_is_cancelled_counts(place: Place) -> None:
    ids = put_off(place, 1, 2, 3)
    assert place.do(CancelRetry(GROUP, 0, ids[0]))
    assert place("EXISTS", place.share.lease) == 0, "before the first owner, nobody asks"
    place.own()
    for entry_id, moves in ((ids[1], b"1"), (ids[1], b"1"), (ids[2], b"2")):
        place.do(CancelRetry(GROUP, 0, entry_id))
        assert place.hash(place.share.lease) == {b"token": b"%d" % TOKEN, b"holder": b"A", b"moves": moves}


def test_what_is_retried_now_is_due_one_microsecond_after_the_other(place: Place, bell: Bell) -> None:
    """Past what was redriven, or retried, before; so what comes later is due later."""
    coming = place.now() + 2 * HOUR
    ids = put_off(place, coming, coming, coming - 1, coming, coming + 1)
    last = place.now() + HOUR // 2
    place("HSET", place.share.lease, "redriven", last)
    assert place.do(RetryNow(GROUP, 0, [ids[3], ids[0], ids[2], ids[0], ids[4], b"8-8"], 4)) == 4
    assert waiting(place) == {ids[2]: last + 1, ids[3]: last + 2, ids[0]: last + 3, ids[4]: last + 4, ids[1]: coming}
    assert place.hash(place.share.lease) == {b"redriven": b"%d" % (last + 4)}
    assert bell.rings() == 1
    assert place.do(RetryNow(GROUP, 0, [ids[1], ids[0]], 1)) == 1
    assert waiting(place)[ids[1]] == last + 5
    assert bell.rings() == 1


def test_of_many_no_more_are_retried_now_than_was_asked_for(place: Place, bell: Bell) -> None:
    coming = place.now() + HOUR
    ids = put_off(place, *range(coming, coming + 30))
    assert place.do(RetryNow(GROUP, 0, None, 1)) == 1
    assert place.do(RetryNow(GROUP, 0, ids, 2)) == 2
    before = place.now()
    first, second, third = (waiting(place)[entry_id] for entry_id in ids[:3])
    assert first < second < third <= before
    assert bell.rings() == 2
    assert place.do(RetryNow(GROUP, 0, ids[:3], 9)) == place.do(RetryNow(GROUP, 0, [], 9)) == 0
    assert (waiting(place)[ids[0]], bell.rings()) == (first, 0)


def test_many_of_one_time_are_retried_now_in_the_order_given(place: Place) -> None:
    coming = place.now() + HOUR
    ids = put_off(place, *[coming] * 40)
    order = ids[1::2] + ids[0::2]
    assert place.do(RetryNow(GROUP, 0, order, 40)) == 40
    assert sorted(ids, key=waiting(place).__getitem__) == order


def die(place: Place, entry_id: bytes, failure: Failure | None = None, fields: tuple[bytes, ...] = (b"i", b"1")) -> bytes:
    """Add a dead letter; return its id."""
    dead_id: bytes = place("XADD", place.share.dead, "*", *encode_dead(Body(entry_id, fields, 0, 1, failure)))
    return dead_id


def test_every_redriven_message_counts_once_and_what_is_not_there_changes_nothing(place: Place, bell: Bell) -> None:
    place.fill("1-0")
    place.own()
    lease = place.hash(place.share.lease)
    bodies = [Body(b"%d-0" % number, (b"i", b"1"), 1) for number in range(4)]
    letters = [(die(place, body.entry_id), body) for body in bodies]
    writes = place.writes()
    assert place.do(Redrive(GROUP, 0, [(b"1-1", bodies[0])], cuts=0)) == 0
    assert (place.hash(place.share.lease), place.writes(), bell.rings(), waiting(place)) == (lease, writes, 0, {})
    ahead = place.now() + HOUR // 2
    place("HSET", place.share.lease, "redriven", ahead)
    for count, some in ((1, letters[:1]), (3, letters[1:3])):
        assert place.do(Redrive(GROUP, 0, some, cuts=0)) == len(some)
        redriven = {b"redriven": b"%d" % (ahead + count), b"again": b"%d" % count}
        assert place.hash(place.share.lease) == {**lease, **redriven}
        assert bell.rings() == 1
    assert waiting(place) == {b"0-0": ahead + 1, b"1-0": ahead + 2, b"2-0": ahead + 3}
    place("ZADD", place.share.retry, 5, b"3-0")  # delivered once more meanwhile, and failed (T6)
    assert place.do(Redrive(GROUP, 0, letters[3:], cuts=0)) == 1
    assert place.hash(place.share.lease) == {**lease, b"redriven": b"%d" % (ahead + 4), b"again": b"3"}
    assert waiting(place)[b"3-0"] == 5


def test_a_last_time_that_redisaq_cannot_have_written_puts_nothing_off(place: Place) -> None:
    """It is more than an hour ahead of the clock."""
    place.fill("1-0")
    (entry_id,) = put_off(place, place.now() + HOUR)
    place("HSET", place.share.lease, "redriven", place.now() + 2 * HOUR)
    assert place.do(RetryNow(GROUP, 0, None, 5)) == 1
    assert waiting(place)[entry_id] <= place.now()
    place("HSET", place.share.lease, "redriven", place.now() + 2 * HOUR)
    assert place.do(Redrive(GROUP, 0, [(die(place, b"7-7"), Body(b"7-7", (b"i", b"1"), 1))], cuts=0)) == 1
    assert waiting(place)[b"7-7"] <= place.now()


# -- dead letters ----------------------------------------------------------------------------------------------------------------------


def frame(file: str = "/srv/app.py", line: int = 7, name: str = "work") -> str:
    return f'Traceback (most recent call last):\n  File "{file}", line {line}, in {name}\nValueError\n'


def broken(error_type: str = "ValueError", text: str = "it broke", traceback: str = frame()) -> Failure:
    return Failure(error_type, text, traceback, 1, 1, 2, "A")


def test_dead_letters_are_alike_if_error_text_file_line_and_function_are(place: Place) -> None:
    """Of the text as much counts as is shown; entries of others are alike."""
    failures = [
        broken(),
        broken("KeyError"),
        broken(text="it stuck"),
        broken(traceback=frame(file="/srv/other.py")),
        broken(traceback=frame(line=8)),
        broken(traceback=frame(name="rest")),
    ]
    for failure in [*failures, broken(text="it broke again"), *failures[::-1]]:
        die(place, b"1-0", failure)
    others = [place("XADD", place.share.dead, "*", "foreign", "one") for _ in range(3)]
    found = place.do(CountDead(GROUP, 0, b"", 100, 8))
    assert (found.number, [kind.number for kind in found.kinds]) == (16, [3, 3, 2, 2, 2, 2, 2])
    assert (found.kinds[0].newest, found.kinds[0].oldest, found.kinds[0].foreign) == (others[2], others[0], True)
    assert [(kind.error_type, kind.error, kind.frame) for kind in found.kinds[1:3]] == [
        (b"ValueError", b"it broke", (b"/srv/app.py", b"7", b"work")),
        (b"KeyError", b"it broke", (b"/srv/app.py", b"7", b"work")),
    ]


@pytest.mark.parametrize("file", ["<frozen runpy>", "/Lib/runpy.py", "C:\\Python\\Lib\\runpy.py", "/lib/python3.13/runpy.py"])
def test_frames_of_libraries_are_not_the_users(place: Place, file: str) -> None:
    traceback = frame() + frame(file)
    dead_id = die(place, b"1-0", broken(traceback=traceback))
    (found,) = place.do(SummariseDead(GROUP, 0, b"", 1, 100))
    assert (found.dead_id, found.frame) == (dead_id, (b"/srv/app.py", b"7", b"work"))


def test_a_dead_letter_without_fields_of_its_own_is_one(place: Place) -> None:
    dead_id = die(place, b"1-0", broken(), ())
    (found,) = place.do(SummariseDead(GROUP, 0, b"", 9, 100))
    assert found == DeadLetterSummary(dead_id, b"", None, b"ValueError", b"it broke", 1, b"1-0", 0, (b"/srv/app.py", b"7", b"work"))
    place("XADD", place.share.dead, "*", "error", "nothing", "more", "here")
    assert place.do(SummariseDead(GROUP, 0, b"", 1, 100))[0].foreign


# -- groups ----------------------------------------------------------------------------------------------------------------------------


def test_a_group_that_is_disbanded_leaves_nothing_but_what_is_beside_its_partitions(place: Place) -> None:
    group, meta = place.group, place.meta
    for key in (group.state, group.deltas, group.room, group.freed):
        place("HSET", key, "some", "thing")
    place("ZADD", group.members, 1, "A")
    place("XADD", group.history, "*", "c", "1")
    place("HSET", meta, "alone:billing", "5", "alone:other", "6")
    assert place.do(Disband(GROUP, force=False, keeps_history=True)) == ()
    assert place.left() == [f"{TOPIC}}}:g:billing:history", f"{TOPIC}}}:meta"]
    assert place.hash(meta) == {b"alone:other": b"6"}
    place.do(Disband(GROUP, force=False))
    assert place.left() == [f"{TOPIC}}}:meta"]


def test_a_member_lives_until_its_time_runs_out(place: Place) -> None:
    for name, ahead in (("A", 0), ("B", 60_000)):
        place("ZADD", place.group.members, place.now() // 1000 + ahead, name)
    assert place.do(Disband(GROUP, force=False)) == ("B",)


def test_a_group_that_is_dropped_leaves_the_stream_alone(place: Place) -> None:
    place.fill("1-0")
    place.own()
    put_off(place, 5)
    die(place, b"1-0")
    place.do(DropGroup(GROUP, 0))
    assert place.left() == [f"{TOPIC}:0}}:0"]
    assert place("XINFO", "GROUPS", place.stream) == []


def test_since_when_a_group_is_paused(place: Place) -> None:
    """From the first pause on, in the server's milliseconds; an older version resumes it and leaves that behind."""

    def since() -> tuple[bool, int]:
        found = place.do(ViewGroup(GROUP))
        return found.paused, found.paused_at

    before = place.now() // 1000 * 1000
    place.do(SetPaused(GROUP, paused=True))
    paused, first = since()
    assert paused
    assert before <= first <= place.now()
    place("HSET", place.group.state, "paused_at", 5)
    place.do(SetPaused(GROUP, paused=True))
    assert since() == (True, 5000)
    place("HDEL", place.group.state, "paused")
    assert since() == (False, 0)
    place.do(SetPaused(GROUP, paused=True))
    assert since()[1] >= first
    place.do(SetPaused(GROUP, paused=False))
    assert (since(), place.left()) == ((False, 0), [])


SECOND = 1_000_000


@pytest.mark.parametrize(
    ("state", "since"),
    [
        ({}, "alone"),
        ({"born": "3000"}, "3000"),
        ({"changed": "4000", "born": "3000"}, "4000"),
        ({"changed": "x", "born": "3000"}, "3000"),
        ({"changed": "4000", "born": "x"}, "4000"),
        ({"changed": "x", "born": "x"}, "alone"),
    ],
)
def test_since_when_a_group_is_alone(place: Place, state: dict[str, str], since: str) -> None:
    """Since its document last changed, or since it was born; where neither is known, since somebody asked first."""
    place("HSET", place.meta, "retention", "acked")
    if state:
        place("HSET", place.group.state, *(word for pair in state.items() for word in pair))
    before = place.now() // 1000 * 1000
    keeping = [place.do(ReadKeeping(GROUP)) for _ in range(2)][1]
    alone = place("HGET", place.meta, "alone:billing")
    assert (alone is not None) is (since == "alone")
    if alone is not None:
        assert before <= int(alone) * 1000 <= keeping.now
    assert keeping.alone == {"billing": (keeping.now - int(alone or since) * 1000) / SECOND}
    if "x" not in state.values():
        found = place.do(ViewGroup(GROUP))
        assert found.alone == (found.now - int(alone or since) * 1000) / SECOND


def test_at_full_memory_the_time_alone_begins_too(place: Place) -> None:
    """S2: else nobody would ever trim what fills the memory."""
    place("HSET", place.meta, "retention", "acked")
    place("CONFIG", "SET", "maxmemory", 1)
    try:
        assert place.do(ReadKeeping(GROUP)).alone.keys() == {"billing"}
    finally:
        place("CONFIG", "SET", "maxmemory", 0)


def test_a_member_that_crashed_was_there_until_its_time_ran_out(place: Place) -> None:
    place("ZADD", place.group.members, 7000, "A", 6000, "B")
    place("HSET", place.meta, "retention", "acked", "send_timeout", "5000", "retention_idle", "8000")
    keeping = place.do(ReadKeeping(GROUP))
    assert (keeping.alone, keeping.idle) == ({"billing": (keeping.now - 7_000_000) / SECOND}, 8.0)
    assert place("HGET", place.meta, "alone:billing") is None
    assert place.do(ViewGroup(GROUP)).members == {"A": 7_000_000, "B": 6_000_000}


def test_a_groups_history_has_an_end(place: Place) -> None:
    """Whatever writes it; a server drops entries many at a time."""
    add = "for i = 1, 1500 do redis.call('XADD', KEYS[1], '*', 'c', '{}') end"
    for step in (SetPaused(GROUP, paused=True, change=Change("paused")), Note(GROUP, Change("sought"))):
        place("EVAL", add, 1, place.group.history)
        place.do(step)
        assert 1000 <= place("XLEN", place.group.history) < 1200
        place("DEL", place.group.history)


def test_for_how_long_a_group_is_watched(place: Place) -> None:
    place("HSET", place.group.state, "version", "v")
    before = place.now() // 1000
    place.do(Watch(GROUP, 30.0))
    assert before + 30_000 <= int(place("HGET", place.group.state, "watched")) <= place.now() // 1000 + 30_000


# -- topics ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["generation", "partitions", "retention", "send_timeout", "retention_idle"])
def test_half_a_topic_is_not_made_whole(place: Place, topic_bell: Bell, field: str) -> None:
    """The number of partitions, and what they hold, would be a guess."""
    place("HSET", place.meta, field, "7")
    with pytest.raises(DamagedKeyError):
        place.do(MakeTopic(TOPIC, 2, Terms(30.0, acked=True, idle=60.0)))
    assert place.hash(place.meta) == {field.encode(): b"7"}
    assert topic_bell.rings() == 0


@pytest.mark.parametrize("field", ["generation", "partitions", "format"])
def test_nothing_is_written_into_a_damaged_topic(place: Place, field: str) -> None:
    meta = {b"generation": b"0", b"partitions": b"2", b"format": b"1", field.encode(): b"x"}
    place("HSET", place.meta, *(word for pair in meta.items() for word in pair))
    for step in (MakeTopic(TOPIC, 2, Terms(30.0, acked=True, idle=60.0)), Announce(TOPIC, 0, 5), Publish(TOPIC, 0, (2, 5))):
        with pytest.raises(DamagedKeyError):
            place.do(step)
        assert place.hash(place.meta) == meta


def test_of_times_the_largest_is_kept_and_what_is_kept_is_not_written_again(place: Place, topic_bell: Bell) -> None:
    """Each producer asks for its terms when it begins."""
    kept = {b"generation": b"0", b"partitions": b"2", b"format": b"1"}
    place.do(MakeTopic(TOPIC, 2))
    assert (place.hash(place.meta), topic_bell.rings()) == (kept, 1)
    for terms, times in (
        (Terms(30.0), (b"30000", None)),
        (Terms(20.0, acked=True, idle=60.0), (b"30000", b"60000")),
        (Terms(30.0, acked=True, idle=60.0), (b"30000", b"60000")),
        (Terms(31.0, acked=True, idle=61.0), (b"31000", b"61000")),
        (Terms(30.0, acked=True, idle=50.0), (b"31000", b"61000")),
    ):
        before, writes = place.hash(place.meta), place.writes()
        place.do(MakeTopic(TOPIC, 2, terms))
        found = place.hash(place.meta)
        assert (found[b"send_timeout"], found.get(b"retention_idle"), found.get(b"retention")) == (*times, b"acked" if times[1] else None)
        assert (place.writes() > writes) is (found != before), terms
    assert topic_bell.rings() == 0
    place("HSET", place.meta, "format", FORMAT)
    place.do(MakeTopic(TOPIC, 2, Terms(32.0)))
    assert place("HGET", place.meta, "send_timeout") == b"32000"


def test_what_was_announced_stands_until_as_many_are_there(place: Place) -> None:
    """G1: a version that announces nothing may have published as many, or more, since."""
    place.do(MakeTopic(TOPIC, 5))
    meta = place.hash(place.meta)
    assert place.do(Announce(TOPIC, 0, 5)) == TopicState(0, 5)
    assert place.hash(place.meta) == meta, "as many as there are are no growth"
    for stands, announced, pending in ((b"6", 9, b"6"), (b"5", 9, b"9"), (b"4", 7, b"7"), (b"x", 9, b"x")):
        place("HSET", place.meta, "pending", stands)
        if stands == b"x":
            with pytest.raises(DamagedKeyError):
                place.do(Announce(TOPIC, 0, announced))
        else:
            place.do(Announce(TOPIC, 0, announced))
        assert place("HGET", place.meta, "pending") == pending


def test_a_growth_is_noted_with_its_time_and_rings(place: Place, topic_bell: Bell) -> None:
    place.do(MakeTopic(TOPIC, 2))
    place.do(Announce(TOPIC, 0, 5))
    assert topic_bell.rings() == 1
    before = place.now() // 1000
    published = place.do(Publish(TOPIC, 0, (2, 5)))
    assert published is not None
    assert before <= published.grown <= place.now() // 1000
    grown = b"%d" % published.grown
    kept = {b"generation": b"1", b"partitions": b"5", b"format": b"2", b"history": b"2,5", b"grown": grown}
    assert (place.hash(place.meta), topic_bell.rings()) == (kept, 1)
    assert place.do(Publish(TOPIC, 0, (2, 9))) == place.do(Publish(TOPIC, 1, (2, 4))) == published
    assert (place.hash(place.meta), topic_bell.rings()) == (kept, 0)
    again = place.do(Publish(TOPIC, 1, (2, 4, 5)))
    assert again is not None
    assert (again.generation, again.partitions, topic_bell.rings()) == (2, 5, 1)


def test_when_a_producer_was_held_up(place: Place) -> None:
    place.do(MakeTopic(TOPIC, 2))
    before = place.now() // 1000 * 1000
    place.do(NoteHeldUp(TOPIC, 1, 10))
    state = place.do(ReadTopic(TOPIC))
    assert state is not None
    assert state.held_up is not None
    assert before <= state.held_up.at <= place.now()


# -- what moves to other partitions, and what waits for its time -----------------------------------------------------------------------


def test_marks_of_adopted_messages_stay_for_a_week_from_the_last_one_on(place: Place, bell: Bell) -> None:
    """G8. What they mark stays until it is due."""
    adopted, week = place.keys.adopted(TOPIC, 0), 7 * 86_400_000
    row = (b"m", b"%d" % (place.now() + HOUR), b"body")
    place.fill("1-0")
    for rings in (1, 0):
        assert place.do(Adopt(TOPIC, 0, 3, [row], 0))
        assert week - 60_000 < place("PTTL", adopted) <= week
        assert place.hash(adopted) == {b"3:m": b"1"}
        assert [place("PTTL", key) for key in (place.share.delayed, place.share.delayed_bodies)] == [-1, -1]
        assert place.hash(place.share.delayed_bodies) == {b"m": b"body"}
        assert bell.rings() == rings
        place("PEXPIRE", adopted, 5000)
    later = (b"n", b"%d" % (place.now() + 2 * HOUR), b"body")
    assert place.do(Adopt(TOPIC, 0, 3, [row, later], 0))
    assert (place("ZCARD", place.share.delayed), place.hash(adopted), bell.rings()) == (2, {b"3:m": b"1", b"3:n": b"1"}, 0)


def test_only_what_is_due_before_a_moment_counts(place: Place) -> None:
    place.fill("1-0")
    assert place.do(Delay(TOPIC, 0, [Delayed(0, b"%d" % due, due, [b"i", b"1"]) for due in (5, 6, 7)]))
    assert place.do(CountDue(TOPIC, 0, [5, 6, 7, 8])) == [0, 1, 2, 3]


def names(place: Place, growths: int) -> list[bytes]:
    """Return the names that the stream has had, and gets: the first one first."""
    return [place.keys.stream(TOPIC, 0, number) for number in range(growths + 1)]


@pytest.mark.parametrize("found", [0, 1])
def test_a_stream_is_found_under_the_oldest_of_its_names(place: Place, found: int) -> None:
    """G2: it gets the latest one, every cut since is at its end, and a seal under each older name says how the topic had grown by then."""
    stream = names(place, 2)
    if found:
        place("SET", stream[0], "1,2")
    place("XADD", stream[found], "5-5", "i", "1")
    assert place.do(NameStream(TOPIC, 0, (1, 2, 3))) == (1, 2, 3)
    assert [place("GET", name) for name in stream[:2]] == [b"1,2", b"1,2,3"]
    assert place("XLEN", stream[2]) == 1
    assert place.hash(place.share.cuts) == {b"%d" % number: b"5-5" for number in range(found + 1, 3)}
    left = place.left()
    assert place.do(NameStream(TOPIC, 0, (1, 2, 3))) == (1, 2, 3)
    assert place.left() == left


def test_a_new_stream_of_a_topic_that_has_grown_stands_behind_its_cuts(place: Place) -> None:
    """G2: nobody who knows an older name makes a stream under that. A cut that was noted before stays."""
    stream = names(place, 2)
    place("HSET", place.share.cuts, "2", "7-7")
    assert place.do(NameStream(TOPIC, 0, (1, 2, 3))) == (1, 2, 3)
    assert [place("GET", name) for name in stream[:2]] == [b"1,2", b"1,2,3"]
    assert (place("XLEN", stream[2]), place("XINFO", "GROUPS", stream[2])) == (0, [])
    assert place.hash(place.share.cuts) == {b"1": b"0-0", b"2": b"7-7"}


def test_an_empty_stream_under_the_latest_name_gives_way(place: Place) -> None:
    """G2: unless there ever was an entry in it."""
    stream = names(place, 1)
    place("XADD", stream[0], "5-5", "i", "1")
    place("XGROUP", "CREATE", stream[1], "somebody", "$", "MKSTREAM")
    assert place.do(NameStream(TOPIC, 0, (1, 2))) == (1, 2)
    assert (place("XLEN", stream[1]), place("XINFO", "GROUPS", stream[1])) == (1, [])
    place("DEL", stream[0])
    place("XADD", stream[0], "6-6", "i", "2")
    place("XDEL", stream[1], "5-5")
    with pytest.raises(ServerError, match="DAMAGED"):
        place.do(NameStream(TOPIC, 0, (1, 2)))


def test_who_takes_what_is_confirmed_for_written_has_something_to_wait_for(place: Place, bell: Bell) -> None:
    """C7: WAIT waits for what was written; nothing of it stays."""
    writes = place.writes()
    place.do(Confirm(TOPIC, 0))
    assert place.writes() > writes
    assert (place.left(), bell.rings()) == ([], 1)


def test_when_pending_entries_were_delivered(place: Place) -> None:
    place.fill("1-0")
    place.own()
    before = place.now() // 1000 * 1000
    place.deliver()
    (row,) = place.do(ListPending(GROUP, 0, b"", 5)).rows
    assert before <= row.since <= place.now()


def test_yes_and_no(place: Place) -> None:
    """Steps that answer whether they were done."""
    place.own()
    assert place.do(SetSchedule(TOPIC, "nightly", was=None, value=b"{}")) is True
    assert place.do(SetSchedule(TOPIC, "nightly", was=None, value=b"[]")) is False
    assert [place.do(OpenBarrier(GROUP, 0, TOKEN + number, 1)) for number in (0, 1)] == [True, False]
    assert [place.do(SetDeliveries(GROUP, 0, TOKEN + number, {})) for number in (0, 1)] == [True, False]
    assert place.do(Fence(GROUP, 0, TOKEN, [])) is True
    assert place.do(NameStream(TOPIC, 1, ())) == ()
    assert place.do(TakeDue(GROUP, 0, TOKEN, count=1)).moved == 0
    assert [place.do(Release(GROUP, 0, TOKEN + number)) for number in (1, 0)] == [False, True]
