"""Pure functions and single classes: no server, mostly no event loop."""
