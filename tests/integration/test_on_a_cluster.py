"""The integration tests of producers, consumers and Admin, unchanged, on a cluster of three nodes."""

from __future__ import annotations

import pytest

from tests.clusters import Cluster
from tests.integration.test_admin import (
    admin,
    bench,
    member,
    test_a_group,
    test_a_group_at_work,
    test_a_topic_is_deleted_and_nothing_is_left,
    test_dead_letters,
    test_force,
    test_redriving_some,
    test_seeking,
    test_seeking_in_a_paused_group,
    test_the_history_of_a_group,
    test_topics,
)
from tests.integration.test_consumer import (
    test_a_custom_serializer_may_return_str_or_bytes,
    test_a_foreign_entry_is_reported_once_and_put_among_the_dead_letters,
    test_a_payload_that_cannot_be_serialized_sends_nothing_of_the_batch,
    test_connect_and_close_in_any_order_without_nesting,
    test_one_producer_over_several_event_loops,
    test_process_batch_without_connect,
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
from tests.integration.test_every_seventh import (
    test_on_a_server,
)
from tests.integration.test_pause import (
    test_pause_and_resume,
    test_until_empty_on_a_paused_group_says_so,
)
from tests.integration.test_reading_ahead import (
    test_what_was_read_ahead_is_handed_back,
)
from tests.server_fixtures import ServerPool

__all__ = [
    "admin",
    "bench",
    "member",
    "place",
    "test_a_blocking_retry_holds_its_lane",
    "test_a_custom_serializer_may_return_str_or_bytes",
    "test_a_foreign_entry_is_reported_once_and_put_among_the_dead_letters",
    "test_a_group",
    "test_a_group_at_work",
    "test_a_payload_that_cannot_be_serialized_sends_nothing_of_the_batch",
    "test_a_reason_a_pause_and_what_cannot_be_read",
    "test_a_redrive_gives_a_new_life",
    "test_a_topic_is_deleted_and_nothing_is_left",
    "test_after_its_last_attempt_a_message_is_dead_with_why",
    "test_attempts_go_on_with_the_next_owner",
    "test_connect_and_close_in_any_order_without_nesting",
    "test_dead_letters",
    "test_deduplication_answers_the_first_message",
    "test_force",
    "test_on_a_server",
    "test_one_producer_over_several_event_loops",
    "test_parked_retries_let_others_go_on",
    "test_pause_and_resume",
    "test_process_batch_without_connect",
    "test_redriving_some",
    "test_seeking",
    "test_seeking_in_a_paused_group",
    "test_the_history_of_a_group",
    "test_topics",
    "test_until_empty_on_a_paused_group_says_so",
    "test_what_was_delayed_outlives_its_producer",
    "test_what_was_read_ahead_is_handed_back",
]

pytestmark = [pytest.mark.anyio, pytest.mark.backends_take_turns, pytest.mark.usefixtures("patient")]


@pytest.fixture
def server(server_pool: ServerPool) -> Cluster:
    """What the tests take for a server."""
    return server_pool.shared_cluster("cluster")


@pytest.fixture
def valkey_server(server: Cluster) -> Cluster:
    """What the tests take for a server."""
    return server


@pytest.fixture
def url(server: Cluster) -> str:
    """Its address."""
    return server.url
