"""What a run leaves behind: where it ran, the scores of single questions, and the comparison of two runs."""
