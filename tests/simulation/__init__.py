"""Whole groups under a seeded scheduler in virtual time."""
