"""What is kept of cron jobs."""

from __future__ import annotations

import pytest

from redisaq.brokers.steps import Broker
from redisaq.brokers.steps.administration import DropTopic
from redisaq.brokers.steps.schedules import ReadSchedules, SetSchedule
from redisaq.brokers.steps.topics import MakeTopic
from redisaq.brokers.terms import GroupName
from tests.conformance.failures import now

pytestmark = pytest.mark.anyio


async def kept(broker: Broker, topic: str = "app-cron") -> dict[str, bytes]:
    return dict((await broker.do(ReadSchedules(topic))).kept)


async def test_a_write_replaces_only_what_its_writer_has_read(a: Broker, b: Broker) -> None:
    assert await kept(a) == {}
    assert await a.do(SetSchedule("app-cron", "nightly", was=None, value=b"one"))
    assert await a.do(SetSchedule("app-cron", "nightly", was=None, value=b"one"))  # repeated: it stands
    assert not await b.do(SetSchedule("app-cron", "nightly", was=None, value=b"two"))
    assert await b.do(SetSchedule("app-cron", "nightly", was=b"one", value=b"three"))
    assert not await a.do(SetSchedule("app-cron", "nightly", was=b"one", value=b"four"))  # a slow one never puts it back
    assert await a.do(SetSchedule("app-cron", "hourly", was=None, value=b"\x00\xff"))
    assert await kept(b) == {"nightly": b"three", "hourly": b"\x00\xff"}
    assert await kept(b, "other-cron") == {}


async def test_a_job_that_is_gone(a: Broker, b: Broker) -> None:
    await a.do(SetSchedule("app-cron", "nightly", was=None, value=b"one"))
    assert not await b.do(SetSchedule("app-cron", "nightly", was=b"other", value=None))
    assert await b.do(SetSchedule("app-cron", "nightly", was=b"one", value=None))
    assert await b.do(SetSchedule("app-cron", "nightly", was=b"one", value=None))
    assert not await a.do(SetSchedule("app-cron", "nightly", was=b"one", value=b"two"))
    assert await kept(a) == {}


async def test_the_time_is_the_servers(a: Broker) -> None:
    group = GroupName("app-cron", "cron")
    before = await now(a, group)
    assert before <= (await a.do(ReadSchedules("app-cron"))).now <= await now(a, group)


async def test_schedules_go_with_their_topic(a: Broker) -> None:
    await a.do(MakeTopic("app-cron", 1))
    await a.do(SetSchedule("app-cron", "nightly", was=None, value=b"one"))
    await a.do(SetSchedule("app-cron-cron", "nightly", was=None, value=b"another"))
    await a.do(DropTopic("app-cron"))
    assert await kept(a) == {}
    assert await kept(a, "app-cron-cron") == {"nightly": b"another"}
    await a.do(DropTopic("app-cron-cron"))
