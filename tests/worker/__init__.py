"""Tests of the worker's parts. Its processes are in tests/integration/test_worker.py."""
