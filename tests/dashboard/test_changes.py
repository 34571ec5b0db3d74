"""Growing, deleting, enqueueing and moving: what the page shows before, what it then does, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
from msgspec.structs import replace

from redisaq import Consumer, Producer
from redisaq.admin import SeekPreview
from redisaq.brokers.memory import MemoryBroker
from redisaq.brokers.steps.topics import FORMAT
from redisaq.errors import TopicMissingError
from redisaq.watching.previews import of_growth, of_seek
from tests.dashboard.test_dead_letters import bench

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"])]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W", "-", request.node.name)


def preview(partition: int = 0, **more: int) -> SeekPreview:
    values = {"unread": 0, "again": 0, "skipped": 0, "pending": 0, "retry": 0, "dead": 0, **more}
    return SeekPreview(partition, complete=True, **values)


async def test_what_a_seek_is_said_to_do() -> None:
    one = of_seek([preview(0, again=100, unread=7, retry=2, dead=3, pending=4), preview(1, again=89, unread=3)], "orders", "b", "earliest")
    assert (one.head, one.more) == ("189 messages would be delivered again", "199 would then wait.")
    assert [number for number, _ in one.rows] == ["2", "3", "4"]
    assert one.bars == [(93.5, 6.5), (83.2, 2.8)]
    assert list(one.words) == ["seek", "orders", "b", "earliest", "--dry-run"]
    latest = of_seek([preview(unread=1, skipped=1)], "orders", "b", {3: "7-1"})
    assert (latest.head, latest.bars, list(latest.words)[3]) == ("1 unread message would be skipped", [], "3=7-1")
    assert of_seek([preview()], "o", "b", "latest").head == "Nothing would be delivered again or skipped"
    both = of_seek([preview(again=1), SeekPreview(1, 9, 0, 5, False, 0, 0, 0)], "o", "b", "latest")
    assert both.head == "At least 1 message would be delivered again, and 5 skipped"
    assert of_growth(24, 32, "orders").more.startswith("25% of the keys move")


async def test_moving_with_a_preview(name: str) -> None:
    async with bench(name) as one:
        said = (await one.client.get("/api/t/orders/g/billing/seek", params={"to": "earliest"})).json()
        assert said["head"] == "6 messages would be delivered again"
        assert said["command"].startswith("redisaq seek orders billing earliest --dry-run --url ")
        entry = (await one.admin.peek("orders", 0, 1))[0].entry_id
        where = {"to": "entry", "partition": "0", "entry": entry}
        assert (await one.client.get("/api/t/orders/g/billing/seek", params=where)).json()["head"] == "1 message would be delivered again"
        assert (await one.admin.group("orders", "billing")).unread == 0
        assert (await one.post("seek", {"to": "entry", "partition": 0, "entry": entry, "pause": True})).status_code == 200
        assert (await one.admin.group("orders", "billing")).unread == 1
        for wrong in ({"to": "entry"}, {"to": "entry", "partition": "9", "entry": entry}, {"to": "time"}):
            assert (await one.client.get("/api/t/orders/g/billing/seek", params=wrong)).status_code == 400
        assert (await one.client.get("/api/t/orders/g/none/seek", params={"to": "latest"})).status_code == 404
        assert (await one.post("seek", {"to": ["latest"]})).status_code == 400


async def test_a_topic_of_a_later_format_is_left_alone(name: str) -> None:
    url = f"memory://{name}"
    async with bench(name, producer=lambda topic: Producer(topic, url, serializer=lambda data: data)) as one:
        topics = MemoryBroker(name, "redisaq").store.topics
        topics["orders"] = written = replace(topics["orders"], format=FORMAT + 1)
        topic, group = "/api/t/orders", "/api/t/orders/g/billing"
        body = {"partitions": 8, "expected": 2, "name": "orders", "payload": "1"}
        for what, at in (("grow", topic), ("enqueue", topic), ("delete", topic), ("pause", group), ("seek", group)):
            refused = await one.post(what, body | {"to": "earliest"}, at)
            assert (what, refused.status_code) == (what, 503)
            assert "install a later one" in refused.json()["error"], what
        assert topics["orders"] == written


async def test_growing_enqueueing_and_deleting(name: str) -> None:
    url = f"memory://{name}"

    def producer(topic: str) -> Producer:
        return Producer(topic, url, serializer=lambda data: data)

    async with bench(name, producer=producer) as one:
        topic = "/api/t/orders"
        html = (await one.client.get("/t/orders")).text
        assert all(f'data-post="{topic}/{what}"' in html for what in ("grow", "enqueue", "delete"))
        said = (await one.client.get(f"{topic}/grow", params={"partitions": "8"})).json()
        assert (said["head"], said["more"][:3]) == ("From 2 to 8 partitions", "75%")
        wrong: list[Any] = [{"partitions": 8}, {"expected": 2}, *({"partitions": one, "expected": 2} for one in (2, "x", True))]
        for body in wrong:
            assert (await one.post("grow", body, topic)).status_code == 400
        refused = await one.client.get(f"{topic}/grow", params={"partitions": "999999999"})
        assert (refused.status_code, refused.json()["error"]) == (400, "partitions must be from 1 to 65536, not 999999999")
        assert (await one.post("grow", {"partitions": 8, "expected": 2}, topic)).json()["text"] == "orders has 8 partitions."
        latest = (await one.admin.history("orders", "billing"))[0]
        assert (latest.what, latest.count, bool(latest.by)) == ("grown", 8, True)
        assert (await one.admin.topic("orders")).partition_count == 8

        answer = await one.post("enqueue", {"payload": ' {"number": 17} ', "key": "k", "delay": 0}, topic)
        (newest,) = await one.admin.peek("orders", count=1)
        assert (newest.msg_id, newest.payload, newest.key) == (answer.json()["msg_id"], {"number": 17}, "k")
        assert (await one.post("enqueue", {"payload": "[1]", "key": "", "delay": 60.5}, topic)).status_code == 200
        assert (await one.admin.topic("orders")).delayed == 1
        nothing: list[Any] = [{}, *({"payload": one} for one in ("text", "", "[" * 100_000))]
        for body in (*nothing, *({"payload": "1", "delay": one} for one in (-1, "x"))):
            assert (await one.post("enqueue", body, topic)).status_code == 400, body
        assert (await one.post("enqueue", {"payload": "1"}, "/api/t/none")).status_code == 404

        assert (await one.post("delete", {})).status_code == 400
        async with Consumer("orders", url, group_name="billing") as consumer, consumer.messages():
            assert (await one.post("delete", {"name": "billing"})).status_code == 409
            assert (await one.post("delete", {"name": "orders"}, topic)).status_code == 409
        assert (await one.post("delete", {"name": "billing"})).json()["gone"] == "group"
        assert (await one.admin.topic("orders")).groups == ()
        assert (await one.post("delete", {"name": "order"}, topic)).status_code == 400
        assert (await one.post("delete", {"name": "orders"}, topic)).json()["gone"] == "topic"
        with pytest.raises(TopicMissingError):
            await one.admin.topic("orders")


async def test_a_page_without_a_producer_does_not_offer_it(name: str) -> None:
    async with bench(name) as one:
        html = (await one.client.get("/t/orders")).text
        assert "grow" not in re.sub(r"[Gg]rown", "", html)
        assert (await one.post("enqueue", {"payload": "1"}, "/api/t/orders")).status_code == 404
        body: Any = {"partitions": 8, "expected": 2}
        assert (await one.post("grow", body, "/api/t/orders")).status_code in (404, 405)
