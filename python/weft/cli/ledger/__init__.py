"""`weft ledger`: the log, and what can be said of it and done about it."""
