"""The tests: what each folder is for stands in CONTRIBUTING.md."""
