"""Real servers and, where it matters, real processes."""
