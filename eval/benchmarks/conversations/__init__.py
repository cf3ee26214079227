"""Benchmarks whose histories are conversations: turns become records in order, with speaker, role and time."""
