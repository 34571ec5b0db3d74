"""Takes one rule after the other out of redisaq/core/enqueueing.py, and lets the same walks notice it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from redisaq.core import enqueueing
from tests.unit.enqueue_walk import walk
from tests.unit.enqueue_world import Violation

SOURCE = Path(enqueueing.__file__).read_text()


class Variant(NamedTuple):
    """The module without one rule.

    Attributes:
        rule: which, and what is done instead.
        old: a piece of the module's text, there once.
        new: what stands there instead.
        seen: what is noticed.
        seed: the walk that notices it.
    """

    rule: str
    old: str
    new: str
    seen: str
    seed: int


VARIANTS = [
    Variant("E1 nothing is killed before the search", "                return Kill(broken)\n", "                pass\n", "twice", 97),
    Variant("E2 an incomplete search is believed", '"absent" if known else "unknown"', '"absent"', "twice", 63),
    Variant(
        "E2 the newest anchor, not that of the sending",
        "Find(partition, self._anchors[partition],",
        "Find(partition, knowledge.anchors.get(partition, self._anchors[partition]),",
        "twice",
        24,
    ),
    Variant("E2 an anchor of another run counts", "any(run not in self._run for _, _, run in connections)", "False", "twice", 4635),
    Variant("E4 nobody waits for a turn", "        if behind is not None:  # E4", "        if False:", "order", 7),
    Variant("E4 sent again in another order", "        return self._sends(todo)\n", "        return self._sends(todo[::-1])\n", "order", 8),
    Variant("E7 a try that broke is absent", "self._loose = self._loose or written", "self._loose = False", "told wrong", 665),
    Variant("E7 sent again without a mark", 'if written and not self._repeatable else "waiting"', 'if False else "waiting"', "twice", 4),
    Variant(
        "C3 an overtaken message is sent again",
        'elif message.known == "absent" and message.partition in standing:',
        "elif False:",
        "order",
        54,
    ),
    Variant("what was appended is not reported", "error.appended = [message.entry for message in self.messages]", "pass", "told wrong", 0),
    Variant(
        "a message is certain while it is on its way",
        '            message.known = "uncertain"\n        self.state = "sending"',
        '            pass\n        self.state = "sending"',
        "told wrong",
        12,
    ),
]
"""Those that the walks notice soon. The others are in tests/mutants/written.toml, and tests/unit/test_enqueueing_rules.py notices them."""


def without(variant: Variant) -> ModuleType:
    """Return the module without a rule."""
    assert SOURCE.count(variant.old) == 1, variant.rule
    module = ModuleType("variant")
    exec(compile(SOURCE.replace(variant.old, variant.new), variant.rule, "exec"), module.__dict__)  # noqa: S102 -- the product's own text, but for one piece
    return module


@pytest.mark.parametrize("variant", VARIANTS, ids=[variant.rule for variant in VARIANTS])
def test_a_missing_rule_is_noticed(variant: Variant) -> None:
    walk(variant.seed)
    with pytest.raises(Violation, match=variant.seen):
        walk(variant.seed, without(variant))
