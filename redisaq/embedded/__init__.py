"""A private server."""
