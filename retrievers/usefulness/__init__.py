"""Retrieval of records by how much they help the frozen LLM to answer as the user does, and its training."""
