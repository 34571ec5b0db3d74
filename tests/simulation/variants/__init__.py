"""Broken variants: the product with one rule of docs/understand/protocol.md taken out, each caught by the simulation.

`breaking` takes a rule out, `wire` scripts faults where chance is too thin, `members`, `taking`, `settling` and `enqueueing` hold the
variants, `registry` gathers them, `hunt` runs them; `python -m tests.simulation.variants` searches.
"""
