"""Objectives: their formulas, with numbers computed by hand and by exact properties."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from persona.lamp.tasks import lamp_task
from persona.records import Profile, Record
from persona.soft_prompts.histories import History
from persona.soft_prompts.training.examples import Example
from persona.soft_prompts.training.objectives.auxiliary import foreign
from persona.soft_prompts.training.objectives.context import shift, states_of
from persona.soft_prompts.training.objectives.contrast import contrast, on_sphere
from persona.soft_prompts.training.objectives.hard_negatives import nearest
from persona.soft_prompts.training.objectives.masked import correlations, pairs, without
from persona.soft_prompts.training.objectives.metric import hinge
from persona.soft_prompts.training.objectives.noise import perturbed
from persona.soft_prompts.training.objectives.preference import preference, rivals
from persona.soft_prompts.training.objectives.templates import rest_of_record, said_of_user, usual_answer
from persona.soft_prompts.training.objectives.uniformity import calibrated_uniformity, halves, slerp, slerp_fuse
from persona.summaries.statistics import profile_stats

OTHERS = ~torch.eye(2, dtype=torch.bool)


def test_norm_scaled_noise_by_hand() -> None:
    """Row 2: a record of length 5 moves by a fifth of it; a record of zeros stays."""
    values, noise = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.0, -2.0], [1.0, 0.0]])
    assert_close(perturbed(values, noise, 0.2), torch.tensor([[3.0, 3.0], [0.0, 0.0]]))


def test_the_contrast_with_anchors_by_hand() -> None:
    """Rows 2 and 29: two users at right angles, temperature 1: each keeps its own anchor with e / (e + 1).

    Were they one user, nobody is told from anybody.
    """
    anchors = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    expected = torch.tensor(math.log(math.e + 1) - 1)
    assert_close(contrast(torch.eye(2), anchors, 1.0), expected)
    assert_close(contrast(torch.eye(2), anchors, 1.0, OTHERS), expected)
    assert contrast(torch.eye(2), anchors, 1.0, torch.zeros(2, 2, dtype=torch.bool)) == 0


def test_correlated_fields_are_left_out_together() -> None:
    """Row 29: of four records the second field is minus twice the first, the third is at right angles to both."""
    values = torch.tensor([[1.0, -2.0, 1.0], [1.0, -2.0, -1.0], [-1.0, 2.0, 1.0], [-1.0, 2.0, -1.0]])
    correlated = correlations(values, [1, 1, 1])
    assert_close(correlated, torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    assert pairs(correlated).tolist() == [[True, True, False], [True, True, False], [True, False, True]]
    left_out = torch.tensor([[True, True, False]])
    assert_close(without(values[:1], left_out, [1, 1, 1]), torch.tensor([[0.0, 0.0, 1.0]]))
    assert_close(without(values[:1], ~left_out, [1, 1, 1]), torch.tensor([[1.0, -2.0, 0.0]]))
    assert not correlations(torch.ones(1, 3), [1, 1, 1]).any()  # a single record does not vary


def test_slerp_and_fusion_stay_on_the_sphere() -> None:
    """Row 34: a third of a right angle is 30 degrees; two vectors fuse to their slerp; one to itself."""
    right_angle = torch.eye(2)
    assert_close(slerp(right_angle[0], right_angle[1], 1 / 3), torch.tensor([math.sqrt(3) / 2, 0.5]))
    assert_close(slerp(right_angle[0], right_angle[0], 0.3), right_angle[0])
    vectors = torch.nn.functional.normalize(torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert_close(slerp_fuse(vectors).norm(dim=-1), torch.ones(3))
    assert_close(slerp_fuse(vectors[:2], 0.2), slerp(vectors[0], vectors[1], 0.2))
    assert_close(slerp_fuse(vectors[:1]), vectors[0])
    assert_close(slerp_fuse(vectors), slerp_fuse(vectors.flip(0)))  # at the middle


def test_uniformity_is_calibrated_by_dissimilarity() -> None:
    """Row 34: u and v at right angles (distance^2 2) differ in content, u and w are alike in it and do not count."""
    states = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    weights = torch.zeros(3, 3)
    weights[0, 1] = weights[1, 0] = 0.5
    assert_close(calibrated_uniformity(states, weights, 2.0), torch.tensor(-4.0))
    weights[0, 2] = weights[2, 0] = 0.5
    assert_close(calibrated_uniformity(states, weights, 2.0), torch.tensor(math.log((math.exp(-4) + 1) / 2)))
    assert calibrated_uniformity(states, torch.zeros(3, 3), 2.0) == 0


def test_halves_of_a_history() -> None:
    """Row 34: every record is in one half; of a single record both halves are it."""
    history = History(np.arange(5, dtype=np.float16)[:, None], np.arange(5, dtype=np.float32))
    first, second = halves(history, np.random.default_rng(0))
    assert len(first) == 3
    assert sorted([*first.values[:, 0], *second.values[:, 0]]) == [0, 1, 2, 3, 4]
    assert [len(half) for half in halves(history.take(np.arange(1)), np.random.default_rng(0))] == [1, 1]


def test_the_hinge_by_hand() -> None:
    """Row 51: u lies on its record and 2 from v's; v is at 2 from its own and 0 from u's: max(0, 0.5 + 2 - 0)."""
    states, records = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2)
    assert_close(hinge(states, records, OTHERS, 0.5), torch.tensor((0 + 2.5) / 2))
    assert hinge(states, records, torch.zeros(2, 2, dtype=torch.bool), 0.5) == 0


def test_records_on_a_sphere_count_each_block_alike() -> None:
    """Rows 25 and 51: blocks of lengths 5 and 100 count alike; without a target the text is all."""
    values = torch.tensor([[3.0, 4.0, 100.0], [0.0, 2.0, 0.0]])
    half = 1 / math.sqrt(2)
    assert_close(on_sphere(values, [2, 1]), torch.tensor([[0.6 * half, 0.8 * half, half], [0.0, 1.0, 0.0]]))


def test_the_nearest_of_others() -> None:
    """Row 25: the nearest text is one's own and not allowed, so it comes last."""
    pool = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    rows, is_other = nearest(torch.tensor([[1.0, 0.0]]), pool, torch.tensor([[False, True, True]]), 5)
    assert rows.tolist() == [[1, 2, 0]]
    assert is_other.tolist() == [[True, True, False]]


def test_the_shift_of_the_context_by_hand() -> None:
    """Row 41: one token moved by 1 of 2 (a quarter), one not at all, one is no question."""
    neutral = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    moved = torch.tensor([[[2.0, 1.0], [0.0, 1.0], [9.0, 9.0]]])
    assert_close(shift(moved, neutral, torch.tensor([[True, True, False]])), torch.tensor(0.125))


@pytest.mark.parametrize("name", ["tiny", "llama"])
def test_the_states_of_the_context_are_those_of_the_question(request: Any, name: str) -> None:
    """Row 41: as many tokens as each question has, encoder-decoder and decoder-only, padding and all."""
    llm = request.getfixturevalue(name)
    prompts = llm.prompt_ids(["A film? ", "What is the score of it? "])
    soft_prompts = torch.zeros(2, 3, llm.hidden_size, requires_grad=True)
    states, asked = states_of(llm, prompts, soft_prompts)
    assert asked.sum(1).tolist() == [len(prompt) for prompt in prompts]
    alone, asked_alone = states_of(llm, prompts[:1], soft_prompts[:1])
    assert_close(states[0][asked[0]], alone[0][asked_alone[0]], atol=1e-4, rtol=1e-4)
    (gradient,) = torch.autograd.grad(states[asked].sum(), soft_prompts)
    assert bool(gradient.any())


def test_the_preference_by_hand() -> None:
    """Row 22: own answers gained 3 and 0, the others' 1 and 0; beta 0.5."""
    expected = (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    assert_close(preference(torch.tensor([3.0, 0.0, 1.0, 0.0]), 0.5), torch.tensor(expected))


def test_the_rival_is_the_nearest_who_answered_otherwise() -> None:
    """Row 22: not the same user, not the same answer, then the nearest question; None where there is none."""
    queries = {"a": [1.0, 0.0], "b": [0.9, 0.1], "c": [0.8, 0.2], "d": [0.0, 1.0]}
    golds, users = {"a": "1", "b": "1", "c": "2", "d": "3"}, {"a": "u", "b": "v", "c": "v", "d": "w"}
    made_of = {name: example(users[name], golds[name], queries[name]) for name in queries}
    step: Any = Shown([made_of["a"], made_of["d"]], list(made_of.values()))
    assert rivals(step) == ["2", "2"]
    assert rivals(Shown([made_of["a"]], [made_of["a"], made_of["b"]])) == [None]  # type: ignore[arg-type]


def test_the_foreign_history_is_far_from_the_question() -> None:
    """Row 43: w has a record on the very question, v has none near it; nobody else is left for the last one."""
    asked = example("u", "1", [1.0, 0.0])
    step: Any = Shown([asked], [asked])
    rows = {"u": [[0.0, 1.0]], "v": [[0.1, 1.0], [0.2, 1.0]], "w": [[0.0, 1.0], [1.0, 0.0]], "x": []}
    step.histories = {user: History(np.array(values, np.float16).reshape(-1, 2)) for user, values in rows.items()}
    step.users = ["u", "v", "w", "x"]
    assert foreign(step, asked, 2) is step.histories["v"]
    step.users = ["u", "x"]
    assert foreign(step, asked, 2) is None


class Shown:
    """What `rivals` and `foreign` read of a step."""

    users: list[str]
    histories: dict[str, History]

    def __init__(self, shown: list[Example], train: list[Example]) -> None:
        self.shown, self.train, self.examples, self.draw = shown, train, self, np.random.default_rng(0)

    def queries(self) -> Any:
        """Of what is shown."""
        return np.stack([each.query for each in self.shown])


def example(user_id: str, gold: str, query: list[float], **fields: Any) -> Example:
    """An example whose history does not matter."""
    given = {"input": "?", "profile": Profile(user_id), "rows": np.arange(0), **fields}
    return Example(user_id, gold=gold, query=np.array(query, np.float32), **given)


def test_templates_of_a_rating_and_a_tag() -> None:
    """Rows 10, 21 and 44: the families' prompts and answers, none of which names the user."""
    task = lamp_task("LaMP_3")
    records = tuple(Record(f"text {number}", target=target) for number, target in enumerate("434"))
    asked = example("u", "5", [1.0], input=task.make_input("Fine {plot}."), profile=Profile("u", records))
    assert usual_answer(task, asked) == (task.make_input("a typical review of this user"), "4")
    assert rest_of_record(task, asked) == ('5 is the score for "', "Fine {plot}.")
    assert usual_answer(task, replace(asked, profile=Profile("u"))) is None
    assert said_of_user(task, asked) == ("What is usual for this user? ", profile_stats(asked.profile, "LaMP_3").text)
    tags = lamp_task("LaMP_2")
    tagged = replace(asked, input=tags.make_input("A heist.", labels=["comedy", "crime"]), gold="crime")
    assert rest_of_record(tags, tagged) == ('the tag for the movie: "A heist." is "', "crime")
    assert usual_answer(tags, tagged) == (
        tags.make_input("a typical movie of this user", labels=["comedy", "crime"]),
        "4",
    )
    for without_target in ("LaMP_1", "LaMP_7"):
        assert rest_of_record(lamp_task(without_target), asked) is None
