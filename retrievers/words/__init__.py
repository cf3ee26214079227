"""Retrievers that compare words."""
