"""The actor kernel, public, and the actors of a consumer."""
