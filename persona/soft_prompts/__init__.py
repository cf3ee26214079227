"""Soft prompts: the user embedder, its training and its channel."""
