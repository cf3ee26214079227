"""Judges: LLMs that grade answers, how often they are wrong, and scores that allow for it."""
