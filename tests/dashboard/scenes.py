"""Snapshots for the page's tests, and a sampler that hands them out: made by hand, so that a test says what is shown."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import httpx
from anyio.abc import TaskStatus
from msgspec import structs

from redisaq.admin import Admin
from redisaq.dashboard.application import Dashboard
from redisaq.watching import (
    Attention,
    Curve,
    Curves,
    GroupView,
    HistoryView,
    MemberView,
    PartitionView,
    RunningView,
    Screen,
    ServerView,
    Snapshot,
    TopicView,
    Totals,
)

NOW = 1_764_362_851.0
HERE = ServerView("redis://cache-1.prod:6379/0", "shop", "Valkey 9.1", "here", NOW - 3600)


def curves(value: float, gap: int | None = None) -> Curves:
    values = [None if gap == n else value for n in range(90)]
    return Curves(Curve.of(20.0, NOW, values), Curve.of(300.0, NOW, [value] * 288))


def member(slot: int, **more: Any) -> MemberView:
    base = MemberView(
        slot, "ABCDEFGHJK"[slot % 10], f"m{slot}", f"inc-{slot}", f"ip-10-0-3-{slot}", 4000 + slot, "0.2.0", NOW - 6000, (), 1.1, 12.0
    )
    return structs.replace(base, **more)


def partition(number: int, owner: int | None, unread: int = 5, **more: Any) -> PartitionView:
    base = PartitionView(number, owner, None, 3, 100, unread, 1, 0, 0, 0, 0, 2.0, None, "1764362132114-7", None, NOW)
    return structs.replace(base, **more)


def group(topic: str = "orders", name: str = "billing", partitions: int = 4, **more: Any) -> GroupView:
    members = (member(0, owns=tuple(range(0, partitions, 2))), member(1, owns=tuple(range(1, partitions, 2))))
    base = GroupView(
        topic=topic, group=name, state="keeps up", severity=None, paused=False, alone=0.0, lapsed=False, arriving=412.0, handled=158.0,
        unread=20, pending=4, running=1, retry=3, dead=2, fresh=0, lost=0, oldest=2.0, caught_up_in=3.0, ttl=12.0, members=members, gone=(),
        partitions=tuple(partition(n, n % 2) for n in range(partitions)),
        in_handlers=(RunningView("4r8zq1mt6x0vckd3", 1, "1764362132114-9", "customer-8812", 2, NOW - 41, 50.0, 1),),
        history=(HistoryView(NOW - 60, "joined", 1, "", (1, 3), None, "joined, took 1 and 3"),),
        arriving_curve=curves(412.0), handled_curve=curves(158.0, gap=40), backlog_curve=curves(24.0), oldest_curve=curves(2.0),
        retry_curve=curves(3.0), died_curve=curves(0.0), within=2.0,
    )  # fmt: skip
    return structs.replace(base, **more)


def topic(name: str = "orders", *groups: GroupView, partitions: int = 4, **more: Any) -> TopicView:
    base = TopicView(name, 0, partitions, 612_000, (153_000,) * partitions, 214, True, 412.0, curves(412.0), groups, 2.0)
    return structs.replace(base, **more)


def snapshot(*topics: TopicView, number: int = 1, server: ServerView = HERE, **more: Any) -> Snapshot:
    dead = sum(one.dead for each in topics for one in each.groups)
    return structs.replace(
        Snapshot(number, NOW, server, Totals(412.0, 158.0, 24, 1, 3, dead, 2), topics, (), "Nothing. All is well."), **more
    )


BEHIND = Attention(
    "behind orders billing", "bad", "orders › billing", "is 12 min behind and falling further back.", NOW - 700, "", "412/s come in.",
    Screen("group", "orders", "billing"), "Open group",
)  # fmt: skip

NORMAL = snapshot(topic("orders", group(severity="bad", state="behind")), attention=(BEHIND,), well="")


class Scripted:
    """A sampler whose snapshots a test hands over."""

    def __init__(self, latest: Snapshot = NORMAL) -> None:
        self.latest = latest
        self.screens: list[Screen] = []
        self._change = anyio.Event()

    def show(self, snapshot: Snapshot) -> None:
        self.latest = structs.replace(snapshot, number=self.latest.number + 1)
        self._change.set()
        self._change = anyio.Event()

    def now(self) -> float:
        return self.latest.at

    def watch(self, screen: Screen) -> ScriptedWatching:
        return ScriptedWatching(self, screen)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await anyio.sleep_forever()

    async def changed(self) -> None:
        await self._change.wait()


class ScriptedWatching:
    def __init__(self, sampler: Scripted, screen: Screen) -> None:
        self._sampler, self._screen, self._given = sampler, screen, 0

    def __enter__(self) -> Self:
        self._sampler.screens.append(self._screen)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._sampler.screens.remove(self._screen)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Snapshot:
        while self._sampler.latest.number <= self._given:
            await self._sampler.changed()
        self._given = self._sampler.latest.number
        return self._sampler.latest


@asynccontextmanager
async def served(sampler: Scripted | None = None, admin: Admin | None = None, **options: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve the page in this process; return a client of it."""
    app = Dashboard(admin or Admin("memory://nobody"), sampler or Scripted(), **options).app  # type: ignore[arg-type] # of the same shape
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8787") as client:
            yield client
