"""Training adapters: many users at once, each exactly as if alone."""
