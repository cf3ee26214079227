"""Record encoders: texts, and what users wrote, as vectors."""
