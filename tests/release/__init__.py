"""Whether this tree may be released: `python -m tests.release`."""
