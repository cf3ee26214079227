"""Words that a soft prompt starts as: the answer's position, its first value, and the usual answer before any
training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from persona import Record, UserEmbedder
from persona.errors import EvaluationError
from persona.lamp.prompts import lamp_prompt, record_form
from persona.lamp.tasks import TASKS, LampSplit, lamp_task
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.records import Profile
from persona.soft_prompts.channel import soft_prompts
from persona.soft_prompts.histories import HistoryReader
from persona.soft_prompts.instruction import ANSWER_TOKENS, InstructionWords, answer_embeddings, answer_ids


def split_of(task: str, golds: list[str]) -> LampSplit:
    return LampSplit(lamp_task(task), (), {str(number): gold for number, gold in enumerate(golds)}, None)


@pytest.mark.parametrize("name", TASKS)
def test_the_form_is_that_of_the_official_prompt(name: str) -> None:
    """With the target put in, it is what the official builder writes of a record with an empty text."""
    task = lamp_task(name)
    if name == "LaMP_1":
        assert record_form(task) == '"{target}"'  # in this task a record stands within the question
        return
    record = Record("x") if name == "LaMP_7" else Record("x", target="y")
    prompt = lamp_prompt(task, "Ask.", [record], WhitespaceTokenizer(), max_length=200).text
    target = "x" if name == "LaMP_7" else "y"
    assert (
        prompt.replace('"x"', '""' if name != "LaMP_7" else '"x"') == record_form(task).format(target=target) + "Ask."
    )


def test_the_answer_stands_where_the_target_would(tiny: Any, encoder: Any) -> None:
    words = InstructionWords.of(split_of("LaMP_3", ["4", "4", "4", "2"]), tiny, encoder)
    embed = tiny.model.get_input_embeddings().weight.detach()
    ids = tiny.opening_ids('4 is the score for "" . ')
    (four,), (two,) = answer_ids(tiny, ["4", "2"])
    answer = words.answer_tokens
    assert ids[answer] == [four]
    expected = embed[ids].clone()
    expected[answer] = 0.75 * embed[four] + 0.25 * embed[two]
    torch.testing.assert_close(words.vectors, expected)


def test_answers_are_brought_to_one_length(tiny: Any) -> None:
    embed = tiny.model.get_input_embeddings().weight.detach()
    short, even, long = answer_embeddings(tiny, [[5], [5, 6], [5, 6, 7, 8, 9, 10, 11, 12]], 4)
    torch.testing.assert_close(short, embed[[5, 5, 5, 5]])
    torch.testing.assert_close(even, embed[[5, 5, 6, 6]])
    torch.testing.assert_close(long, embed[[5, 7, 9, 11]] / 2 + embed[[6, 8, 10, 12]] / 2)


def test_long_answers_do_not_make_many_tokens(tiny: Any, encoder: Any) -> None:
    words = InstructionWords.of(split_of("LaMP_4", ["the mayor opens the bridge at last", "rain"]), tiny, encoder)
    assert len(words.answer) == ANSWER_TOKENS


def test_untrained_it_says_what_the_user_usually_answers(tiny: Any, encoder: Any) -> None:
    scores = ["1", "2", "3", "4", "5"]
    words = InstructionWords.of(split_of("LaMP_3", scores), tiny, encoder)
    embedder = UserEmbedder.for_llm(tiny, encoder, words=words).eval()
    assert embedder.config.n_tokens == len(words.vectors)
    histories = HistoryReader(embedder.config, encoder).read(
        [Profile(score, tuple(Record(f"Text {n}.", target=score) for n in range(90))) for score in scores]
    )
    embed = tiny.model.get_input_embeddings().weight.detach()[[ids[0] for ids in answer_ids(tiny, scores)]]
    for score, prompt in zip(scores, soft_prompts(embedder, histories), strict=True):
        said = prompt[embedder.config.answer_start]
        nearest = int((embed - said).norm(dim=1).argmin())
        assert scores[nearest] == score
        # 90 records against a null record that counts for 10.
        beyond = (said - words.answer[0]) @ (embed[nearest] - words.answer[0])
        assert float(beyond / (embed[nearest] - words.answer[0]).square().sum()) == pytest.approx(0.9, abs=0.05)
    (nobody,) = soft_prompts(embedder, HistoryReader(embedder.config, encoder).read([Profile("new")]))
    np.testing.assert_allclose(nobody, words.vectors, atol=1e-5)


def test_a_split_without_golds_is_refused(tiny: Any, encoder: Any) -> None:
    with pytest.raises(EvaluationError, match="this split has none"):
        InstructionWords.of(LampSplit(lamp_task("LaMP_3"), (), None, None), tiny, encoder)
