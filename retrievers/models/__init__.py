"""Retrievers that read texts with a model of their own."""
