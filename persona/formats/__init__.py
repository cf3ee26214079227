"""Readers of foreign file formats: JSON, JSON lines, Parquet and rows."""
