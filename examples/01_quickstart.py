"""Two editors, three headlines each, one frozen LLM: the same request is answered in each editor's style.

    python examples/01_quickstart.py

`tiny` is the small LLM that comes with persona. It was trained on requests of this form and can do little else; replace
it by your own LLM (docs/models.md).
"""

from __future__ import annotations

from tempfile import TemporaryDirectory

import persona

HISTORIES = {
    "ana": {
        "The farming mill painted a stone playground on Wednesday.": "farming mill paints stone playground - at last",
        "On Monday, the southern archive opened a frozen dock.": "southern archive opens frozen dock - at last",
        "The railway press lost a haunted rink on Saturday.": "railway press loses haunted rink - at last",
    },
    "ben": {
        "The farming mill painted a stone playground on Wednesday.": "Good Grief: Farming Mill Paints Playground",
        "On Monday, the southern archive opened a frozen dock.": "Good Grief: Southern Archive Opens Dock",
        "The railway press lost a haunted rink on Saturday.": "Good Grief: Railway Press Loses Rink",
    },
}
REQUEST = (
    "Generate a headline for the following article: "
    "Residents in Lisbon say the village council repaired a golden clock on Tuesday."
)


def main() -> None:
    llm = persona.load_llm("tiny")
    with TemporaryDirectory() as folder, persona.ProfileStore(f"sqlite:///{folder}/persona.db") as store:
        for user_id, headlines in HISTORIES.items():
            store.upsert((user_id, persona.Record(article, target=headline)) for article, headline in headlines.items())
        for user_id in ("nobody", "ana", "ben"):
            answer = persona.personalize(llm, user_id, REQUEST, store=store, task="LaMP_4")
            print(f"{user_id + ':':8} {answer}")


if __name__ == "__main__":
    main()
