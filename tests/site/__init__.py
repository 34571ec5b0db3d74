"""The site of the documents: how the reference shows options (options.py), and what a built site must hold (`python -m tests.site`)."""
