"""Pure decisions, without I/O: every rule that you may want to check is a function or a class here."""
