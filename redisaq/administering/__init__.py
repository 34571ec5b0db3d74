"""What an Admin does to look after topics and groups."""
