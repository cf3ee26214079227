"""Where an LLM's weights come from and what they need: the hub, GGUF files, quantised layers, memory."""
