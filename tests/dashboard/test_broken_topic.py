"""A topic whose keys are not what redisaq wrote: it is named with the server's words, and the others are shown as ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from redisaq import Consumer, Message, Producer, RetryPolicy
from redisaq.admin import Admin
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.terms import GroupName
from redisaq.core.schedules import Schedule, Terms, encode_schedule
from redisaq.dashboard.application import Dashboard
from redisaq.watching import Sampler, Screen, Snapshot
from tests.dashboard.test_pages import text_of
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])]

MANY = 80.0
"""Seconds that anything may take on a busy machine."""


async def die(message: Message[Any]) -> None:
    raise ValueError("no")


async def fill(server: Server, namespace: str) -> dict[str, str]:
    """Make a topic that is whole, and three of which one key each is of another type; return ids of messages."""
    ids: dict[str, str] = {}
    keys = Keys(namespace)
    for topic in ("cut", "late", "mute", "whole"):
        async with Producer(topic, server.url, namespace=namespace, init_partitions=1) as producer:
            await producer.enqueue({"n": 1})
            await Consumer(topic, server.url, namespace=namespace, group_name="billing", retry=RetryPolicy(max_attempts=1)).process(
                die, until_empty=True
            )
            ids[topic] = await producer.enqueue({"n": 2})
            await producer.enqueue({"n": 3}, delay=3600)
    for program in ("good-cron", "bad-cron"):
        async with Producer(program, server.url, namespace=namespace, init_partitions=1) as producer:
            await producer.enqueue({})
        schedule = encode_schedule(Schedule(Terms("0 3 * * *", "UTC"), 4_102_444_800))
        if program == "good-cron":
            server.command("HSET", keys.schedules(program).decode(), "nightly", schedule.decode())
        else:
            server.command("SET", keys.schedules(program).decode(), "text")
    return ids


def damaged(namespace: str) -> list[str]:
    keys = Keys(namespace)
    letters = keys.of_partition(GroupName("mute", "billing"), 0).dead
    return [one.decode() for one in (keys.stream("cut", 0), letters, keys.delayed("late", 0))]


@asynccontextmanager
async def page_of(server: Server, namespace: str) -> AsyncIterator[tuple[Sampler, httpx.AsyncClient]]:
    admin = Admin(server.url, namespace=namespace)
    sampler = Sampler(admin)
    page = Dashboard(admin, sampler).app
    transport = httpx.ASGITransport(app=page)
    async with (
        page.router.lifespan_context(page),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=MANY) as client,
    ):
        yield sampler, client


async def test_one_broken_topic_does_not_hide_the_others(valkey_server: Server, namespace: str) -> None:
    ids = await fill(valkey_server, namespace)
    async with page_of(valkey_server, namespace) as (sampler, client):

        async def seen(whole: Any) -> Snapshot:
            with anyio.fail_after(MANY), sampler.watch(Screen("overview")) as watching:
                async for snapshot in watching:
                    if whole(snapshot):
                        return snapshot
            raise AssertionError

        await seen(lambda snapshot: snapshot.totals.dead == 4)
        for place in damaged(namespace):
            valkey_server.command("DEL", place)
            valkey_server.command("SET", place, "text")
        snapshot = await seen(lambda snapshot: sum("cannot be read" in one.sentence for one in snapshot.attention) >= 4)
        said = {one.subject: f"{one.sentence} {one.more}" for one in snapshot.attention if "cannot be read" in one.sentence}
        assert said.keys() == {"bad", "cut", "late", "mute › billing"}
        assert all("WRONGTYPE" in one and "rename or delete it" in one for one in said.values()), said
        assert snapshot.server.state == "here"
        whole = snapshot.topic("whole")
        assert whole is not None
        assert whole.within < 10
        shown = text_of((await client.get("/dead")).text)
        assert "mute › billing cannot be read, and is left out: WRONGTYPE" in shown
        assert "ValueError" in shown
        shown = text_of((await client.get("/schedule")).text)
        assert "nightly" in shown
        assert "bad cannot be read, and is left out: WRONGTYPE" in shown
        assert "late cannot be read, and is left out: WRONGTYPE" in shown
        assert [(one["app"], one["unreadable"][:9]) for one in (await client.get("/api/schedule")).json()] == [
            ("bad", "WRONGTYPE"),
            ("good", ""),
        ]
        assert shown.count("find it with TYPE, then rename or delete it") == 2  # what to do
        letters = (await client.get("/api/dead")).json()
        assert [(one["topic"], one["group"]) for one in letters if one.get("unreadable", "").startswith("WRONGTYPE")] == [
            ("mute", "billing")
        ]
        assert any(one["topic"] == "whole" for one in letters)
        assert (await client.get(f"/m/{ids['whole']}?wait=30")).status_code == 303
        shown = text_of((await client.get("/m/0123456789abcdef-0?wait=30")).text)
        assert "It was not found." in shown
        assert "cut (WRONGTYPE" in shown
        answer = await client.get(f"/m/cut/{ids['cut']}?p=0")
        assert (answer.status_code, "cut cannot be read: WRONGTYPE" in text_of(answer.text)) == (503, True)
        for place in damaged(namespace):
            valkey_server.command("DEL", place)
        valkey_server.command("HSET", Keys(namespace).schedules("good-cron").decode(), "torn", "no schedule")
        assert "good › torn cannot be read, and is left out: it is damaged" in text_of((await client.get("/schedule")).text)
        await seen(lambda snapshot: [one.subject for one in snapshot.attention if "cannot be read" in one.sentence] == ["bad"])


async def test_what_cannot_be_read_from_the_beginning_is_not_missing(valkey_server: Server, namespace: str) -> None:
    await fill(valkey_server, namespace)
    valkey_server.command("DEL", Keys(namespace).stream("cut", 0).decode())
    valkey_server.command("SET", Keys(namespace).stream("cut", 0).decode(), "text")
    async with page_of(valkey_server, namespace) as (sampler, client):
        with anyio.fail_after(MANY), sampler.watch(Screen("overview")) as watching:
            async for snapshot in watching:
                if snapshot.unreadable("cut") and snapshot.group("whole", "billing"):
                    break
        for path, status, said in (
            ("/t/cut/g/billing", 503, "WRONGTYPE"),
            ("/t/whole/g/nobody", 404, "No group nobody"),
        ):
            answer, api = await client.get(path), await client.get(f"/api{path}")
            assert (answer.status_code, api.status_code) == (status, status)
            assert said in text_of(answer.text)
        assert "WRONGTYPE" in (await client.get("/api/t/cut/g/billing")).json()["error"]
