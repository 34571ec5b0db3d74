"""Pure and sans-IO: every rule a person may want to check is a function here."""
