"""The server: an OpenAI-compatible API that knows its users, their data, and a page for people."""
