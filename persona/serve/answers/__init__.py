"""Chat and completions: what is asked, what is personal, and who answers: the engine in the process, or an upstream."""
