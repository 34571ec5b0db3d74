"""What `redisaq produce` reads from another program."""

from __future__ import annotations

import os
from contextlib import aclosing

import anyio
import pytest

from redisaq.cli import lines
from redisaq.cli.common import Refused


@pytest.mark.anyio
async def test_a_line_is_not_kept_until_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BATCH", 2)
    reading, writing = os.pipe()
    with os.fdopen(reading) as file:
        async with aclosing(lines.batches(file)) as found:
            for sent, batches in ((b"1\n", [[b"1"]]), (b' {"a": 2} \n\n3\n4\n5', [[b'{"a": 2}', b"3"], [b"4"]]), (b"6\n", [[b"56"]])):
                os.write(writing, sent)
                with anyio.fail_after(30):
                    assert [await anext(found) for _ in batches] == batches
            os.write(writing, b'7\n"\xff"\n')
            assert await anext(found) == [b"7"]
            with pytest.raises(Refused, match="line 8 is not JSON"):
                await anext(found)
    os.close(writing)
