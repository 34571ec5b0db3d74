"""Every step is known to every broker, has a name of its own, and lies in one slot of a cluster."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest

from redisaq.brokers import steps
from redisaq.brokers.memory import MemoryStore
from redisaq.brokers.memory.registry import FUNCTIONS, does
from redisaq.brokers.redis.commands import keys_of
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import COMMANDS, SEQUENCES, Asked, command
from redisaq.brokers.steps import Broker, PartitionStep, Step
from redisaq.brokers.steps.producing import Delayed
from redisaq.brokers.steps.retention import Keeping, ReadKeeping
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import GroupName, ReaderMark
from redisaq.core.entry_ids import START, format_id
from redisaq.core.history import Change
from redisaq.core.membership import EMPTY
from redisaq.core.profile import Profile
from redisaq.core.records import Body
from redisaq.core.running import Report
from redisaq.core.waiting import Newcomer
from redisaq.link import key_of
from tests.conformance.steps import append
from tests.servers import Server

for module in pkgutil.iter_modules(steps.__path__):
    importlib.import_module(f"{steps.__name__}.{module.name}")


def _leaves(kind: type[Step[Any]]) -> list[type[Step[Any]]]:
    below = kind.__subclasses__()
    return [leaf for one in below for leaf in _leaves(one)] if below else [kind]


STEPS = [kind for kind in _leaves(Step) if kind.__module__.startswith(f"{steps.__name__}.")]

FIELDS: dict[str, object] = {
    "after": b"1-1",
    "anchor": b"1-1",
    "approximate": False,
    "before": b"1-1",
    "attempt": 2,
    "bodies": [],
    "below": b"1-1",
    "change": Change("grown"),
    "count": 10,
    "cuts": 1,
    "counts": {b"1-1": 2},
    "dead_maxlen": None,
    "dedup_id": "once",
    "document": EMPTY,
    "due": 1,
    "entry_id": b"1-1",
    "entry_ids": [b"1-1"],
    "fields": [b"i", b"m"],
    "force": True,
    "gather": 0.0,
    "generation": 0,
    "growth": 1,
    "history": (2, 4),
    "foreign": False,
    "group": GroupName("orders", "billing"),
    "groups": ["billing"],
    "ids": [b"1-1"],
    "incarnation": "A",
    "keeping": Keeping(acked=True, now=1, kept_for=1.0, idle=1.0, alone={}),
    "known_version": "",
    "job": "nightly",
    "last": None,
    "last_id": b"1-1",
    "latest": False,
    "leases": {0: 1},
    "letters": [(b"1-1", Body(b"1-1", (b"i", b"m"), 1))],
    "life": 0,
    "lives": [(b"1-1", Body(b"1-1", (b"i", b"m"), 1))],
    "max_backlog": 5,
    "maxlen": None,
    "messages": [Delayed(3, b"m", 1, [b"i", b"m"])],
    "moments": [1],
    "most": 200,
    "most_text": 200,
    "msg_id": b"m",
    "msg_ids": [b"m"],
    "new_version": "2",
    "newcomer": Newcomer("A", Profile()),
    "origin": 1,
    "partition": 3,
    "partitions": 4,
    "paused": True,
    "position": b"1-1",
    "read": 1,
    "readers": [ReaderMark(1, "127.0.0.1:1", "run")],
    "report": Report(0),
    "resolutions": [],
    "rows": [(b"m", b"1", b"")],
    "run": "run",
    "since": None,
    "token": 7,
    "until": b"7-1",
    "topic": "orders",
    "ttl": 1.0,
    "value": b"{}",
    "was": None,
    "window": 1.0,
}
"""What a step is made of here, by the names of fields that have no default."""


def _sample(kind: type[Step[Any]]) -> Step[Any]:
    needed = kind.__struct_fields__[: len(kind.__struct_fields__) - len(kind.__struct_defaults__)]
    return kind(*(FIELDS[field] for field in needed))


@pytest.mark.parametrize("kind", STEPS, ids=lambda kind: kind.__name__)
def test_both_brokers_know_the_step(kind: type[Step[Any]]) -> None:
    assert kind in FUNCTIONS, "no function in brokers/memory does it"
    assert (kind in COMMANDS) + (kind in SEQUENCES) == 1, "no function in brokers/redis does it"


@pytest.mark.parametrize("kind", STEPS, ids=lambda kind: kind.__name__)
def test_a_step_is_in_three_files_of_one_name(kind: type[Step[Any]]) -> None:
    """What it is, and how each broker does it; if a script does it on a server, that is the fourth."""
    name = kind.__module__.rpartition(".")[2]
    on_server: Callable[..., object] = COMMANDS.get(kind) or SEQUENCES[kind]
    assert FUNCTIONS[kind].__module__ == f"redisaq.brokers.memory.{name}"
    assert on_server.__module__ == f"redisaq.brokers.redis.{name}"


def test_no_two_steps_have_one_name() -> None:
    """Traces and faults would mix them up."""
    names = [kind.name for kind in STEPS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", [kind for kind in STEPS if kind in COMMANDS], ids=lambda kind: kind.__name__)
def test_all_keys_of_a_step_lie_where_it_says(kind: type[Step[Any]]) -> None:
    step = _sample(kind)
    asked, _ = COMMANDS[kind](step, Keys("shop"))
    keys = keys_of(asked)
    assert keys
    if step.place is None:
        assert keys == [b"shop:topics"]
        return
    topic, partition = step.place
    tag = f"{{shop:{topic}}}" if partition is None else f"{{shop:{topic}:{partition}}}"
    assert {key[: len(tag)].decode() for key in keys} == {tag}


def test_a_step_is_routed_as_the_server_would(valkey_server: Server) -> None:
    """By the key that a server sees first in its command."""
    for kind, ask in COMMANDS.items():
        if kind in STEPS:
            asked, _ = ask(_sample(kind), Keys("shop"))
            if asked[0] == b"SPUBLISH":  # a channel is no key, and belongs to a slot all the same
                assert key_of(asked) == asked[1]
                continue
            assert valkey_server.command("COMMAND", "GETKEYS", *asked)[0] == key_of(asked), kind.__name__


def test_a_step_is_registered_once() -> None:
    with pytest.raises(TypeError, match="ReadKeeping is registered already"):
        command(ReadKeeping)(COMMANDS[ReadKeeping])


def test_a_step_with_fields_says_what_it_was() -> None:
    """For logs and traces."""
    step = ReadKeeping(GroupName("orders", "billing"))
    assert step.name == "keeping"
    assert repr(step) == "ReadKeeping(group=GroupName(topic='orders', group='billing'))"


class Peek(PartitionStep[list[bytes]], frozen=True):
    """Return the ids of a stream's first entries: a new step is a struct, and a function for each broker."""

    count: int


@command(Peek)
def _command_of(step: Peek, keys: Keys) -> Asked[list[bytes]]:
    asked = (b"XRANGE", keys.stream(step.topic, step.partition), b"-", b"+", b"COUNT", step.count)
    return asked, lambda entries: [entry_id for entry_id, _ in entries]


@does(Peek)
def _done_at(store: MemoryStore, step: Peek) -> list[bytes]:
    return [format_id(entry_id) for entry_id, _ in store.streams[step.place].after(START, step.count)]


@pytest.mark.anyio
async def test_a_new_step(a: Broker, b: Broker) -> None:
    await a.do(MakeTopic("orders", 2))
    ids = await append(a, "orders", 1, b"1", b"2", b"3")
    assert await b.do(Peek("orders", 1, count=2)) == ids[:2]
    assert await b.do_each([Peek("orders", 0, count=2), Peek("orders", 1, count=9)]) == [[], ids]
    assert Peek.name == "peek"


@pytest.mark.anyio
async def test_no_steps_at_all(a: Broker) -> None:
    none: list[Peek] = []
    assert await a.do_each(none) == []
