"""Runs one consumer: its actors, and the runtime that starts and ends them in order."""
