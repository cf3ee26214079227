"""Benchmarks on profiles: histories of records, not of conversations."""
