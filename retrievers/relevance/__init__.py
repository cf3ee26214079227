"""Filters that say whether a user's records have to do with a question, and their training."""
