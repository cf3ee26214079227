"""What lifting a user's words does to titles: ROUGE and P-Cover for some weights, beside another user's words.

    python -m benchmarks.vocabulary DATA_DIR --llm MODEL [--betas 0,0.25,0.5,1,2] [--k 0] [--limit N]

`DATA_DIR` is a LaMP task whose answers are texts (LaMP_4, LaMP_5). The background of `idf` are the targets of all
profiles of the training split. The weight 0 is the plain LLM; it is asked through the channel, and its answers are
compared with those of requests without any. What is printed is Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.p_cover import p_cover
from persona.channels import Channel
from persona.eval import EvaluationOptions, LampBenchmark, OtherUser, evaluate
from persona.lamp.prompts import LampWording
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.personalizer import Personalizer
from persona.prompts import PromptBuilder
from persona.retrievers.channel import RecordsChannel
from persona.retrievers.registry import RetrieverOptions, make_retriever
from persona.soft_prompts.copying import TokenBackground
from persona.soft_prompts.vocabulary import VocabularyChannel
from persona.store.profile_store import ProfileStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--llm", default="tiny")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--betas", default="0,0.25,0.5,1,2")
    parser.add_argument("--k", type=int, default=0)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    benchmark = LampBenchmark.read(arguments.data, arguments.split)
    llm = load_llm(arguments.llm, overlong="truncate")
    assert isinstance(llm, TransformersLM)
    assert benchmark.training is not None
    training = [record.target for question in benchmark.training.questions for record in question.profile]
    titles = sorted({target for target in training if target})
    background = TokenBackground.from_texts(llm, titles)
    retriever = make_retriever("bm25-lamp", RetrieverOptions(view=benchmark.task.view))
    builder = PromptBuilder(llm.tokenizer, wording=LampWording(benchmark.task), mask=False, max_length=256)
    betas = [float(beta) for beta in arguments.betas.split(",")]
    with tempfile.TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{folder}/none.db") as store:

        def personalizer(*channels: Channel) -> Personalizer:
            return Personalizer(llm, store, [RecordsChannel(retriever, arguments.k), *channels], builder=builder)

        methods = {"no lifts": personalizer()}
        methods |= {f"beta {beta}": personalizer(VocabularyChannel(llm, background, beta)) for beta in betas}
        options = EvaluationOptions(limit=arguments.limit)
        report = evaluate(benchmark, methods, [OtherUser()], options=options)
    print(report.markdown())
    past = [
        [record.target for record in question.profile if record.target]
        for question in benchmark.questions[: arguments.limit]
    ]
    print("| method | P-Cover | by length | words in an answer |\n|---|---:|---:|---:|")
    for row in report.rows:
        texts = list(row.predictions.values())
        covers = [p_cover(texts, past, titles, by_length=by_length) for by_length in (False, True)]
        words = np.mean([len(text.split()) for text in texts])
        print(f"| {row.name} | {covers[0]:.3f} | {covers[1]:.3f} | {words:.1f} |")
    if 0 in betas:
        assert report["beta 0.0"].runs == report["no lifts"].runs, "the weight 0 must change nothing"


if __name__ == "__main__":
    main()
