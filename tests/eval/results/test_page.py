"""The page of a run: all that its results say, safe to open, and nothing from elsewhere."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from persona.eval import MethodOptions, Report, evaluate_benchmark
from persona.eval.benchmarks.conversations.locomo import Locomo
from persona.eval.benchmarks.conversations.prefeval import PrefEval
from persona.eval.judging.rates import Rates
from persona.eval.report import Failure
from persona.eval.results.page import report_page
from persona.llm.load import load_llm
from tests.eval.benchmarks.conversations.dialogues import LOCOMO, PREFEVAL
from tests.eval.benchmarks.conversations.test_prefeval import Scripted
from tests.eval.demo.html import Page


def words(page: str) -> str:
    return " ".join(Page(page).text.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    (folder / "locomo.json").write_text(json.dumps(LOCOMO))
    llm = load_llm(lambda prompt: "Cork" if "Cork" in prompt else "not mentioned")
    options = MethodOptions(ks=(1,), resamples=50)
    return evaluate_benchmark(Locomo.read(folder / "locomo.json"), llm, options, out=folder / "out")


def test_it_lies_beside_the_results_and_says_what_they_say(report: Report, folder: Path) -> None:
    page = (folder / "out/report.html").read_text(encoding="utf-8")
    assert page == report_page(report)
    text = words(page)
    for cell in (cell for row in (*report.cells(), *report.by_kind()[1:]) for cell in row):
        assert cell in text
    kept = json.loads((folder / "out/results.json").read_text())
    hashes = [kept["data"], *(row["prompts"] for row in kept["rows"] if row["prompts"])]
    assert all(each in text for each in (*hashes, kept["environment"]["python"], kept["llm"]))
    assert "Data: CC-BY-NC-4.0. No commercial use." in text
    assert all(f"{name}: {why}" in text for name, why in report.defects.items())
    assert '<a href="#official">official f1</a>' in page


def test_it_stands_alone_and_lets_nothing_be_loaded(report: Report) -> None:
    page = report_page(report)
    assert Page(page).open == []
    assert not re.search(r"(src|style)=|@import|url\(|<script|href=\"[^#]", page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    policy = f"default-src 'none'; style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'"
    assert policy in page


def test_what_others_say_is_text(report: Report) -> None:
    evil = "</style><script>alert('1')</script>"
    rows = (replace(report.rows[0], method=evil), *report.rows[1:])
    page = report_page(replace(report, benchmark=evil, llm=evil, rows=rows, failures=(Failure(evil, evil, evil),)))
    assert "<script" not in page
    assert Page(page).text.count(evil) >= 6
    assert f"{evil} of {evil}: {evil}" in words(page)


def test_judges_are_shown_with_how_often_they_are_wrong(tmp_path: Path) -> None:
    for name, content in PREFEVAL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    measured, other = Scripted(), Scripted()
    measured.rates, measured.name, other.name = Rates(3, 20, 1, 10), "scripted <1>", "other"
    benchmark = PrefEval.read(tmp_path, task="generation").judged_by([measured, other])
    options = MethodOptions(methods=("none",), controls=False, resamples=20)
    page = report_page(evaluate_benchmark(benchmark, load_llm(lambda prompt: "By the door."), options))
    assert "scripted <1> 3 of 20 1 of 10" in " ".join(
        re.sub("<[^>]+>", " ", page).replace("&lt;", "<").replace("&gt;", ">").split()
    )
    assert "violated corrected by" in words(page)
    assert "not measured" in words(page)
