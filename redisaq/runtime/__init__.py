"""Wires the actors of one consumer."""
