"""A generated world whose best possible scores are known exactly."""
