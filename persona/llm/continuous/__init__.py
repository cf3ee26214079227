"""Many requests at once: they join and leave a running batch between two of its steps."""
