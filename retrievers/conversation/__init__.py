"""Retrieval over conversations: records as turns, with who spoke, when, and what was said just before and after."""
