"""The broker on a real server."""
