"""The sampler, its rules, and what shows its snapshots in a terminal."""
