"""`persona retrieve` and `persona ask`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from persona.assembly import MISSING_ADAPTER, SUMMARIES
from persona.cli import terminal
from persona.lamp.tasks import lamp_task
from persona.retrievers.registry import RETRIEVERS
from tests import small_models
from tests.cli.conftest import Run, settings

QUERY = "a quiet film in the snow"


@pytest.mark.parametrize(
    "name", [name for name in RETRIEVERS if name not in ("late_interaction", "conversation", "rerank", "useful")]
)
def test_every_retriever_is_on_the_command_line(stocked: Run, name: str) -> None:
    assert len(stocked("retrieve", "mara", QUERY, "--retriever", name, "--k", "3", "--json").json) == 3
    found = stocked("retrieve", "ops-team", "certificate handshake", "--retriever", name, "--k", "2", "--json").json
    if name in ("bm25", "dense", "hybrid"):
        assert found[0]["target"] == "tls"


def test_retrievers_with_models_of_their_own(stocked: Run, tmp_path: Path) -> None:
    late = tmp_path / "late"
    small_models.multi_vector().save_pretrained(str(late))
    cross = small_models.save_bert(tmp_path / "cross", n_labels=1)
    for name, *texts in (
        ("late_interaction", f"model={late}"),
        ("rerank", f"model={cross}"),
        ("rerank", f"model={cross}", "base=dense"),
        ("diverse", "base=bm25-lamp"),
    ):
        done = stocked("retrieve", "mara", QUERY, "--k", "2", "--json", "--retriever", name, *settings(*texts))
        assert len(done.json) == 2


def test_retrieve_prints_for_people_too(stocked: Run) -> None:
    shown = stocked("retrieve", "ops-team", "certificate", "--k", "1").out
    assert shown.startswith("1. [")
    assert "2024-01-19  -> tls\n   Certificate for the mail relay" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--retriever", "bm26"), "a retriever must be one of bm25, bm25-lamp"),
        (settings("base=dense"), "a base is for diverse and entities and rerank"),
        (settings("model=minilm"), "takes no model of its own"),
        (("--retriever", "rerank", *settings("model=.")), "holds no encoder"),
        (("--where", "label"), "a filter is FIELD OP VALUE"),
        (("--where", "time>=soon"), "a time must be like"),
        (("--filter", "nowhere"), "nowhere holds no relevance filter"),
        (("--filter", "untrained", *settings("judge=answer")), "`judge` must be one of question, record"),
        (settings("judge=record"), "`judge` says what a relevance filter judges, and there is none"),
        (("--encoder", "nope"), "--encoder is for what compares vectors, and bm25 does not"),
    ],
)
def test_bad_input_is_one_line(stocked: Run, options: tuple[str, ...], message: str) -> None:
    assert message in stocked("retrieve", "mara", QUERY, *options).error


def test_where(stocked: Run) -> None:
    found = stocked("retrieve", "mara", QUERY, "--where", "label=5 and time>=2023-06", "--json").json
    assert found
    assert all(each["target"] == "5" and each["time"] >= "2023-06" for each in found)
    misspelt = stocked("retrieve", "mara", QUERY, "--where", "tim>=2023 and label=5").out
    assert misspelt.strip().endswith("fits; none of them has the field 'tim'")
    nothing = stocked("retrieve", "mara", QUERY, "--where", "label=17")
    assert (nothing.code, nothing.out.startswith("nothing found: none of the")) == (0, True)


def test_only_records_that_fit_let_a_question_pass(stocked: Run) -> None:
    question = ("retrieve", "mara", "A quiet documentary about lighthouse keepers", "--filter", "untrained", "--json")
    (found,) = stocked(*question, "--k", "1").json
    assert stocked(*question, "--where", f"time<{found['time']}").json == []


def test_ask_with_a_filter_abstains(stocked: Run) -> None:
    answer = stocked("ask", "mara", "What is the capital of Australia?", "--filter", "untrained", "--json").json
    assert (answer["abstained"], answer["records"], answer["channels"]) == (True, [], [])
    personal = "A quiet documentary about lighthouse keepers"
    kept = stocked("ask", "mara", personal, "--filter", "untrained", "--json").json
    assert (kept["abstained"], kept["channels"], bool(kept["records"])) == (False, ["records"], True)


def test_ask_seeks_and_words_records_as_the_task_of_its_prompt_does(
    stocked: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = lamp_task("LaMP_3").make_input("A quiet film.")
    monkeypatch.setattr("sys.stdin", io.StringIO(prompt))
    for options, asked, begins in (
        (("--task", "LaMP_3"), prompt, "is the score for"),
        ((), prompt, "Earlier records of this user"),
        ((), "-", "Earlier records of this user"),
    ):
        answer = stocked("ask", "mara", asked, "--k", "1", "--max-new-tokens", "1", "--json", *options).json
        assert begins in answer["prompt"][:32]
        assert answer["prompt"].endswith(prompt)


def test_ask_takes_every_setting_by_its_name_in_python(stocked: Run) -> None:
    short = ("ask", "mara", QUERY, "--max-new-tokens", "2", "--json")
    assert stocked(*short, *settings("max_context_tokens=0")).json["records"] == []
    assert (
        stocked(*short, *settings("k=1", "num_beams=2", "retriever=recency")).json["records"][0]["time"] == "2024-05-09"
    )
    assert stocked(*short, "--k", "0", *settings("k=3")).json["channels"] == []  # a flag goes before --set


def test_what_assembly_names_is_what_the_channels_take() -> None:
    from persona.adapters import channel as adapters
    from persona.summaries import channel as summaries

    assert MISSING_ADAPTER == adapters.POLICIES
    assert SUMMARIES == summaries.SOURCES


def test_a_new_user_is_answered_without_a_history(stocked: Run) -> None:
    answer = stocked("ask", "nobody", "Which film?", "--new-user", "--max-new-tokens", "4", "--json").json
    assert (answer["abstained"], answer["records"]) == (True, [])
    known = stocked("ask", "mara", "Which film?", "--new-user", "--max-new-tokens", "4", "--json").json
    assert known["records"]


def test_ask_answers_with_one_of_the_choices(stocked: Run) -> None:
    asked = stocked("ask", "mara", QUERY, "--llm", "tiny", "--choices", "see it, leave it", "--json").json
    assert asked["text"] in ("see it", "leave it")
    assert asked["answered"] == "likelihood"


def test_on_a_terminal_the_answer_is_printed_as_it_comes(stocked: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = lamp_task("LaMP_4").make_input("Residents in Lisbon say the village council repaired a golden clock.")
    asked = ("ask", "mara", prompt, "--llm", "tiny", "--task", "LaMP_4")
    whole = stocked(*asked).out
    printed: list[str] = []
    say = terminal._print

    def watched(text: str, end: str = "\n") -> None:
        printed.append(text)
        say(text, end)

    monkeypatch.setattr(terminal, "_print", watched)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert stocked(*asked).out == whole
    assert len(printed) > 2
    assert stocked(*asked, "--json").json["text"] == whole.strip()
