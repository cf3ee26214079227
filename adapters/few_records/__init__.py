"""Adapters for users with too few records to train one: from neighbours, or from shared meta-adapters."""
