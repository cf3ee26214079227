"""Evaluate methods on a LaMP task, each beside the controls that could disprove it.

    python examples/05_evaluate.py        # under a minute on one CPU core

The users are generated, in LaMP's files; the user embedder comes with `tiny`. From the command line:

    persona eval lamp FOLDER --llm tiny --methods none,bm25,stats,user-embedder --k 4 --user-embedder EMBEDDER
"""

from __future__ import annotations

from persona import load_llm
from persona.eval import LampBenchmark, LampOptions, evaluate_lamp
from persona.eval.demo.world import generated_folder, tiny_user_embedders


def main() -> None:
    options = LampOptions(
        methods=("none", "bm25", "stats", "user-embedder"),
        ks=(4,),
        beside="bm25",
        user_embedders=(tiny_user_embedders()["LaMP_3"],),
    )
    benchmark = LampBenchmark.read(generated_folder("LaMP_3"))
    report = evaluate_lamp(benchmark, load_llm("tiny", overlong="truncate"), options)
    print(report.markdown())
    print("Scores are mean absolute errors: lower is better. What another user's history does as well is not personal.")


if __name__ == "__main__":
    main()
