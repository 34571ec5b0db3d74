"""How long the page takes over a large queue: `python -m tests.dashboard.measure [PARTITIONS] [LETTERS]` (10,000 and 1,000,000).

It fills a server of its own. A process of its own, like `redisaq dashboard`, then renders each view some times, and prints the median and
the longest time of each, and its memory. A view should take at most 200 ms, and the process 64 MB. The first look of a sampler is not
counted: a page is shown without waiting for it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio
import httpx

from redisaq import Producer
from redisaq.admin import Admin
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.terms import GroupName
from redisaq.core.records import Body, Failure, encode_dead
from redisaq.dashboard.application import Dashboard
from redisaq.watching import Sampler, Screen

if TYPE_CHECKING:
    from tests.servers import Server

TRACEBACK = 'Traceback (most recent call last):\n  File "/srv/shop/bank.py", line 41, in charge\n    await bank()\n'
ROUNDS = int(os.environ.get("ROUNDS", "7"))
LIMIT_MS, LIMIT_MB = 200, 64
GROUP = GroupName("orders", "billing")

MANY = """
for n = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2)) end
return redis.status_reply('OK')
"""


async def fill(url: str, partitions: int, letters: int, server: Server) -> None:
    """Make a topic with so many partitions, of which a hundred have all the dead letters."""
    async with Producer("orders", url, init_partitions=partitions) as producer:
        await producer.batch_enqueue([{"number": n} for n in range(partitions)])

    keys = Keys("redisaq")
    for number in range(partitions):
        server.command("XGROUP", "CREATE", keys.stream("orders", number).decode(), "billing", "0")
    for number in range(100):
        failure = Failure(f"Error{number % 7}", f"bank did not answer within {number} s", TRACEBACK, 5, 1, 2, "m")
        words = encode_dead(Body(b"1-1", (b"i", b"%d" % number, b"d", b'{"number":1}' * 10), 0, 5, failure))
        dead = keys.of_partition(GROUP, number * (partitions // 100)).dead
        server.command("EVAL", MANY, "1", dead.decode(), str(letters // 100), *(word.decode() for word in words))


async def measure(url: str) -> bool:
    """Print how long each view takes; return whether none takes too long."""
    print(f"{memory():.0f} MB at the start")
    admin = Admin(url)
    sampler = Sampler(admin)
    page = Dashboard(admin, sampler).app
    fine = True
    async with page.router.lifespan_context(page):
        transport = httpx.ASGITransport(app=page)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            began, count = time.perf_counter(), 0
            with sampler.watch(Screen("overview")) as watching:
                async for snapshot in watching:
                    found = snapshot.group("orders", "billing")
                    if found is not None and sum(one.dead > 0 for one in found.partitions) >= 100:
                        count = len(found.partitions)
                        break
                print(f"everything seen after {time.perf_counter() - began:.1f} s, {memory():.0f} MB")
                dead = f"/dead?g={quote('orders/billing')}"
                (one,) = await admin.dead_summaries("orders", "billing", partitions=[count * 7 // 10], count=1)
                message = f"/m/orders/{one.msg_id}?p={one.partition}&e={one.entry_id}"
                group = "/t/orders/g/billing"
                paths = ["/", "/t/orders", group, f"{group}?p={count * 7 // 10}", dead, "/dead", message, "/schedule"]
                for path in (*paths, f"/api{group}/cells"):
                    times: list[float] = []
                    size = 0
                    for _ in range(ROUNDS):
                        await anext(watching)  # nothing of it is rendered, or asked for, already
                        began = time.perf_counter()
                        answer = await client.get(path)
                        times.append((time.perf_counter() - began) * 1000)
                        size = len(answer.content)
                        assert answer.status_code == 200, answer.text
                    told = f"median {statistics.median(times):6.1f} ms, most {max(times):6.1f} ms, {size / 1000:6.1f} kB"
                    print(f"{path:40} {told}, {memory():3.0f} MB")
                    fine = fine and max(times) <= LIMIT_MS
    print(f"memory: {memory():.0f} MB at most")
    return fine and memory() <= LIMIT_MB


def memory() -> float:
    """Return the most memory that this process has had, in megabytes; `getrusage` counts what its parent had when it was started, too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1000


def main() -> int:
    """Fill and measure."""
    if sys.argv[1:2] == ["look"]:
        return 0 if anyio.run(measure, sys.argv[2]) else 1
    from tests.server_fixtures import ServerPool

    partitions, letters = (int(word) for word in (*sys.argv[1:], "10000", "1000000")[:2])
    pool = ServerPool()
    server = pool.new("valkey9")
    try:
        anyio.run(fill, server.url, partitions, letters, server)
        return subprocess.run([sys.executable, "-m", "tests.dashboard.measure", "look", server.url], check=False).returncode
    finally:
        server.close()
        pool.close()


if __name__ == "__main__":
    sys.exit(main())
