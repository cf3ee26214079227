"""Methods by name on any benchmark: the rows, the whole history as far as it fits, and what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persona.errors import DataFormatError, EvaluationError, InvalidOptionError, UnknownPartError
from persona.eval import MethodOptions, evaluate_benchmark, load_benchmark
from persona.eval.answers import CONTEXT_CUT
from persona.eval.benchmarks.conversations.locomo import Locomo
from persona.eval.results.comparing import compare
from persona.llm.load import load_llm
from tests.eval.benchmarks.conversations.dialogues import LOCOMO


@pytest.fixture
def locomo(tmp_path: Path) -> Locomo:
    (tmp_path / "locomo.json").write_text(json.dumps(LOCOMO))
    return Locomo.read(tmp_path / "locomo.json")


def knows_cork(prompt: str) -> str:
    return "Cork" if "Cork" in prompt else "not mentioned"


def test_the_rows(locomo: Locomo, tmp_path: Path) -> None:
    options = MethodOptions(ks=(1,), resamples=50)
    report = evaluate_benchmark(locomo, load_llm(knows_cork), options, out=tmp_path / "out")
    assert [row.name for row in report.rows] == [
        "none",
        *("full history", "full history, other user", "full history, evidence alone"),
        *("bm25 k=1", "bm25 k=1, other user", "always declining", "nearest turn"),
    ]
    whole, evidence = report["full history"], report["full history, evidence alone"]
    assert whole.evidence is not None
    assert whole.evidence.value == 1.0
    # The other conversation has turns of the same ids.
    other = report["full history, other user"].evidence
    assert other is not None
    assert other.value == 0.0
    assert CONTEXT_CUT not in whole.outcomes
    # Of the seven, `none` is right where it declines: two of category 5. The evidence brings Cork besides.
    assert report["none"].scores["f1"].value == pytest.approx(2 / 7)
    assert evidence.scores["f1"].value == pytest.approx(3 / 7)
    assert evidence.kinds["single-hop"].value == 0.5
    assert whole.corrected is not None
    assert "official f1" in report.markdown()
    assert any("no commercial use" in note for note in report.notes)
    assert [row[0] for row in report.by_kind()[1:3]] == ["none", "full history"]
    kept = json.loads((tmp_path / "out/results.json").read_text())
    assert kept["licence"] == "CC-BY-NC-4.0"
    assert kept["environment"]["packages"]["numpy"]
    assert len({row["prompts"] for row in kept["rows"][:6]}) == 6


def test_a_history_that_does_not_fit_loses_its_oldest_records_and_is_counted(locomo: Locomo) -> None:
    options = MethodOptions(methods=("full",), context_tokens=22, controls=False, resamples=10)
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "x"

    report = evaluate_benchmark(locomo, load_llm(ask), options)
    assert report["full history"].outcomes[CONTEXT_CUT] == 5
    whole = next(each for each in asked if "What did Olu plant?" in each and "Earlier" in each)
    assert 'Olu: "[shares a picture: a jar' in whole
    assert "Biko" not in whole
    assert "quince and two pears" not in whole


def test_questions_are_drawn_with_a_seed(locomo: Locomo) -> None:
    options = MethodOptions(methods=("none",), limit=3, seed=1, resamples=10)
    asked = [evaluate_benchmark(locomo, load_llm(knows_cork), options)["none"].predictions for _ in range(2)]
    assert list(asked[0]) == list(asked[1])
    assert len(asked[0]) == 3


def test_two_runs_are_compared_on_the_questions_of_both(locomo: Locomo, tmp_path: Path) -> None:
    options = MethodOptions(methods=("none", "full"), controls=False, resamples=50)
    evaluate_benchmark(locomo, load_llm(knows_cork), options, out=tmp_path / "a")
    evaluate_benchmark(locomo, load_llm(lambda prompt: "quince"), options, out=tmp_path / "b")
    compared = compare(tmp_path / "a", tmp_path / "b" / "results.json")
    rows = {row.name: row for row in compared.rows}
    assert compared.config["same_data"]
    assert compared.questions == 7
    # b: "quince" is half of one multi-hop answer; a declines twice.
    none = rows["none"].as_dict()
    assert none["difference"]["difference"] == pytest.approx((2 - 0.5) / 7)
    assert none["p_holm"] >= none["difference"]["p_value"]
    with pytest.raises(DataFormatError, match=r"nowhere/results\.json: the file cannot be read"):
        compare(tmp_path / "a", tmp_path / "nowhere")
    (tmp_path / "b/samples.json").write_text("{}")
    with pytest.raises(DataFormatError, match=r"samples\.json: these are no samples of a run"):
        compare(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/results.json").write_text('{"benchmark": "other", "llm": "", "data": ""}')
    with pytest.raises(EvaluationError, match="one benchmark, were of locomo and other"):
        compare(tmp_path / "a", tmp_path / "b")


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownPartError, match=r"a benchmark must be one of .*locomo"):
        load_benchmark("lokomo", tmp_path)
    with pytest.raises(DataFormatError, match=r"no such file or folder; get .*CC-BY-NC"):
        load_benchmark("locomo", tmp_path / "none.json")
    with pytest.raises(InvalidOptionError, match="locomo has the options categories, corrections, was given: 'size'"):
        load_benchmark("locomo", tmp_path, size=3)
    with pytest.raises(InvalidOptionError, match="a method must be one of none, full, "):
        MethodOptions(methods=("bm52",))
