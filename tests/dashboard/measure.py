"""How long the page takes over a large queue: `python -m tests.dashboard.measure [PARTITIONS] [LETTERS]` (10,000 and 1,000,000).

It fills a server of its own, renders each view five times, and prints the median and the longest time of each. A view should take at most
200 ms. The first look of a sampler is not counted: a page is shown without waiting for it.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
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
from tests.server_fixtures import ServerPool
from tests.servers import Server

TRACEBACK = 'Traceback (most recent call last):\n  File "/srv/shop/bank.py", line 41, in charge\n    await bank()\n'
ROUNDS = 5
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
    admin = Admin(url)
    sampler = Sampler(admin)
    page = Dashboard(admin, sampler).app
    fine = True
    async with page.router.lifespan_context(page):
        transport = httpx.ASGITransport(app=page)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            began = time.perf_counter()
            with sampler.watch(Screen("overview")) as watching:
                async for snapshot in watching:
                    found = snapshot.group("orders", "billing")
                    if found is not None and sum(one.dead > 0 for one in found.partitions) >= 100:
                        break
                print(f"everything seen after {time.perf_counter() - began:.1f} s")
                dead = f"/dead?g={quote('orders/billing')}"
                for path in ("/", "/t/orders", "/t/orders/g/billing", "/t/orders/g/billing?p=7000", dead, "/api/t/orders/g/billing/cells"):
                    times: list[float] = []
                    size = 0
                    for _ in range(ROUNDS):
                        await anext(watching)  # nothing of it is rendered, or asked for, already
                        began = time.perf_counter()
                        answer = await client.get(path)
                        times.append((time.perf_counter() - began) * 1000)
                        size = len(answer.content)
                        assert answer.status_code == 200, answer.text
                    print(f"{path:40} median {statistics.median(times):6.1f} ms, most {max(times):6.1f} ms, {size / 1000:6.1f} kB")
                    fine = fine and statistics.median(times) <= 200
    print(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} MB at most")
    return fine


def main() -> int:
    """Fill and measure."""
    partitions, letters = (int(word) for word in (*sys.argv[1:], "10000", "1000000")[:2])
    pool = ServerPool()
    server = pool.new("valkey9")
    try:
        anyio.run(fill, server.url, partitions, letters, server)
        return 0 if anyio.run(measure, server.url) else 1
    finally:
        server.close()
        pool.close()


if __name__ == "__main__":
    sys.exit(main())
