"""Adapters in one forward pass: networks that write a user's adapter, and the ledger that takes it back by records."""
