"""Record encoders: texts, and how they are written, as vectors."""
