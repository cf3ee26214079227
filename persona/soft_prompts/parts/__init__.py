"""Parts of a user embedder: views of a record, poolings, states and tokens, each one idea."""
