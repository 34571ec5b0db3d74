"""The simulation's checks can fail: with a rule of the protocol taken out, it says what goes wrong; with the rule, nothing does.

`python -m tests.simulation.variants` searches the seeds that are replayed here.
"""

from __future__ import annotations

import re

import pytest

from tests.simulation.variants.breaking import Change, taken_out
from tests.simulation.variants.hunt import broken, whole
from tests.simulation.variants.registry import FOUND_BY_COUNTEREXAMPLE, VARIANTS, recorded
from tests.simulation.variants.variant import BACKENDS, Backend
from tests.unit.source import ROOT

both = pytest.mark.parametrize("backend", BACKENDS)
each = pytest.mark.parametrize("name", VARIANTS)


@pytest.mark.backends_take_turns
@both
@each
def test_without_the_rule_the_harm_is_seen(name: str, backend: Backend) -> None:
    outcome = broken(VARIANTS[name], recorded(name, backend), backend)
    assert outcome.unused == [], "the change had no part in it"
    assert outcome.harms, outcome.violations


@pytest.mark.backends_take_turns
@both
@each
def test_with_the_rule_there_is_none(name: str, backend: Backend) -> None:
    assert whole(VARIANTS[name], recorded(name, backend), backend) == []


def test_every_rule_that_a_counterexample_found_has_a_variant() -> None:
    assert set(FOUND_BY_COUNTEREXAMPLE) <= {variant.rule for variant in VARIANTS.values()}
    rules = set(re.findall(r"^\*\*([A-Z]\d+) ", (ROOT / "docs" / "understand" / "protocol.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert {variant.rule for variant in VARIANTS.values()} <= rules


def test_a_place_that_is_gone_is_an_error() -> None:
    with pytest.raises(LookupError, match="no function any more"), taken_out(Change(VARIANTS.__class__, "gone", lambda one: one)):
        pytest.fail("it was found")
