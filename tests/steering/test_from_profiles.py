"""Vectors made from the profiles of requests, and the mean of the others' as their control, in `eval lamp`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from examples.world.world import World
from persona.adapters.examples import history_examples
from persona.channels import Ask
from persona.eval import LampBenchmark, LampOptions, evaluate_lamp
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.records import Profile, Record
from persona.steering.contrast import Contrast
from persona.steering.from_profiles import EverybodysSteering, ProfileSteering
from persona.steering.options import SteeringOptions

OPTIONS = SteeringOptions(strengths=(-1.0, -0.25, 0.25, 1.0, 2.0), most_tokens=8, gate=0.0, cap=2.0)


def ask(user: str, answer: str) -> Ask:
    records = tuple(Record(f"Film {number}", target=answer, id=str(number)) for number in range(6))
    return Ask(Profile(user, records), "Film", "Film")


def test_each_profile_has_its_own_and_the_others_mean_leaves_it_out(llm: TransformersLM, tmp_path: Path) -> None:
    contrast = Contrast(llm, history_examples, OPTIONS)
    own = ProfileSteering(contrast, tmp_path)
    asks = [ask("ana", "zqxj ana"), ask("bo", "zqxj bo"), ask("ana", "other")]
    made = own.contribute(asks)
    assert made[0].steering
    assert own.contribute([asks[0]])[0] is made[0]
    again = ProfileSteering(contrast, tmp_path).contribute(asks)
    assert [sorted(each.steering or {}) for each in again] == [sorted(each.steering or {}) for each in made]
    (block,) = made[0].steering
    (everybody,) = EverybodysSteering(own, [asks[0].profile, asks[1].profile]).contribute([asks[1]])
    assert not everybody.personal
    assert everybody.steering is not None
    assert torch.equal(everybody.steering[block], made[0].steering[block])


def test_eval_lamp_has_the_method_with_its_controls(tmp_path: Path) -> None:
    World(3).write_lamp(tmp_path / "LaMP_3", "LaMP_3", {"dev": 6}, 6)
    options = LampOptions(methods=("none", "steering"), ks=(1,), resamples=20, limit=6)
    report = evaluate_lamp(LampBenchmark.read(tmp_path / "LaMP_3"), load_llm("tiny"), options, out=tmp_path / "out")
    names = {row.name for row in report.rows}
    assert {"steering", "steering, other user", "steering, trained without user", "steering + bm25-lamp k=1"} <= names
    again = evaluate_lamp(
        LampBenchmark.read(tmp_path / "LaMP_3"), load_llm("tiny"), replace(options, ks=(1,)), out=tmp_path / "out"
    )
    assert {row.name: row.predictions for row in again.rows} == {row.name: row.predictions for row in report.rows}
