"""What retrieval can win at best on the world's tags: an exact reader in the LLM's place.

    python benchmarks/tag_ceiling.py [--users 150] [--json]

The reader knows the world's laws. From the records found it computes the posterior over the user's order of the tags
in the question's family, and answers with the likeliest tag. No LLM can do better with the same records, so what a real
one misses of it is its own loss, and what it misses of 100 % is the retrieval's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table

from persona.assembly import make_retriever
from persona.eval.world.bounds import no_user_score, oracle_score
from persona.eval.world.traits import TagContent, tag_prior
from persona.eval.world.world import World, WorldQuestion
from persona.lamp.labels import MOVIE_TAGS
from persona.lamp.tasks import lamp_task
from persona.protocols import Retriever

TASK, RECORDS, SEEDS = "LaMP_2", 20, (0, 1, 2)


def contents(world: World, asked: WorldQuestion) -> Mapping[str, TagContent]:
    """What each record of a question's profile says, by the record's text."""
    rows = world.contents(asked.user, TASK, RECORDS)
    return {record.text: content for record, content in zip(asked.question.profile, rows, strict=True)}


def best_tag(content: TagContent, found: Sequence[tuple[TagContent, str]]) -> int:
    """The likeliest tag, given what the user picked for the films found."""
    law: dict[int, float] = {}
    for habit, prior in tag_prior(content):
        weight = prior
        for film, tag in found:
            if film.family == content.family:
                weight *= habit.answers(film)[MOVIE_TAGS.index(tag)]
        for tag_index, chance in habit.answers(content).items():
            law[tag_index] = law.get(tag_index, 0.0) + weight * chance
    return max(law, key=law.__getitem__)


def share(retriever: Retriever, k: int, users: int) -> float:
    """Share of the gap that the exact reader closes with the `k` records that `retriever` finds."""
    scores, floors, ceilings = [], [], []
    for seed in SEEDS:
        world = World(seed)
        for asked in world.questions(TASK, "dev", users, RECORDS):
            assert isinstance(asked.content, TagContent)
            said = contents(world, asked)
            best = retriever.retrieve(asked.question.profile, lamp_task(TASK).query(asked.question.input), k)
            found = [(said[one.record.text], one.record.target or "") for one in best]
            answer = best_tag(asked.content, found)
            scores.append(asked.user.traits.tag.answers(asked.content).get(answer, 0.0))
            floors.append(no_user_score(asked.content))
            ceilings.append(oracle_score(asked.content, asked.user.traits))
    return (fmean(scores) - fmean(floors)) / (fmean(ceilings) - fmean(floors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=150, help="dev users in each of three worlds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {
        f"{name} k={k}": share(make_retriever(name), k, options.users)
        for name in ("bm25-lamp", "bm25", "recency")
        for k in (1, 4, RECORDS)
    }
    if options.json:
        print(json.dumps(found, indent=2))
        return
    table = Table("records", "share of the gap", title="tags: the most that retrieved records can win")
    for name, value in found.items():
        table.add_row(name, f"{value:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
