"""Conversations: as users give them, and as an LLM reads them."""
