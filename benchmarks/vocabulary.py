"""What lifting a user's words does to titles: ROUGE and P-Cover for some weights, beside another user's words.

    python benchmarks/vocabulary.py DATA_DIR --llm MODEL [--betas 0,0.25,0.5,1,2] [--k 0] [--limit N] [--json]

`DATA_DIR` is a LaMP task whose answers are texts (LaMP_4, LaMP_5). The background of `idf` are the targets of all
profiles of the training split. The weight 0 is the plain LLM; it is asked through the channel, and its answers are
compared with those of requests without any.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from persona.eval.bootstrap import bootstrap_interval, paired_bootstrap
from persona.eval.metrics import ROUGE_1, ROUGE_L, evaluate
from persona.eval.p_cover import p_cover
from persona.eval.plans import other_histories
from persona.lamp.prompts import lamp_prompt
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions, PersonalContext, Request
from persona.readers import read_split
from persona.retrievers.registry import RetrieverOptions, make_retriever
from persona.soft_prompts.copying import TokenBackground
from persona.soft_prompts.vocabulary import VocabularyChannel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--llm", default="tiny")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--betas", default="0,0.25,0.5,1,2")
    parser.add_argument("--k", type=int, default=0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    split = read_split(arguments.data, arguments.split)
    assert split.golds is not None
    llm = load_llm(arguments.llm, overlong="truncate")
    assert isinstance(llm, TransformersLM)
    questions = split.questions[: arguments.limit]
    golds = {question.id: split.golds[question.id] for question in questions}
    users = [question.user_id for question in questions]
    train = read_split(arguments.data, "train")
    titles = sorted({record.target for question in train.questions for record in question.profile if record.target})
    background = TokenBackground.from_texts(llm, titles)
    prompts = [question.input for question in questions]
    if arguments.k:
        found = make_retriever("bm25-lamp", RetrieverOptions(view=split.task.view)).retrieve_batch(
            [question.profile for question in questions],
            [split.task.query(question.input) for question in questions],
            arguments.k,
        )
        prompts = [
            lamp_prompt(split.task, prompt, [one.record for one in best], llm.tokenizer, max_length=256).text
            for prompt, best in zip(prompts, found, strict=True)
        ]
    own = [question.profile for question in questions]
    histories = {"own": own, "other user": other_histories(questions, 0)}
    past = {id(profile): [record.target for record in profile if record.target] for profile in own}
    options = GenerationOptions(max_new_tokens=64)
    plain = llm.generate([Request(prompt) for prompt in prompts], options)
    base = None
    rows = []
    for beta in map(float, arguments.betas.split(",")):
        for whose, profiles in histories.items():
            if whose != "own" and not beta:
                continue
            channel = VocabularyChannel(llm, background, beta)
            contexts = channel(profiles, prompts, [PersonalContext() for _ in prompts])
            texts = llm.generate(
                [Request(prompt, lifts=each.lifts) for prompt, each in zip(prompts, contexts, strict=True)], options
            )
            if not beta:
                assert texts == plain, "the weight 0 must change nothing"
            predictions = {question.id: text for question, text in zip(questions, texts, strict=True)}
            samples = evaluate(split.task, golds, predictions).samples
            base = base or samples
            difference = paired_bootstrap(ROUGE_1, samples, base, users)
            rows.append(
                {
                    "beta": beta,
                    "words": whose,
                    "rouge-1": bootstrap_interval(ROUGE_1, samples, users).value,
                    "difference": difference.difference,
                    "low": difference.low,
                    "high": difference.high,
                    "rouge-L": ROUGE_L.value(samples),
                    "p_cover": p_cover(texts, [past[id(profile)] for profile in own], titles),
                    "p_cover by length": p_cover(texts, [past[id(profile)] for profile in own], titles, by_length=True),
                    "words in an answer": float(np.mean([len(text.split()) for text in texts])),
                }
            )
            if not arguments.json:
                print(
                    "| "
                    + " | ".join(
                        f"{value:.3f}" if isinstance(value, float) else str(value) for value in rows[-1].values()
                    )
                    + " |",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
