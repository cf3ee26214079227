"""The labels of LaMP's tasks, in the order of the official inputs."""

from __future__ import annotations

MOVIE_TAGS = (
    *("sci-fi", "based on a book", "comedy", "action", "twist ending", "dystopia", "dark comedy", "classic"),
    *("psychology", "fantasy", "romance", "thought-provoking", "social commentary", "violence", "true story"),
)
"""The labels of LaMP_2, in the order of the official input."""

NEWS_CATEGORIES = (
    *("women", "religion", "politics", "style & beauty", "entertainment", "culture & arts", "sports"),
    *("science & technology", "travel", "business", "crime", "education", "healthy living", "parents"),
    "food & drink",
)
"""The labels of LaMP_2N, in the order of the official input. Other sets have others: `LampTask.labels_in`."""
