"""What a subscriber of events may take, and what an event holds."""

from __future__ import annotations

from typing import assert_type

from redisaq import Consumer, events


def watch(event: events.Event) -> None:
    match event:
        case events.MessageFailed():
            assert_type(event.error, Exception)
            assert_type((event.msg_id, event.attempt), tuple[str, int])
        case events.MessageRetried(again_in=seconds):
            assert_type(seconds, float)
        case events.PartitionAcquired(partition=partition, token=token):
            assert_type((partition, token), tuple[int, int])
        case events.EntriesTrimmed():
            assert_type(event.entry_ids, tuple[str, ...])
        case _:
            assert_type((event.topic, event.group, event.member), tuple[str, str, str])


def watch_failures(event: events.MessageFailed) -> None: ...


Consumer("orders", on_event=watch)
Consumer("orders", on_event=print)
Consumer("orders", on_event=watch_failures)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
