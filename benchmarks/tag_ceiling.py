"""Upper bound of retrieval on the world's tags: an exact reader instead of the LLM.

    python -m benchmarks.tag_ceiling [--users 150] [--json]

The reader knows the distributions that the world is drawn from. From the retrieved records it computes the posterior
over the user's order of the tags in the question's family, and answers with the most probable tag. No LLM can do better
with the same records: the distance of a real LLM to this bound is the LLM's loss, that of the bound to 100 % the
retrieval's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table

from examples.world.bounds import no_user_score, oracle_score
from examples.world.traits import TagContent, tag_prior
from examples.world.world import World, WorldQuestion
from persona.lamp.tasks import MOVIE_TAGS, lamp_task
from persona.protocols import Retriever
from persona.retrievers.registry import make_retriever

TASK, RECORDS, SEEDS = "LaMP_2", 20, (0, 1, 2)


def contents(world: World, asked: WorldQuestion) -> Mapping[str, TagContent]:
    """The content of each record of a question's profile, by the record's text."""
    rows = world.contents(asked.user, TASK, RECORDS)
    return {record.text: content for record, content in zip(asked.question.profile, rows, strict=True)}


def best_tag(content: TagContent, retrieved: Sequence[tuple[TagContent, str]]) -> int:
    """The most probable tag, given the user's tags of the retrieved films."""
    posterior: dict[int, float] = {}
    for habit, prior in tag_prior(content):
        weight = prior
        for film, tag in retrieved:
            if film.family == content.family:
                weight *= habit.answers(film)[MOVIE_TAGS.index(tag)]
        for tag_index, probability in habit.answers(content).items():
            posterior[tag_index] = posterior.get(tag_index, 0.0) + weight * probability
    return max(posterior, key=posterior.__getitem__)


def share(retriever: Retriever, k: int, users: int) -> float:
    """Share of the gap that the exact reader closes with `k` records of `retriever`."""
    scores, floors, ceilings = [], [], []
    for seed in SEEDS:
        world = World(seed)
        for asked in world.questions(TASK, "dev", users, RECORDS):
            assert isinstance(asked.content, TagContent)
            by_text = contents(world, asked)
            best = retriever.retrieve(asked.question.profile, lamp_task(TASK).query(asked.question.input), k)
            retrieved = [(by_text[scored.record.text], scored.record.target or "") for scored in best]
            answer = best_tag(asked.content, retrieved)
            scores.append(asked.user.traits.tag.answers(asked.content).get(answer, 0.0))
            floors.append(no_user_score(asked.content))
            ceilings.append(oracle_score(asked.content, asked.user.traits))
    return (fmean(scores) - fmean(floors)) / (fmean(ceilings) - fmean(floors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=150, help="dev users in each of three worlds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shares = {
        f"{name} k={k}": share(make_retriever(name), k, options.users)
        for name in ("bm25-lamp", "bm25", "recency")
        for k in (1, 4, RECORDS)
    }
    if options.json:
        print(json.dumps(shares, indent=2))
        return
    table = Table("records", "share of the gap", title="tags: upper bound with retrieved records")
    for name, value in shares.items():
        table.add_row(name, f"{value:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
