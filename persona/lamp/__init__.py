"""The LaMP benchmark: its tasks, its official prompts and its files."""
