"""A consumer in a trio nursery: started with `nursery.start`, ended by cancelling the nursery, in the middle of its work.

What was finished by then is settled; what was not is redelivered, here to a loop that pulls its messages. Run it with
`python examples/trio_nursery/main.py`: it brings a server of its own. With REDISAQ_URL in the environment it uses that one.
"""

from __future__ import annotations

import os

import msgspec
import trio

from redisaq import Consumer, Message, Producer

REDISAQ_URL = os.environ.get("REDISAQ_URL", "embedded://")
ORDERS = 40


class Order(msgspec.Struct):
    number: int
    customer: str


finished: list[int] = []
interrupted: list[int] = []


async def handle(message: Message[Order]) -> None:
    try:
        await trio.sleep(0.02)  # the work
    except trio.Cancelled:
        interrupted.append(message.payload.number)
        raise
    finished.append(message.payload.number)


async def main() -> None:
    async with Producer("orders", REDISAQ_URL, init_partitions=4) as producer:
        orders = [Order(number, f"customer-{number % 7}") for number in range(ORDERS)]
        await producer.batch_enqueue(orders, partition_key="customer")

    # One handler at a time per customer, up to eight customers at once.
    consumer = Consumer("orders", REDISAQ_URL, payload_type=Order, group_name="billing", ordering="key", concurrency=8)
    async with consumer, trio.open_nursery() as nursery:
        await nursery.start(consumer.process, handle)
        print(f"ready, with partitions {sorted(consumer.assignment)}")
        while len(finished) < ORDERS // 2:
            await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    print(f"cancelled: {len(finished)} orders finished, {len(interrupted)} interrupted")

    pulled: list[int] = []
    rest = Consumer("orders", REDISAQ_URL, payload_type=Order, group_name="billing")
    async with rest, rest.messages(until_empty=True) as messages:
        async for message in messages:
            async with message:  # settled when the block is left, pending again if it raises
                pulled.append(message.payload.number)
    print(f"pulled the other {len(pulled)}, the interrupted ones among them: {set(interrupted) <= set(pulled)}")
    print(f"each order once: {sorted(finished + pulled) == list(range(ORDERS))}")


if __name__ == "__main__":
    trio.run(main)
