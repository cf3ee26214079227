"""Serving adapters: on a transformers model in this process, or on a vLLM server."""
