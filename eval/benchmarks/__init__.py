"""Benchmarks: the field's own, and what they are made of."""
