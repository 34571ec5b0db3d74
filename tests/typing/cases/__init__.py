"""Code that uses the API, for type checkers only: nothing here is ever run. tests/typing/test_checkers.py says how to read it."""
