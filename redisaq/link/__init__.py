"""Redis over anyio."""
