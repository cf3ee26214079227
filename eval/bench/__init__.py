"""The bench: ideas for a user embedder, each trained and scored on the same users with the same budget."""
