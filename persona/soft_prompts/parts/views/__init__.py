"""Views: what is read of a record, beside its text, its target and its style."""
