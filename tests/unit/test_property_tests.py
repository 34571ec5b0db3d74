"""Tests of properties: one that fails tells what it found before its process is ended for taking too long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.internal.conjecture import engine


def test_a_failure_is_told_before_the_time_is_up(pytestconfig: pytest.Config) -> None:
    assert 10 < engine.MAX_SHRINKING_SECONDS < float(pytestconfig.getini("faulthandler_timeout")) / 2


def test_making_a_failure_smaller_ends_after_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_SHRINKING_SECONDS", 0.2)
    began: list[float] = []

    @settings(database=None)
    @given(st.lists(st.integers(), min_size=50))
    def slow(numbers: list[int]) -> None:
        began.append(time.monotonic())
        time.sleep(0.05)
        assert len(numbers) < 50

    with pytest.raises(AssertionError):
        slow()
    assert began[-1] - began[0] < 2.0
    assert len(began) > 2, "it was made smaller"
