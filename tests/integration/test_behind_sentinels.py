"""The integration tests of producers and consumers, unchanged, on a server that they find by its sentinels."""

from __future__ import annotations

import pytest

from redisaq.link import sentinel
from tests.integration.test_consumer import (
    test_a_custom_serializer_may_return_str_or_bytes,
    test_a_foreign_entry_is_reported_once_and_put_among_the_dead_letters,
    test_a_payload_that_cannot_be_serialized_sends_nothing_of_the_batch,
    test_connect_and_close_in_any_order_without_nesting,
    test_one_producer_over_several_event_loops,
    test_process_batch_without_connect,
    url,
)
from tests.integration.test_delivery_redis import (
    place,
    test_a_blocking_retry_holds_its_lane,
    test_a_reason_a_pause_and_what_cannot_be_read,
    test_a_redrive_gives_a_new_life,
    test_after_its_last_attempt_a_message_is_dead_with_why,
    test_attempts_go_on_with_the_next_owner,
    test_deduplication_answers_the_first_message,
    test_parked_retries_let_others_go_on,
    test_what_was_delayed_outlives_its_producer,
)
from tests.integration.test_every_seventh import test_on_a_server
from tests.sentinels import PATIENCE, Guarded
from tests.servers import Server

__all__ = [
    "place",
    "test_a_blocking_retry_holds_its_lane",
    "test_a_custom_serializer_may_return_str_or_bytes",
    "test_a_foreign_entry_is_reported_once_and_put_among_the_dead_letters",
    "test_a_payload_that_cannot_be_serialized_sends_nothing_of_the_batch",
    "test_a_reason_a_pause_and_what_cannot_be_read",
    "test_a_redrive_gives_a_new_life",
    "test_after_its_last_attempt_a_message_is_dead_with_why",
    "test_attempts_go_on_with_the_next_owner",
    "test_connect_and_close_in_any_order_without_nesting",
    "test_deduplication_answers_the_first_message",
    "test_on_a_server",
    "test_one_producer_over_several_event_loops",
    "test_parked_retries_let_others_go_on",
    "test_process_batch_without_connect",
    "test_what_was_delayed_outlives_its_producer",
    "url",
]

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no busy machine make a sentinel late."""
    monkeypatch.setattr(sentinel, "ANSWER_WITHIN", PATIENCE)


@pytest.fixture
def valkey_server(guarded: Guarded) -> Server:
    """The server that the tests ask for."""
    return guarded.front


@pytest.fixture
def server(guarded: Guarded) -> Server:
    """The server that the tests ask for."""
    return guarded.front
