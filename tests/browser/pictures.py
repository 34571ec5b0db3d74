"""Draws the pictures of docs/operate/dashboard.md: `python -m tests.browser.pictures [NAME …]`. Run it when the page looks different."""

from __future__ import annotations

import linecache
import logging
import math
import sys
import time
from datetime import UTC, datetime, timedelta
from types import FunctionType
from typing import Any, cast

import anyio
from msgspec import structs

from redisaq import Consumer, Message, Producer, RetryPolicy
from redisaq.admin import Admin, ScheduleInfo
from redisaq.consuming.handling import Execution
from redisaq.core.schedules import Timetable
from redisaq.dashboard.application import Dashboard
from redisaq.watching import Attention, Curve, Curves, HistoryView, RunningView, Screen, ServerView, Snapshot, Totals
from tests.browser.serving import CHROMIUM, browsing, call, looking, looping, serving
from tests.dashboard.scenes import HERE, NOW, Scripted, group, member, partition, snapshot, topic
from tests.unit.source import ROOT

PICTURES = ROOT / "docs" / "pictures"
URL = "memory://pictures"


def wave(level: float, *, turn: int | None = None, to: float = 0.0) -> Curves:
    values = [(level if turn is None or n < turn else to) * (1 + 0.06 * math.sin(n / 5 + level)) for n in range(90)]
    return Curves(Curve.of(20.0, NOW, values), Curve.of(300.0, NOW, values))


def rising(start: float, step: float, turn: int) -> Curves:
    values = [start if n < turn else start + (n - turn) * step for n in range(90)]
    return Curves(Curve.of(20.0, NOW, values), Curve.of(300.0, NOW, values))


def scene(now: float) -> Snapshot:
    """Return a shop with trouble."""
    owners = [0, 0, 0, None, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4]
    waits = [12800, 9400, 11800, 15000, 12900, 12400, 12800, 8900, 8800, 12400, 9500, 8900, 10200, 8800, 13200, 11900, 12300, 32100]
    waits += [11500, 12500, 12200, 10400, 12500, 9600]
    owned = [tuple(n for n, owner in enumerate(owners) if owner == slot) for slot in range(5)]
    members = tuple(member(slot, owns=owned[slot], since=NOW - 6000 + 1100 * slot, heartbeat=0.4 + slot * 0.6) for slot in range(5))
    gone = (member(5, gone=NOW - 9, went="taken for dead", heartbeat=9.0, since=NOW - 900),)
    billing = structs.replace(
        group(partitions=24), state="behind", severity="bad", handled=153.0, arriving=376.0, unread=289_000, pending=240, running=23,
        retry=62, dead=6, fresh=4, oldest=721.0, caught_up_in=math.inf, members=members, gone=gone,
        partitions=tuple(
            partition(n, owner, waits[n], oldest=600.0, dead=1, unowned=None if owner is not None else NOW - 9)
            for n, owner in enumerate(owners)
        ),
        in_handlers=tuple(
            RunningView(f"4r8zq1mt6x0vck{n}", 5 * n + 1, "1-1", f"customer-{n * 37}", 1 + n % 3, NOW - 41 / (n + 1), 50.0, n % 5)
            for n in range(5)
        ),
        history=(
            HistoryView(NOW - 9, "taken for dead", 5, "", (3,), None, "stopped its heartbeats: partition 3 has no owner"),
            HistoryView(NOW - 900, "joined", 5, "", (3,), None, "joined, took 3"),
            HistoryView(NOW - 1500, "joined", 4, "", (20, 21, 22, 23), None, "joined, took 20 to 23"),
        ),
        arriving_curve=wave(376), handled_curve=wave(376, turn=31, to=153), backlog_curve=rising(100, 4400, 31),
    )  # fmt: skip
    fine = structs.replace(
        group(name="warehouse"), arriving=376.0, handled=373.0, arriving_curve=wave(376), handled_curve=wave(374), dead=0, retry=0
    )
    archive = structs.replace(
        group("events", "archive"), state="no members", severity="warn", members=(), alone=2460.0, handled=0.0, unread=5_210_000,
        oldest=2460.0, dead=0, retry=0, running=0, arriving=2058.0,
        arriving_curve=wave(2058), handled_curve=wave(0), backlog_curve=rising(1e6, 4e4, 0),
    )  # fmt: skip
    cells = tuple(
        partition(n, None if 5500 <= n < 5506 else n // 130 % 40, 900 if n % 997 == 31 else (n * 7919) % 13) for n in range(10_000)
    )
    indexer = structs.replace(
        group("events", "indexer"), arriving=2058.0, handled=2063.0, unread=18_800, running=2812, dead=0, retry=140,
        members=tuple(member(n, owns=tuple(range(n * 130, n * 130 + 130))) for n in range(40)), partitions=cells,
        arriving_curve=wave(2058), handled_curve=wave(2060), in_handlers=(), history=(),
    )  # fmt: skip
    attention = (
        Attention(
            "1", "bad", "orders › billing", "is 12 min behind and falling further back.", NOW, "", "376/s come in, 153/s are handled.",
            Screen("group", "orders", "billing"), "Open group",
        ),
        Attention(
            "2", "bad", "orders/3", "has had no owner in billing for 9 s.", NOW, "", "ip-10-0-3-5:4005 stopped its heartbeats.",
            Screen("partition", "orders", "billing", 3), "Open partition",
        ),
        Attention(
            "3", "bad", "4 new dead letters", "in orders › billing:", NOW, "TimeoutError", "20 s ago.",
            Screen("dead letters", "orders", "billing"), "Look at them",
        ),
        Attention(
            "4", "warn", "events › archive", "has had no member for 41 min.", NOW, "", "5.21 M messages wait for it.",
            Screen("group", "events", "archive"), "Open group",
        ),
    )  # fmt: skip
    topics = (
        topic("events", archive, indexer, partitions=10_000, arriving=2058.0, length=5_310_000, lengths=(531,) * 100, delayed=0),
        topic("orders", billing, fine, partitions=24, arriving=376.0, delayed=90),
        topic("sessions", arriving=3.2, arriving_curve=wave(3.2)),
    )
    made = snapshot(*topics, attention=attention, well="")
    return structs.replace(made, totals=Totals(2437.0, 2589.0, 5_520_000, 2836, 202, 6, 47), at=now)


def show_from(function: FunctionType, file: str) -> None:
    """Let tracebacks name this file as the function's, so that pictures are the same wherever they are drawn."""
    lines = linecache.getlines(function.__code__.co_filename)
    linecache.cache[file] = (sum(map(len, lines)), None, lines, file)
    function.__code__ = function.__code__.replace(co_filename=file)


async def fill() -> float:
    """Make the dead letters that the scene speaks of; return when."""

    async def handle(message: Message[Any]) -> None:
        raise TimeoutError(f"bank did not answer within {message.payload['number']}.0 s")

    show_from(cast("FunctionType", handle), "/srv/shop/billing.py")
    show_from(cast("FunctionType", Execution.one), "/srv/shop/.venv/lib/python3.13/site-packages/redisaq/consuming/handling.py")
    async with Producer("orders", URL, init_partitions=24) as producer:
        payloads = [{"number": 48211 + n, "total": "129.90", "note": "<script>alert('hello')</script>"} for n in range(6)]
        for n, payload in enumerate(payloads):
            await producer.enqueue(payload, key=f"customer-{n}", headers={"tenant": "shop-de"})
    await Consumer("orders", URL, group_name="billing", retry=RetryPolicy(max_attempts=1)).process(handle, until_empty=True)
    async with Admin(URL) as admin:
        return (await admin.group("orders", "billing")).now.timestamp()


async def fill_one() -> str:
    """Make a message that one group retries, one has finished, and one has not begun; return its id."""
    third = anyio.Event()
    tries = 0

    async def fail(message: Message[Any]) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            third.set()
        raise TimeoutError(f"bank did not answer within {message.payload['number'] % 10}.0 s")

    async def finish(_: Message[Any]) -> None: ...

    show_from(cast("FunctionType", fail), "/srv/shop/billing.py")
    async with Consumer("orders", URL, group_name="audit") as waiting, waiting.messages():
        pass  # joined, and left
    async with Producer("orders", URL) as producer:
        lines = [{"sku": "TEA-250", "count": 2}, {"sku": "MUG-01", "count": 1}]
        payload = {"number": 48217, "total": "129.90", "lines": lines, "note": "<script>alert('hello')</script>", "coupon": None}
        msg_id = await producer.enqueue(payload, key="customer-8812", headers={"tenant": "shop-de"})
    await Consumer("orders", URL, group_name="warehouse").process(finish, until_empty=True)
    policy = RetryPolicy(max_attempts=5, backoff=0.3, factor=6.0, jitter=False)
    async with Consumer("orders", URL, group_name="billing", retry=policy) as consumer, anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.process, fail)
        await third.wait()
        async with Admin(URL) as admin:
            while not [one async for one in admin.retries("orders", "billing") if one.attempts == tries]:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    return msg_id


class Programs(Admin):
    """An Admin whose cron jobs are those of the scene."""

    async def schedules(self, app: str | None = None) -> list[ScheduleInfo]:
        now = time.time()

        def job(name: str, spec: str, *, outcome: str = "done", took: float = 1.0, tz: str = "UTC") -> ScheduleInfo:
            table = Timetable(spec, tz)
            last, coming = table.between(int(now) - 40 * 86_400, int(now), 1)[0], table.after(int(now)) or 0
            moment = datetime.fromtimestamp(last, UTC)
            next_one = datetime.fromtimestamp(coming, UTC)
            return ScheduleInfo("shop", name, spec, tz, "latest", 60.0, next_one, moment, outcome, moment + timedelta(seconds=took), 1)

        return [
            job("refresh_rates", "*/15 * * * *", took=1.2),
            job("close_carts", "5 * * * *", took=8),
            job("send_digest", "0 18,22 * * 1-6", took=41, tz="Europe/Berlin"),
            job("nightly", "0 3 * * *", took=360, tz="Europe/Berlin"),
            job("invoices", "30 2 1 * *", took=120, tz="Europe/Berlin"),
            job("vacuum_sessions", "40 */2 * * *", outcome="missed"),
        ]


async def fill_later() -> None:
    """Make delayed messages, more of them soon than late."""
    async with Producer("orders", URL) as producer:
        for number in range(90):
            delay = 13 + 30 * 3600 * (number / 90) ** 3
            await producer.enqueue({"number": number, "what": "payment reminder"}, key=f"customer-{number * 37 % 1000}", delay=delay)


async def scripted(latest: Snapshot) -> Scripted:
    """Make a sampler in its loop."""
    return Scripted(latest)


def main() -> int:
    """Draw them all."""
    if CHROMIUM is None:
        print("there is no program `chromium` on PATH", file=sys.stderr)
        return 1
    logging.disable(logging.ERROR)
    PICTURES.mkdir(exist_ok=True)
    with looping() as portal, browsing() as browser:
        died = call(portal, fill)
        msg_id = call(portal, fill_one)
        call(portal, fill_later)
        sampler = call(portal, scripted, scene(NOW))
        changing = Dashboard(Programs(URL), sampler, allow_changes=True, producer=lambda topic: Producer(topic, URL)).app
        dead = "/dead?g=orders/billing"
        shots = [
            ("message", f"/m/{msg_id}", "light", 1440),  # while it waits for its next attempt
            ("overview", "/", "light", 1440),
            ("group", "/t/orders/g/billing?p=1", "light", 1440),
            ("map", "/t/events/g/indexer", "dark", 1440),
        ]
        shots += [
            ("topic", "/t/orders", "light", 1440),
            ("dead", dead, "light", 1440),
            ("dead-dark", dead, "dark", 1440),
            ("phone", "/t/orders/g/billing", "light", 390),
            ("seek", "/t/orders/g/billing", "light", 1440),
            ("schedule", "/schedule", "light", 1440),
        ]
        shots = [shot for shot in shots if not sys.argv[1:] or shot[0] in sys.argv[1:]]
        with serving(portal, changing) as address:
            for name, path, theme, width in shots:
                with looking(browser, theme=theme, width=width) as looker:
                    at = died + 20 if name.startswith("dead") else time.time() if name in ("message", "schedule") else NOW
                    sampler.latest = structs.replace(scene(at), number=sampler.latest.number + 1)
                    looker.page.goto(address + path)
                    if name.startswith("dead"):
                        looker.page.click("table.letters tbody tr:first-child a")
                    if name == "map":
                        looker.until("document.querySelector('canvas').width > 300")
                    if name == "seek":
                        looker.page.click("text=Seek…")
                        looker.page.check("#seek-dialog input[value=earliest]")
                        looker.until("document.querySelector('#seek-dialog .preview b')")
                    looker.page.screenshot(path=PICTURES / f"{name}.png", full_page=name != "seek")
        if sys.argv[1:] and "away" not in sys.argv[1:]:
            return 0
        away = ServerView(HERE.url, HERE.namespace, HERE.name, "away", NOW - 14, "cache-1.prod:6379: connection refused.")
        still = call(portal, scripted, structs.replace(scene(NOW), server=away))
        with serving(portal, Dashboard(Admin(URL), still).app) as address, looking(browser) as looker:
            looker.page.goto(address)
            looker.page.screenshot(path=PICTURES / "away.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
