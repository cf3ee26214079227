"""Examples of a training: what is asked, and which records are shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.records import Profile, Record
from persona.soft_prompts.histories import HistoryReader
from persona.soft_prompts.training.examples import Examples
from persona.soft_prompts.training.options import UserEmbedderTraining
from tests.soft_prompts.splits import fresh, world_split

OPTIONS = UserEmbedderTraining(leave_one_out=2, validation_users=0.25)


@pytest.mark.parametrize("view", ["text", "target+text"])
def test_the_query_of_a_question_made_from_a_record_is_that_question(view: str, tiny: Any, encoder: Any) -> None:
    """Never the record's key, where that shows the answer."""
    split = world_split("LaMP_4", 6)
    reader = HistoryReader(fresh(tiny, encoder, mode="persona-plug", view=view).config, encoder)
    examples = Examples(split, reader, OPTIONS)
    made = [example for example in examples.train if example.from_record]
    assert len(made) == 8
    for example in (*made, *(examples.warm_up(number) for number in range(examples.n_warm_up))):
        expected = encoder.encode([split.task.query(example.input)])[0]
        np.testing.assert_allclose(example.query, expected, atol=1e-3)


def test_a_record_of_the_same_text_is_no_history_of_its_own_question(tiny: Any, encoder: Any) -> None:
    twice = "The kettle leaks and hums at night."
    records = (Record(twice, "2", "2011"), Record("Fine.", "5", "2012"), Record(twice, "1", "2013"))
    task = lamp_task("LaMP_3")
    questions = tuple(
        Question(f"{user}", f"u{user}", task.make_input("Hm."), Profile(f"u{user}", records)) for user in range(4)
    )
    split = LampSplit(task, questions, {f"{user}": "3" for user in range(4)}, None)
    reader = HistoryReader(fresh(tiny, encoder).config, encoder)
    examples = Examples(split, reader, replace(OPTIONS, leave_one_out=3))
    made = [example for example in examples.train if example.from_record]
    assert len(made) == 9
    for example in made:
        assert all(record.text not in example.input for record in example.profile)
        assert len(example.profile) == len(example.rows) == (1 if twice in example.input else 2)
        assert [records[row] for row in example.rows] == list(example.profile)


def test_the_validation_questions_that_are_left_are_of_many_users(tiny: Any, encoder: Any) -> None:
    task = lamp_task("LaMP_3")
    profile = (Record("Fine.", "5", "2012"), Record("Bad.", "1", "2013"))
    questions = tuple(
        Question(f"{user}-{n}", f"u{user}", task.make_input(f"Hm {n}."), Profile(f"u{user}", profile))
        for user in range(8)
        for n in range(3)
    )
    split = LampSplit(task, questions, {question.id: "3" for question in questions}, None)
    reader = HistoryReader(fresh(tiny, encoder).config, encoder)
    all_of_them = Examples(split, reader, OPTIONS).validation
    assert [example.user_id for example in all_of_them] == sorted(example.user_id for example in all_of_them)
    assert len(all_of_them) == 6
    some = Examples(split, reader, replace(OPTIONS, validation_questions=3)).validation
    assert [example.user_id for example in some] == [all_of_them[0].user_id, all_of_them[3].user_id, some[2].user_id]
    assert some[0].input != some[2].input
