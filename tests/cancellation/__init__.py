"""Callers are cancelled at each await; nothing is lost and nothing hangs."""
