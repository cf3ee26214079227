"""States: what is kept of a user, from the pooled vector to the soft tokens."""
