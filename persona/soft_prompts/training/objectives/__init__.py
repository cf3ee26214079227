"""Objectives: what a user embedder is trained by, beside the loss of the LLM."""
