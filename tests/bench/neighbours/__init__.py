"""The same jobs through redisaq and its neighbours: `python -m tests.bench.neighbours`. Each neighbour has a venv of its own."""
