"""Retrievers that compare the vectors of a record encoder."""
