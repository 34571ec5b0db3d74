"""A gate: how often it moves, and that each move is reported."""

from __future__ import annotations

from redisaq.consuming.gate import Gate


def test_each_move_is_counted_and_reported_once() -> None:
    gate, told, moves = Gate(), list[bool](), list[int]()
    gate.moved = lambda: told.append(gate.closed)
    for closed in (False, True, True, False, False, True):
        gate.move(closed=closed)
        moves.append(gate.moves)
    assert moves == [0, 1, 1, 2, 2, 3]
    assert told == [True, False, True]
