"""The kernel and one actor at a time."""
