"""Answers: how a request is answered, in the LLM's own words or by one of its choices."""
