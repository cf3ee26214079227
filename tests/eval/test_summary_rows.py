"""Summaries in official prompts, and the rows `stats` and `summary` of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona.errors import InvalidOptionError
from persona.eval.lamp import run_lamp
from persona.eval.lamp_config import OTHER_USER, LampConfig
from persona.eval.summary_rows import RECORD, SENTENCE, summary_prompt
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.llm.load import load_llm
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.records import Profile, Record

TASK = lamp_task("LaMP_3")
MEASURE = WhitespaceTokenizer()
QUESTION = TASK.make_input("a film")
REVIEW = Record("great thing", target="5")


def test_a_summary_is_the_first_record() -> None:
    built = summary_prompt(TASK, QUESTION, [REVIEW], ["4"], MEASURE, form=RECORD, max_length=256)
    assert built.text == (
        '4 is the score for "a typical review of this user" , and 5 is the score for "great thing" . ' + QUESTION
    )
    assert built.records == (REVIEW,)
    assert built.tokens_added == len(built.text.split()) - len(QUESTION.split())
    both = summary_prompt(TASK, QUESTION, [REVIEW], ["4", "2", "4", ""], MEASURE, form=RECORD, max_length=256)
    assert both.text == (
        '4 is the score for "a typical review of this user" , and 2 is the score for "a typical review of this user" , '
        f'and 5 is the score for "great thing" . {QUESTION}'
    )
    assert both.records == (REVIEW,)
    alone = summary_prompt(TASK, QUESTION, [], ["4"], MEASURE, form=RECORD, max_length=256)
    assert alone.text == f'4 is the score for "a typical review of this user" . {QUESTION}'
    assert not alone.records


def test_a_summary_is_a_sentence_before_the_records() -> None:
    built = summary_prompt(TASK, QUESTION, [REVIEW], ['scores "4"'], MEASURE, form=SENTENCE, max_length=256)
    official = lamp_prompt(TASK, QUESTION, [REVIEW], MEASURE, max_length=256).text
    both = summary_prompt(TASK, QUESTION, [REVIEW], ["Gave 4.", "Kind."], MEASURE, form=SENTENCE, max_length=256)
    assert both.text == f'About this user: "Gave 4. Kind." . {official}'
    assert built.text == f"About this user: \"scores '4'\" . {official}"


# With less, the official builder goes beyond its budget before it gives records up.
@pytest.mark.parametrize(("form", "max_length"), [(RECORD, 40), (RECORD, 60), *[(SENTENCE, n) for n in (24, 34, 60)]])
def test_the_budget_holds_and_the_question_is_never_cut(form: str, max_length: int) -> None:
    summary = "4" if form == RECORD else " ".join(f"s{number}" for number in range(100))
    long = Record(" ".join(f"w{number}" for number in range(100)), target="1")
    built = summary_prompt(TASK, QUESTION, [long], [summary], MEASURE, form=form, max_length=max_length)
    assert built.text.endswith(QUESTION)
    own = MEASURE.count(QUESTION)
    # The official builder keeps 40 % of the budget for records where the question is longer than its share.
    assert built.tokens_added <= max(max_length - min(own, int(0.6 * max_length)), 0)


def test_without_room_or_words_there_is_no_summary() -> None:
    official = lamp_prompt(TASK, QUESTION, [REVIEW], MEASURE, max_length=20)
    assert summary_prompt(TASK, QUESTION, [REVIEW], ["likes"], MEASURE, form=SENTENCE, max_length=20) == official
    whole = lamp_prompt(TASK, QUESTION, [REVIEW], MEASURE, max_length=256)
    assert summary_prompt(TASK, QUESTION, [REVIEW], [" "], MEASURE, form=RECORD, max_length=256) == whole


def test_paraphrases_have_the_sentence_only() -> None:
    tweets = lamp_task("LaMP_7")
    built = summary_prompt(tweets, tweets.make_input("hi"), [], ["short"], MEASURE, form=RECORD, max_length=256)
    assert built.text.startswith('About this user: "short" . Paraphrase')
    with pytest.raises(InvalidOptionError, match="`summary_form` must be one of record, sentence"):
        summary_prompt(tweets, "hi", [], ["short"], MEASURE, form="poem", max_length=256)


def make_split(users: int = 5) -> LampSplit:
    questions = tuple(
        Question(
            f"q{user}",
            f"u{user}",
            TASK.make_input(f"film {user}"),
            Profile(f"u{user}", tuple(Record(f"film {n} of user{user}", target=str(user + 1)) for n in range(3))),
        )
        for user in range(users)
    )
    return LampSplit(TASK, questions, {one.id: str(place + 1) for place, one in enumerate(questions)}, TASK.labels)


def test_rows_stand_beside_their_control_and_summaries_are_written_once(tmp_path: Path) -> None:
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        """The first score in the prompt, and 3 where there is none."""
        return prompt[0] if prompt[0].isdigit() else "3"

    def write(prompt: str) -> str:
        prompts.append(prompt)
        return answer(prompt)

    config = LampConfig(methods=("none", "stats", "summary", "stats+summary"), ks=(1,), resamples=50)
    llm, writer = load_llm(answer, name="answers"), load_llm(write, name="writes")
    report = run_lamp(make_split(), llm, config, summarizer=writer, out=tmp_path)
    scores = {row.name: row.scores["MAE"].value for row in report.rows}
    for name in ("stats", "stats + bm25-lamp k=1", "summary", "summary + bm25-lamp k=1"):
        assert scores[name] == 0
        assert scores[f"{name}, {OTHER_USER}"] > 0
    tokens = {row.name: row.tokens_added for row in report.rows}
    assert 0 < tokens["stats"] == tokens["summary"] < tokens["stats + bm25-lamp k=1"]
    assert tokens["stats+summary"] == tokens["stats"]  # both say the same
    assert len(prompts) == 5
    assert all("a typical review of this user" in prompt for prompt in prompts)
    # Stopped while it wrote the last line, a run goes on; the other user's are the same summaries.
    kept = tmp_path / "summaries.jsonl"
    kept.write_text("\n".join([*kept.read_text().splitlines()[:-1], '{"key": "h']))
    run_lamp(make_split(), llm, config, summarizer=writer, out=tmp_path)
    assert len(prompts) == 6
    # Another system text, other summaries.
    writer.settings = {"system": "Be brief."}  # type: ignore[attr-defined]
    run_lamp(make_split(), llm, config, summarizer=writer, out=tmp_path)
    assert len(prompts) == 11
    del writer.settings  # type: ignore[attr-defined]
    instructed = LampConfig(methods=("summary",), ks=(1,), summary_form="sentence", controls=False, resamples=50)
    run_lamp(make_split(), llm, instructed, summarizer=writer, out=tmp_path)
    assert "In at most three short sentences" in prompts[-1]
    assert len(prompts) == 16


def test_options_are_checked() -> None:
    with pytest.raises(InvalidOptionError, match="`beside` must be one of"):
        LampConfig(beside="bm52")
    with pytest.raises(InvalidOptionError, match="`summary_form` must be one of"):
        LampConfig(summary_form="poem")
