"""Tasks of lm-evaluation-harness: its own command gives the answers and scores of `persona eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from persona.errors import InvalidOptionError
from persona.eval.benchmarks.registry import BENCHMARKS
from persona.eval.exporting import TASKS
from persona.eval.exporting.harness import PersonalTask
from tests.eval.exporting.asking import own_report, run, written
from tests.started import Starter

BY_CHOICE = {"task": "classification", "filler": 0}


def harness(
    starter: Starter, name: str, paths: dict[str, Path], out: Path, options: dict[str, Any]
) -> tuple[dict[str, Any], list[Any]]:
    """The results and samples of `lm_eval run`."""
    metadata = {"data": str(paths[name]), "method": "bm25", "k": 2, "options": options}
    model = ["--model", "hf", "--model_args", f"pretrained={paths['llm']},dtype=float32", "--device", "cpu"]
    task = ["--include_path", TASKS, "--tasks", f"persona_{name}", "--metadata", json.dumps(metadata)]
    kept = ["--output_path", out, "--log_samples"]
    run(starter, "lm_eval", "run", *model, "--apply_chat_template", *task, *kept, cwd=out)
    (results,) = out.rglob("results_*.json")
    (samples,) = out.rglob("samples_*.jsonl")
    return json.loads(results.read_text()), [json.loads(line) for line in samples.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prefeval", "locomo"])
def test_its_own_command_gives_the_scores_of_persona_eval(starter: Starter, name: str, tmp_path: Path) -> None:
    paths = written(tmp_path)
    by_choice = name == "prefeval"
    options = BY_CHOICE if by_choice else {"max_new_tokens": 12}
    own = own_report(name, paths, **({} if by_choice else options))
    row = own["bm25 k=2"]
    results, samples = harness(starter, name, paths, tmp_path, options)

    found = results["results"][f"persona_{name}"]
    assert {
        key.removesuffix(",none"): value for key, value in found.items() if key.removesuffix(",none") in row.scores
    } == {metric: pytest.approx(interval.value) for metric, interval in row.scores.items()}
    about = results["configs"][f"persona_{name}"]["metadata"]["persona"]
    assert (about["data"], about["prompts"], about["row"]) == (own.data, row.prompts, row.name)
    assert about["environment"]["packages"]["lm_eval"]
    answers = {each["doc"]["id"]: each["filtered_resps"] for each in samples}
    if by_choice:
        letters = {id_: "ABCD"[max(range(4), key=lambda at: float(some[at][0]))] for id_, some in answers.items()}
        assert letters == row.predictions
    else:
        assert {id_: texts[0].strip() for id_, texts in answers.items()} == row.predictions


def test_there_is_a_task_for_each_benchmark() -> None:
    place = f"{PersonalTask.__module__}.{PersonalTask.__qualname__}"
    names = [f"persona_{name.replace('-', '_')}" for name in BENCHMARKS]
    found = {path.name: path.read_text() for path in TASKS.iterdir()}
    assert found == {f"{name}.yaml": f"task: {name}\nclass: !function {place}\n" for name in names}


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="needs its data and a method"):
        PersonalTask({"task": "persona_locomo", "metadata": {"data": "x"}})
    metadata = {"data": str(written(tmp_path)["locomo"]), "method": "none"}
    task = PersonalTask({"task": "persona_locomo", "metadata": metadata})
    with pytest.raises(InvalidOptionError, match="takes no examples of other users"):
        task.fewshot_context(task.eval_docs[0], 1)
