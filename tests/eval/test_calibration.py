"""Calibration: measured on training questions only, of the row's own form, and chosen by the task's metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from persona.errors import InvalidOptionError
from persona.eval import EvaluationOptions, LampBenchmark, Method, evaluate
from persona.eval.calibration import Calibration, calibration_questions
from persona.lamp.prompts import LampWording
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.personalizer import Personalizer
from persona.prompts import PromptBuilder
from persona.protocols import TEXT, Choices, GenerationOptions, Request
from persona.retrievers import RecencyRetriever
from persona.retrievers.channel import RecordsChannel
from persona.store.profile_store import ProfileStore
from tests.eval.ratings import TASK, benchmark, ratings

SCORES = ("1", "2", "3", "4", "5")


class Biased:
    """An LLM that finds the first record's score likely, and "1" by `bias` likelier than it should."""

    channels, tokenizer = frozenset({TEXT}), WhitespaceTokenizer()
    chats = True

    def __init__(self, bias: float) -> None:
        self.bias, self.fingerprint = bias, f"biased-{bias}"
        self.scored: list[str] = []

    def generate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str]:
        raise AssertionError("every question has choices")

    def choice_scores(self, requests: Sequence[Request]) -> list[list[float]]:
        self.scored += [request.prompt for request in requests]
        return [
            [3.0 * (request.prompt[0] == score) + self.bias * (score == "1") - 10 for score in SCORES]
            for request in requests
        ]


class Trained(LampBenchmark):
    """Six users, and five others to train on."""

    def __init__(self) -> None:
        super().__init__(ratings())
        others = ratings(5)
        self.training = LampBenchmark(
            type(others)(
                others.task,
                tuple(
                    type(each)(f"t{each.id}", f"t{each.user_id}", each.input, each.profile) for each in others.questions
                ),
                {f"t{key}": gold for key, gold in (others.golds or {}).items()},
                others.labels,
            )
        )


def run(llm: Biased, folder: Path, calibration: str = "auto", questions: int = 10) -> dict[str, tuple[float, str]]:
    folder.mkdir(exist_ok=True)
    store = ProfileStore(f"sqlite:///{folder / 'none.db'}")
    builder = PromptBuilder(llm.tokenizer, wording=LampWording(TASK, "record"), mask=False, max_length=256)
    methods = [
        Method("none", (Personalizer(llm, store, (), builder=builder),)),
        Method("newest", (Personalizer(llm, store, [RecordsChannel(RecencyRetriever(), 1)], builder=builder),), k=1),
    ]
    options = EvaluationOptions(resamples=50, calibration=calibration, calibration_questions=questions)
    report = evaluate(Trained(), methods, options=options, out=folder)
    return {row.name: (row.scores["MAE"].value, row.answered) for row in report.rows if row.answered}


def test_a_bias_is_taken_off_where_that_helps_the_training_users(tmp_path: Path) -> None:
    plain = run(Biased(8.0), tmp_path / "none", "none")
    assert plain["newest k=1"][0] == pytest.approx(5 / 3)  # "1", whatever the record says
    assert plain["newest k=1"][1] == "likelihood"
    found = run(Biased(8.0), tmp_path / "auto")
    assert found["newest k=1"] == (0.0, "likelihood, prior")
    assert found["newest k=1, other user"][0] > 0
    assert found["none"][0] < plain["none"][0]
    # Nothing is to be taken off: no calibration is better than none.
    assert run(Biased(0.0), tmp_path / "unbiased")["newest k=1"] == (0.0, "likelihood")


def test_only_training_questions_are_measured_and_only_once(tmp_path: Path) -> None:
    llm = Biased(8.0)
    run(llm, tmp_path, "prior", questions=4)
    assert llm.scored
    again = Biased(8.0)
    run(again, tmp_path, "prior", questions=4)
    assert again.scored == []
    measured = calibration_questions(Trained(), 4, seed=0)
    assert {each.user_id[0] for each in measured} == {"t"}
    assert len({each.user_id for each in measured}) == 4  # one of each user before a second one


def test_the_content_is_left_out_and_the_records_stay(tmp_path: Path) -> None:
    llm = Biased(8.0)
    found = run(llm, tmp_path, "content-free", questions=10)
    assert found["newest k=1"] == (0.0, "likelihood, content-free")
    left_out = [prompt for prompt in llm.scored if prompt.endswith("review: N/A")]
    assert any(prompt[0].isdigit() for prompt in left_out)
    assert not any("N/A" in prompt and "film 0" in prompt.partition("What is")[2] for prompt in llm.scored)


def test_without_a_training_split_there_is_no_calibration(tmp_path: Path) -> None:
    assert calibration_questions(benchmark(), 10, seed=0) == []
    with pytest.raises(InvalidOptionError, match="`calibration` must be one of none, prior, content-free, auto"):
        EvaluationOptions(calibration="best")


def test_a_prior_is_by_the_text_of_a_choice() -> None:
    calibration = Calibration("prior", {"a": -1.0, "b": -2.0})
    assert calibration.of(Choices(("b", "a", "c"))) == Choices(("b", "a", "c"), prior=(-2.0, -1.0, -2.0))
    assert Calibration().of(Choices(("a",))) == Choices(("a",))
    assert calibration.of(None) is None
