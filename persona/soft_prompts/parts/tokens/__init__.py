"""Tokens: from a user's state to soft tokens."""
