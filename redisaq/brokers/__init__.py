"""What keeps the streams."""
