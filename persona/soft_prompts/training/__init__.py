"""Training of user embedders: options, examples, warm-up, the loss of the frozen LLM, and copying."""
