"""Counts in memory that outlives the process which counts: what a reader finds in the bytes alone."""

from __future__ import annotations

import os
import sys

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from redisaq.integrations.counts import SIZE, Counts, Description, read
from redisaq.worker.outliving import counted_in, file_to_count_in, mapped
from redisaq.worker.reports import Family, Sample
from redisaq.worker.totals import Totals

RUNS = Description("runs", "Runs.", ("topic",), ("orders",))
TOOK = Description("took", "Seconds.", ("topic",), ("orders",), (0.5, 1.0))


def test_what_was_counted_is_read_from_the_bytes() -> None:
    """And counts as prometheus_client counts."""
    file = file_to_count_in()
    assert file is not None
    with file:
        assert os.fstat(file.fileno()).st_blocks * 512 >= SIZE, "a full disk must not kill who counts"
        handed = os.dup(file.fileno())
        memory = mapped(handed)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handed)  # what the program starts does not have it
        assert counted_in(file.fileno()) == []
        counts = Counts(memory)
        runs, took = counts.series(RUNS), counts.series(TOOK)
        registry = CollectorRegistry()
        theirs, histogram = (
            Counter("runs", "Runs.", ["topic"], registry=registry),
            Histogram("took", "Seconds.", ["topic"], buckets=TOOK.bounds, registry=registry),
        )
        for value in (0.25, 0.5, 0.75, 1.0, 40.0):
            runs.add(2)
            took.observe(value)
            theirs.labels("orders").inc(2)
            histogram.labels("orders").observe(value)
        found = counted_in(file.fileno())
        assert [(one.name, one.kind, one.text) for one in found] == [("runs", "counter", "Runs."), ("took", "histogram", "Seconds.")]
        samples = {(one.name, *sorted(one.labels.items())): one.value for family in found for one in family.samples}
        assert samples == {
            (one.name, *sorted(one.labels.items())): one.value
            for family in registry.collect()
            for one in family.samples
            if not one.name.endswith("_created")
        }
        assert [series.values() for series in counts] == [list(cells) for _, cells in read(bytes(memory))]


def test_a_series_without_room_is_counted_in_the_process() -> None:
    memory = bytearray(200)
    counts = Counts(memoryview(memory))
    several = [counts.series(RUNS) for _ in range(5)]
    for one in several:
        one.add()
    kept = list(read(bytes(memory)))
    assert 0 < len(kept) < 5
    assert [list(cells) for _, cells in kept] == [[1.0]] * len(kept)
    assert [one.values() for one in counts] == [[1.0]] * 5


def test_a_series_that_fills_the_memory_has_room() -> None:
    memory = bytearray(4096)
    Counts(memoryview(memory)).series(RUNS)
    memory = bytearray(int.from_bytes(memory[:8], sys.byteorder))
    Counts(memoryview(memory)).series(RUNS).add()
    assert [list(cells) for _, cells in read(bytes(memory))] == [[1.0]]


def test_a_file_that_the_program_has_cut_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Wherever it was cut: half a histogram would be a wrong one."""
    file = file_to_count_in()
    assert file is not None
    with file:
        counts = Counts(mapped(os.dup(file.fileno())))
        for description in (RUNS, TOOK):
            counts.series(description)
        used = int.from_bytes(os.pread(file.fileno(), 8, 0), sys.byteorder)
        os.ftruncate(file.fileno(), used)
        assert [one.name for one in counted_in(file.fileno())] == ["runs", "took"]
        for cut in range(used - 1, -1, -1):
            os.ftruncate(file.fileno(), cut)
            assert counted_in(file.fileno()) == []
    assert len([one for one in caplog.records if "cannot be read" in one.message]) == used


def test_half_a_series_is_none_and_nonsense_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    memory = bytearray(4096)
    counts = Counts(memoryview(memory))
    counts.series(RUNS).add()
    used = bytes(memory[:8])
    counts.series(TOOK)
    memory[:8] = used  # the process was killed before it said so
    assert [one.name for one, _ in read(bytes(memory))] == ["runs"]
    file = file_to_count_in()
    assert file is not None
    with file:
        os.pwrite(file.fileno(), memory, 0)
        assert counted_in(file.fileno()) != []
        for nonsense, place in ((b"\xc1", 16), (b"\xff" * 64, 0)):
            os.pwrite(file.fileno(), nonsense, place)
            assert counted_in(file.fileno()) == []
        assert os.fstat(file.fileno()).st_size == SIZE
    assert "cannot be read" in caplog.text


def test_a_sum_never_falls_when_a_child_ends() -> None:
    """Its last report is older than what it had counted."""

    def of(*values: float) -> list[Family]:
        return [Family("runs", "counter", "Runs.", [Sample("runs_total", {"topic": str(n)}, one) for n, one in enumerate(values)])]

    totals, own = Totals(), Family("own", "counter", "The program's.", [Sample("own_total", {}, 3.0)])
    beyond = Family("runs", "counter", "Runs.", [*of(5.0)[0].samples, Sample("runs_total", {"topic": "no room in the file"}, 2.0)])
    totals.update(1, [beyond, own])
    totals.settle(1, of(7.0, 1.0))
    totals.bury(1)
    totals.update(1, of(1.0))
    totals.settle(2, of(1.0))
    sums = {(one.name, *one.labels.values()): one.value for family in totals.families() for one in family.samples}
    assert sums == {("runs_total", "0"): 9.0, ("runs_total", "1"): 1.0, ("runs_total", "no room in the file"): 2.0, ("own_total",): 3.0}
