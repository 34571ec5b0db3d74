"""Optional: connects redisaq with systems that watch programs. Each module needs the extra that its docstring names."""
