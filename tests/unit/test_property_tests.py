"""Tests of properties: one that fails tells what it found before its process is ended for taking too long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.internal.conjecture import engine


def test_a_failure_comes_out_before_the_time_is_up(pytestconfig: pytest.Config) -> None:
    assert 10 < engine.MAX_SHRINKING_SECONDS < float(pytestconfig.getini("faulthandler_timeout")) / 2


def test_making_a_failure_smaller_ends_after_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_SHRINKING_SECONDS", 0.2)
    tried: list[int] = []

    @settings(database=None)
    @given(st.lists(st.integers(), min_size=50))
    def slow(numbers: list[int]) -> None:
        tried.append(len(numbers))
        time.sleep(0.05)
        assert len(numbers) < 50

    with pytest.raises(AssertionError):
        slow()
    assert 2 < len(tried) < 20
