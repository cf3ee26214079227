"""Likelihood of choices beside lm-evaluation-harness, in the same run: the same token ids, the same model.

    python benchmarks/choices.py [--questions 20] [--llm smollm2] [--json]

News questions with LaMP's 15 labels, made of the demonstration's articles. The harness makes one row of every pair of
prompt and choice; persona computes a prompt once and its choices on the prompt's cache. Needs the extra ``lm-eval``.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from persona.lamp.tasks import NEWS_CATEGORIES, lamp_task
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.protocols import Choices, Request

ARTICLES = (
    "The council voted on Tuesday to close two of the town's five libraries, in spite of a petition with 4,000 names.",
    "A new ferry will take passengers and bicycles to the islands from April, three times a day in fine weather.",
    "The actress said that she had learnt to ride for the part, and fell off on the first day in front of everybody.",
    "Doctors found that a walk of half an hour after supper lowers blood sugar as much as a light medicine.",
    "Schools will teach an hour less of mathematics a week, which teachers call a mistake and pupils a relief.",
)


def questions(number: int) -> list[Request]:
    """Different prompts: the articles in turn, each with a number of its own."""
    task = lamp_task("LaMP_2N")
    return [
        Request(task.make_input(f"({index}) {ARTICLES[index % len(ARTICLES)]}"), choices=Choices(NEWS_CATEGORIES))
        for index in range(number)
    ]


def harness_scores(llm: TransformersLM, requests: list[Request]) -> list[list[float]]:
    """What lm-evaluation-harness gives for the same tokens."""
    from lm_eval.models.huggingface import HFLM

    harness: Any = HFLM(llm.model, tokenizer=llm._tokenizer, backend="causal", batch_size=16, device="cpu")
    pairs = []
    for request, prompt in zip(requests, llm.prompt_ids([each.prompt for each in requests]), strict=True):
        assert request.choices is not None
        pairs += [((request.prompt, ""), prompt, target) for target in llm.target_ids(request.choices.texts)]
    scores = iter([score for score, _ in harness._loglikelihood_tokens(pairs, disable_tqdm=True)])
    return [[next(scores) for _ in request.choices.texts] for request in requests if request.choices is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--llm", default="smollm2")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    llm = load_llm(options.llm)
    assert isinstance(llm, TransformersLM)
    requests = questions(options.questions)
    llm.choice_scores(requests[:1])
    begun = time.process_time()
    ours = llm.choice_scores(requests)
    middle = time.process_time()
    theirs = harness_scores(llm, requests)
    seconds = {"persona": middle - begun, "lm-evaluation-harness": time.process_time() - middle}
    different = max(
        abs(a - b) for mine, other in zip(ours, theirs, strict=True) for a, b in zip(mine, other, strict=True)
    )
    alike = sum(mine.index(max(mine)) == other.index(max(other)) for mine, other in zip(ours, theirs, strict=True))
    ratio = seconds["lm-evaluation-harness"] / seconds["persona"]
    if options.json:
        print(json.dumps({"seconds": seconds, "ratio": ratio, "largest_difference": different, "alike": alike}))
        return
    print(f"{len(requests)} questions of {len(NEWS_CATEGORIES)} choices, {llm.name}, CPU seconds")
    for name, value in seconds.items():
        print(f"  {name:24} {value:8.1f}")
    print(
        f"  {ratio:.1f} times as fast; chosen alike {alike} of {len(requests)}, largest difference {different:.1e} nats"
    )


if __name__ == "__main__":
    main()
