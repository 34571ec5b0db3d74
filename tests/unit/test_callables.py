"""What must be callable and is not is refused at once, not by each message that comes."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from redisaq import Consumer, Producer
from redisaq.errors import SettingsError

WRONG: Any = "handle"


@pytest.mark.parametrize("setting", ["deserializer", "on_event"])
def test_a_consumers_settings(setting: str) -> None:
    options: dict[str, Any] = {setting: WRONG}
    with pytest.raises(SettingsError, match=f"{setting} must be something that can be called, not 'handle'"):
        Consumer("orders", "memory://", **options)


def test_a_producers_serializer() -> None:
    with pytest.raises(SettingsError, match="serializer must be"):
        Producer("orders", "memory://", serializer=WRONG)


@pytest.mark.parametrize("callback", [WRONG, None])
@pytest.mark.parametrize("method", ["process", "process_batch"])
def test_a_handler(method: str, callback: object) -> None:
    consumer = Consumer("orders", "memory://")
    with pytest.raises(SettingsError, match="callback must be"):
        anyio.run(getattr(consumer, method), callback)
