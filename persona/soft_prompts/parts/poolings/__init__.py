"""Poolings: from the records of a user to one vector."""
