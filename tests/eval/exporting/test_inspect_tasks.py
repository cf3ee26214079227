"""Tasks of Inspect: its own command gives the answers and scores of `persona eval`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.eval.exporting.asking import own_report, run, written
from tests.started import Starter

ROOT = Path(__file__).resolve().parents[3]


def entry_points(folder: Path) -> Path:
    """A folder with the entry points that an installation has; one that was made before them is not made again."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["inspect_ai"]
    made = folder / "declared/declared-0.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: declared\nVersion: 0\n")
    (made / "entry_points.txt").write_text("[inspect_ai]\n" + "".join(f"{key} = {declared[key]}\n" for key in declared))
    return made.parent


@pytest.mark.slow
def test_its_own_command_gives_the_scores_of_persona_eval(starter: Starter, tmp_path: Path) -> None:
    paths = written(tmp_path)
    own = own_report("locomo", paths, max_new_tokens=12)
    row = own["bm25 k=2"]
    model = ["--model", "hf/tiny", "-M", f"model_path={paths['llm']}", "-M", "do_sample=false", "-M", "device=cpu"]
    model += ["-M", 'tokenizer_call_args={"add_special_tokens": false}']
    given = {"data": paths["locomo"], "method": "bm25", "k": 2, "tokenizer": paths["llm"], "max_new_tokens": 12}
    arguments = [part for key, value in given.items() for part in ("-T", f"{key}={value}")]
    log = ["--log-dir", tmp_path / "logs", "--log-format", "json", "--display", "plain"]
    run(
        starter,
        "inspect",
        "eval",
        "persona/locomo",
        *model,
        *arguments,
        *log,
        cwd=tmp_path,
        path=entry_points(tmp_path),
    )

    (path,) = (tmp_path / "logs").glob("*.json")
    kept = json.loads(path.read_text())
    assert kept["status"] == "success"
    about = kept["eval"]["metadata"]
    assert (about["data"], about["prompts"], about["row"]) == (own.data, row.prompts, row.name)
    answers = {each["id"]: each["scores"]["personal_scores"]["answer"] for each in kept["samples"]}
    assert answers == row.predictions
    (scores,) = kept["results"]["scores"]
    assert {key: each["value"] for key, each in scores["metrics"].items()} == {
        metric: pytest.approx(interval.value) for metric, interval in row.scores.items()
    }
