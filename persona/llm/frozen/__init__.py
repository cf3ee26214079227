"""A frozen model of transformers: what it computes of ids and soft prompts, and what it can be asked for."""
