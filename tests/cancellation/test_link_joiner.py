"""Somebody whom others let write for them is cancelled in that moment (docs/understand/link.md, rule 5)."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from redisaq.link import Link, parse_address
from tests.link_fake import FakeServer, usual_answers

pytestmark = pytest.mark.anyio


async def test_a_cancelled_joiner_holds_up_nobodys_bytes() -> None:
    """Who drives waits for an answer that does not come. On trio it is left to chance which of two comes first: hence many times."""
    with FakeServer({**usual_answers(), "SILENT": b""}) as server:
        link = Link(parse_address(server.url))
        await link.connect()
        try:
            with anyio.fail_after(30):
                async with anyio.create_task_group() as group:
                    group.start_soon(link.call, ("SILENT",))
                    await anyio.wait_all_tasks_blocked()
                    for number in range(20):
                        await one_round(link, server, number)
                    group.cancel_scope.cancel()
        finally:
            await link.close()


async def one_round(link: Link, server: FakeServer, number: int) -> None:
    async with anyio.create_task_group() as group:
        joiner = anyio.CancelScope()

        async def join() -> None:
            with joiner:
                await link.call(("ECHO", f"joiner {number}"))

        group.start_soon(join)
        group.start_soon(link.call, ("ECHO", f"late {number}"))
        await checkpoint()
        joiner.cancel()
        with anyio.fail_after(30):
            while [b"ECHO", b"late %d" % number] not in server.commands:
                await anyio.sleep(0.002)
        group.cancel_scope.cancel()
