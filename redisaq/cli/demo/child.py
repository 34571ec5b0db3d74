"""One process of the demo: `python -m redisaq.cli.demo.child`, a producer or a consumer as the first line of its input says.

In: what reports.py tells. Out: reports, and the exit status: 0 unless it failed. What always holds: it ends when its input does, so
that a parent that is killed leaves nobody behind.
"""

from __future__ import annotations

import sys

import anyio

from redisaq.cli.demo.consumer_process import consume
from redisaq.cli.demo.pipes import Inbox, Outbox
from redisaq.cli.demo.producer_process import produce
from redisaq.cli.demo.reports import ChildSettings, Failed, decode_settings
from redisaq.cli.groups import leaves
from redisaq.errors import RedisaqError
from redisaq.run import run

STDIN, STDOUT = 0, 1


def main() -> int:
    """Run the process; return its exit status."""
    with open(STDIN, "rb", buffering=0, closefd=False) as lines:  # unbuffered: what follows is the event loop's to read
        line = lines.readline()
    if not line.endswith(b"\n"):
        return 1  # the parent was gone before it had said anything
    settings = decode_settings(line)
    return 0 if run(work, settings, backend=settings.backend) else 1


async def work(settings: ChildSettings) -> bool:
    """Do what the settings say; return True unless it failed."""
    inbox, outbox = Inbox(STDIN), Outbox(STDOUT)
    job = produce if settings.role == "producer" else consume
    reasons: list[str] = []
    try:
        async with anyio.create_task_group() as pipes:
            pipes.start_soon(inbox.run)
            pipes.start_soon(outbox.run)
            try:
                await job(settings, inbox, outbox)
            except* RedisaqError as group:
                reasons += [str(error) for error in leaves(group)]
            for reason in reasons:
                outbox.put(Failed(reason))
            await outbox.flush()
            pipes.cancel_scope.cancel()
    except* BrokenPipeError:
        reasons.append("the parent is gone")
    return not reasons


if __name__ == "__main__":
    sys.exit(main())
