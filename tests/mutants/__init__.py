"""Mutants: small changes of the product, to see which test notices each.

`operators` makes them, `written` reads those of written.toml and equivalent.toml, `places` names where something stands, `covering` knows
which tests run a line, `copies` and `running` try a mutant in a copy of the tree; `plugin` is loaded into pytest. `python -m tests.mutants`
runs it.

Why no library. mutmut and pytest-gremlins put all mutants into the functions at once and switch between them: what reads a signature, a
decorator or a module's constants meets something else than the product, and processes that tests start would have to be switched, too.
cosmic-ray and poodle run one command for every mutant, whatever it is about; with tests of many minutes that is a day. None of them knows
Lua, takes a list of mutants written by hand, or finds code again that has moved.
"""
