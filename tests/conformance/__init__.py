"""What each method of a broker means, asked of every broker on every backend."""
