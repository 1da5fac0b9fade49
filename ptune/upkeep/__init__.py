"""Looks after a ledger: says what is wrong with it, and what nothing refers to any more."""
