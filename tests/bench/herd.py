"""`python -m tests.bench.herd`: what a large group costs the server, and how long a herd that starts at once takes to join.

Three tables. The first is measured on a Valkey 9 (INFO commandstats): one change of the document of so many members with four partitions
each, and the look of each member that follows, with the whole document (as before deltas, M10) and with deltas. The second is the herd in
virtual time, at a server of those costs (`tests/actors/herd.py`), and newcomers in a crowd. The third is real: consumers in
a few processes, started together against one Valkey, until all own their share; commits are the document's changes.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import time
import timeit
from random import Random
from typing import Any

import anyio

from redisaq import Consumer, Message, Producer
from redisaq.brokers.redis.coordination import commit, heartbeat
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.redis.registry import Asked
from redisaq.brokers.redis.scripts import SCRIPTS
from redisaq.brokers.steps.coordination import Commit, Heartbeat
from redisaq.brokers.terms import GroupName
from redisaq.core.deltas import delta_of
from redisaq.core.membership import Document, MemberEntry, advance, assign, decode_document, release
from redisaq.testing import virtual_run
from tests.actors.herd import start_herd
from tests.servers import PROGRAMS, Server, Watchdog

GROUP, KEYS = GroupName("jobs", "default_group"), Keys("redisaq")
EACH = 4
"""Partitions a member."""


def figure(server: Server, section: str, line: str, word: str = "") -> int:
    """Return a number that the server says of itself; of a line of several, the one after this word."""
    said = server.command("INFO", section).decode().partition(f"{line}:")[2].partition("\r")[0]
    return int(said.partition(f"{word}=")[2].partition(",")[0] if word else said)


def ask(server: Server, asked: Asked[Any]) -> None:
    """Do one step that a script does."""
    server.command(*asked[0])


def one_change(server: Server, members: int, *, deltas: bool) -> str:
    """Measure a change among so many members, and the looks that follow."""
    server.command("FLUSHALL")
    for script in SCRIPTS.values():
        server.command("SCRIPT", "LOAD", script.text)
    random, keys, ttl = Random(1), KEYS.group(GROUP), 600.0
    names = sorted(f"{random.getrandbits(128):032x}" for _ in range(members))
    target = assign(names, members * EACH, {})
    token = dict.fromkeys(target, 1_795_893_951_198_000)
    before = Document(1, {name: MemberEntry(name) for name in names}, members * EACH, target, dict(target), token)
    server.command("HSET", keys.meta, "generation", 0, "partitions", members * EACH)
    ask(server, commit(Commit(GROUP, names[0], ttl, known_version="", new_version="1", document=before, joins=True), KEYS))
    for name in names:
        server.command("ZADD", keys.members, int((time.time() + ttl) * 1000), name)
    after = release(before, incarnation=names[0], partitions=[0, 1, 2, 3])
    server.command("CONFIG", "RESETSTAT")
    delta = delta_of(before, after) if deltas else None
    ask(server, commit(Commit(GROUP, names[0], ttl, known_version="1", new_version="2", document=after, delta=delta), KEYS))
    committed = figure(server, "commandstats", "cmdstat_evalsha", "usec")
    unchanged = min(timeit.repeat(lambda: advance(after, incarnation=names[1], now=1, expired=(), partitions=0, frozen=False), number=1))
    for name in names:
        ask(server, heartbeat(Heartbeat(GROUP, name, ttl, "1"), KEYS))
    looked = figure(server, "commandstats", "cmdstat_evalsha", "usec") - committed
    sent = figure(server, "stats", "total_net_output_bytes") / 1e6
    cells = (
        members,
        "deltas" if deltas else "whole",
        committed,
        f"{looked / members:.0f}",
        f"{unchanged * 1000:.2f}",
        f"{(committed + looked) / 1000:.1f}",
        f"{sent:.1f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def in_virtual_time(members: int, within: float, there: int) -> str:
    """Let a herd start within so many seconds, at a server of the costs that were measured."""

    async def main() -> str:
        outcome = await start_herd(members, each=EACH, within=within, there=there)
        server = outcome.server
        cells = (
            *(members, within, there, f"{outcome.joined:.2f}", f"{outcome.settled:.2f}", server.calls["commit"], server.calls["refused"]),
            *(server.calls["heartbeat"], server.calls["wait"], f"{server.busy:.2f}", f"{server.moved / 1000:.0f}"),
        )
        return "| " + " | ".join(map(str, cells)) + " |"

    return virtual_run(main, seed=1, backend="asyncio")


async def crew(url: str, count: int) -> None:
    """Run so many consumers, from a line on stdin on."""
    consumers = [Consumer("jobs", url) for _ in range(count)]

    async def handle(_: Message[object]) -> None:
        """Nothing is sent."""

    print("ready", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    async with anyio.create_task_group() as tasks:
        for consumer in consumers:
            tasks.start_soon(consumer.process, handle)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        tasks.cancel_scope.cancel()


def real(server: Server, members: int, processes: int) -> str:
    """Start real consumers together; return how long they took, and how often the document was changed."""
    server.command("FLUSHALL")

    async def make() -> None:
        async with Producer("jobs", server.url, init_partitions=members * EACH):
            pass

    anyio.run(make)
    counts = [members // processes + (number < members % processes) for number in range(processes)]
    command = [sys.executable, "-m", "tests.bench.herd", "--url", server.url, "--crew"]
    crews = [subprocess.Popen([*command, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for count in counts]
    try:
        for one in crews:
            assert one.stdout is not None
            one.stdout.readline()
        server.command("CONFIG", "RESETSTAT")
        began = time.monotonic()
        for one in crews:
            _tell(one)
        joined = 0.0
        while True:
            document = decode_document(server.command("HGET", KEYS.group(GROUP).state, "doc") or b"\x80")
            if not joined and len(document.members) == members:
                joined = time.monotonic() - began
            if joined and len(document.lease) == members * EACH and document.lease == document.target:
                break
            time.sleep(0.05)
        settled = time.monotonic() - began
        commits = figure(server, "commandstats", "cmdstat_spublish", "calls")
        scripts = figure(server, "commandstats", "cmdstat_evalsha", "calls")
        sent = figure(server, "stats", "total_net_output_bytes") / 1e6
    finally:
        for one in crews:
            _tell(one)
            one.wait(60)
    return f"| {members} in {processes} | {joined:.1f} | {settled:.1f} | {commits} | {scripts} | {sent:.1f} |"


def _tell(one: subprocess.Popen[str]) -> None:
    assert one.stdin is not None
    one.stdin.write("\n")
    one.stdin.flush()


def head(*columns: str) -> str:
    """Return the first lines of a table."""
    return f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|"


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=(100, 300, 1000), help="of one change")
    parser.add_argument("--herds", type=int, nargs="+", default=(10, 60, 100, 300), help="in virtual time")
    parser.add_argument("--within", type=float, nargs="+", default=(0.0, 1.0, 2.0), help="seconds over which these start")
    parser.add_argument("--there", type=int, default=100, help="members of a crowd, which a fifth as many join at one instant")
    parser.add_argument("--real", type=int, nargs="+", default=(10, 30, 60))
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--crew", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.crew:
        anyio.run(crew, options.url, options.crew)
        return
    watchdog = Watchdog()
    server = Server("valkey9", PROGRAMS["valkey9"](), watchdog)
    server.start()
    show = functools.partial(print, flush=True)
    try:
        show(
            head(
                "members",
                "answer",
                "commit, µs",
                "a look, µs",
                "`advance` that finds nothing, ms",
                "the change, ms of the server",
                "MB sent",
            )
        )
        for members in options.members:
            for deltas in (False, True):
                show(one_change(server, members, deltas=deltas))
        figures = ("commits", "refused", "heartbeats", "waits", "server busy, s", "MB")
        show(head("herd", "within, s", "members before", "joined, s", "settled, s", *figures))
        for members in options.herds:
            for within in options.within:
                show(in_virtual_time(members, within, 0))
        show(in_virtual_time(options.there // 5, 0.0, options.there))
        show(head("real, in processes", "joined, s", "settled, s", "commits", "scripts", "MB sent"))
        for members in options.real:
            show(real(server, members, options.processes))
    finally:
        server.close()
        watchdog.close()


if __name__ == "__main__":
    main()
