"""What a process knows of the names of a topic's streams (G2): the answer to the latest question counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from redisaq.brokers.redis.coordination import heartbeat
from redisaq.brokers.redis.growing import announce, publish
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.topics import read_topic
from redisaq.brokers.steps.coordination import Heartbeat
from redisaq.brokers.steps.growing import Announce, Publish
from redisaq.brokers.steps.topics import ReadTopic
from redisaq.brokers.terms import GroupName

Answer = Callable[[list[bytes | None]], object]


def asked_by_reading(keys: Keys) -> Answer:
    _, answer = read_topic(ReadTopic("jobs"), keys)
    return lambda fields: answer([*fields, None])


def asked_by_announcing(keys: Keys) -> Answer:
    _, answer = announce(Announce("jobs", 1, 3), keys)
    return answer


def asked_by_publishing(keys: Keys) -> Answer:
    _, answer = publish(Publish("jobs", 1, (2, 3)), keys)
    return answer


def asked_by_a_heartbeat(keys: Keys) -> Answer:
    _, answer = heartbeat(Heartbeat(GroupName("jobs", "g"), "A", 60.0, known_version=""), keys)
    return lambda fields: answer([1, 1, b"", None, [], None, 1, 0, 0, 0, fields, 0, 0, 0])


def fields(*counts: int) -> list[bytes | None]:
    history = b",".join(b"%d" % count for count in counts) if len(counts) > 1 else None
    return [b"%d" % len(counts), b"%d" % counts[-1], None, None, None, history, None, None]


@pytest.mark.parametrize("earlier", [asked_by_reading, asked_by_announcing, asked_by_publishing, asked_by_a_heartbeat])
@pytest.mark.parametrize("later", [asked_by_reading, asked_by_announcing, asked_by_publishing, asked_by_a_heartbeat])
def test_who_takes_up_an_earlier_answer_late_does_not_bring_an_older_name_back(
    earlier: Callable[[Keys], Answer], later: Callable[[Keys], Answer]
) -> None:
    """A reader that was refused asks for the new name. If it found the old one again, it would take the stream for damaged, and end."""
    keys = Keys("ns")
    before, after = earlier(keys), later(keys)
    after(fields(2, 3))
    before(fields(2))
    assert keys.stream("jobs", 0) == b"{ns:jobs:0}:1"
    later(keys)(fields(1))  # lost, and made again with fewer
    assert keys.stream("jobs", 0) == b"{ns:jobs:0}:0"
