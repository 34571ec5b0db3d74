"""What each method of a broker means, tested on every broker and every backend."""
