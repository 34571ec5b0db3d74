"""The order of a run in workers: files with long tests first, so that no worker is left alone with one of them when the others are done.

In: the items in pytest's order, and how many workers there are. Out: the same items in another order. pytest-xdist deals it out in rows of
equal length, one to each worker. A worker that has run dry takes the second half of what another has left. So each row begins with long
files, and ends with short ones. Files that wait come at another place in each row, since a processor idles when all workers wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, groupby
from typing import TypeVar

T = TypeVar("T")

LONG = (
    "tests/actors/test_herd.py",
    "tests/actors/test_kernel_simulation.py",
    "tests/actors/test_many_partitions.py",
    "tests/actors/test_settlements.py",
    "tests/actors/test_stuck.py",
    "tests/app/test_metrics.py",
    "tests/browser/",
    "tests/chaos/",
    "tests/conformance/test_delivery_machine.py",
    "tests/conformance/test_model.py",
    "tests/dashboard/test_broken_topic.py",
    "tests/integration/test_behind_sentinels.py",
    "tests/integration/test_bench.py",
    "tests/integration/test_cli_demo.py",
    "tests/integration/test_cli_matrix.py",
    "tests/integration/test_cli_server.py",
    "tests/integration/test_cli_top.py",
    "tests/integration/test_cluster.py",
    "tests/integration/test_confirmed.py",
    "tests/integration/test_consumer.py",
    "tests/integration/test_docs.py",
    "tests/integration/test_embedded.py",
    "tests/integration/test_embedded_disk.py",
    "tests/integration/test_enqueue_retention.py",
    "tests/integration/test_every_seventh.py",
    "tests/integration/test_examples.py",
    "tests/integration/test_growing.py",
    "tests/integration/test_interrupts.py",
    "tests/integration/test_link_sentinel.py",
    "tests/integration/test_on_a_cluster.py",
    "tests/integration/test_runbook.py",
    "tests/integration/test_walkthroughs.py",
    "tests/integration/test_worker.py",
    "tests/mutants/",
    "tests/simulation/",
    "tests/testing/test_plugin_",
    "tests/typing/",
    "tests/unit/test_house.py",
    "tests/unit/test_in_flight.py",
    "tests/unit/test_matrix.py",
    "tests/unit/test_membership_group.py",
    "tests/unit/test_pace.py",
    "tests/unit/test_partitioner.py",
    "tests/watching/test_sampler.py",
)
"""How the names of files begin that have a test of more than about a second."""

WAITING = (
    "tests/chaos/test_cluster_outages.py",
    "tests/chaos/test_frozen_reader.py",
    "tests/integration/test_consumer_refused.py",
    "tests/integration/test_damaged_records.py",
    "tests/integration/test_delivery_redis.py",
    "tests/integration/test_link_silence.py",
    "tests/integration/test_losses.py",
    "tests/integration/test_refused_steps.py",
    "tests/integration/test_retention.py",
    "tests/integration/test_silent_server.py",
)
"""Long files that do little but wait, for half a minute and more."""


def arranged(items: Sequence[T], workers: int, name: Callable[[T], str]) -> list[T]:
    """Return the items in the order in which a run with so many workers executes them.

    Args:
        items: all of them, those of a file together.
        workers: how many workers there are.
        name: returns the name of an item's file.
    """
    long: list[list[T]] = []
    waiting: list[list[T]] = []
    short: list[T] = []
    for file, group in groupby(items, name):
        if file.startswith(WAITING):
            waiting.append(list(group))
        elif file.startswith(LONG):
            long.append(list(group))
        else:
            short += group
    result: list[T] = []
    for number in range(workers):
        files = long[number::workers]
        place = len(files) * number // workers
        files[place:place] = waiting[number::workers]
        result += chain.from_iterable(files)
        missing = max(0, len(items) * (number + 1) // workers - len(result))
        result += short[:missing]
        del short[:missing]
    return result + short
