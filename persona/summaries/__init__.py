"""Summaries of users: exact statistics, and what an LLM wrote."""
