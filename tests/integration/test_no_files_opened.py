"""A consumer, a producer and an Admin that have started open no file and import nothing: their process may have no descriptor left."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import anyio

from tests.servers import Server

WATCHED = textwrap.dedent(
    """
    import sys
    import anyio
    from redisaq import Admin, Consumer, Message, Producer, RetryAfter, RetryPolicy

    opened: list[str] = []
    watching = False

    def watch(event, arguments):
        # A source file is opened for the text of a traceback, which does without it.
        if watching and event in ("open", "import") and not str(arguments[0]).endswith(".py"):
            opened.append(f"{event} {arguments[0]}")

    sys.addaudithook(watch)

    async def main():
        global watching
        url, namespace, group = *sys.argv[1:3], "workers"
        async with Producer("jobs", url, namespace=namespace, init_partitions=2) as producer, Admin(url, namespace=namespace) as admin:
            retry = RetryPolicy(max_attempts=2, backoff=0.01)
            consumer = Consumer("jobs", url, group_name=group, namespace=namespace, retry=retry)
            seen = []
            async def handle(message: Message):
                seen.append(message.payload)
                if message.payload == "put off" and seen.count("put off") == 1:
                    raise RetryAfter(0.01)
                if message.payload == "dies":
                    raise ValueError("always")
            async def until(condition):
                with anyio.fail_after(30):
                    while not await condition():
                        await anyio.sleep(0.01)
            async def dead():
                return [letter async for letter in admin.dead_letters("jobs", group)]
            async def handled():
                return len(seen) >= 7
            async with anyio.create_task_group() as tasks:
                await tasks.start(consumer.process, handle)
                watching = True
                await producer.enqueue("plain")
                await producer.batch_enqueue(["put off", "dies"])
                await producer.enqueue("once", dedup_id="a")
                await producer.enqueue("later", delay=0.02)
                await until(handled)
                await until(dead)
                await admin.pause("jobs", group)
                await admin.resume("jobs", group)
                await admin.topic("jobs")
                await producer.request_partition_increase(3)
                await consumer.stop()
            watching = False
        print(opened)

    anyio.run(main, backend=sys.argv[3])
    """
)


async def test_nothing_that_has_started_opens_a_file(server: Server, namespace: str, anyio_backend_name: str) -> None:
    words = [sys.executable, "-c", WATCHED, server.url, namespace, anyio_backend_name]
    done = await anyio.run_process(words, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert done.stdout.decode().strip() == "[]"
