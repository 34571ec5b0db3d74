"""Sends one producer's messages."""
