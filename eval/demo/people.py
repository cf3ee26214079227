"""The people of the demonstration: histories written for it, with requests whose answers are known.

Each file of ``histories/`` holds one trade with two people in it, a runner and another runner. Both are asked the same
things and each has answers of their own, so that no answer which ignores the person can be right for both. The first is
the person of the demonstration, the second is somebody else.

>>> [(trade.name, trade.task.name, trade.person.user_id) for trade in trades()][:2]
[('cook', 'LaMP_3', 'marta'), ('critic', 'LaMP_2', 'odile')]
>>> trades()[0].person.profile[0].target
'5'

`Trade.write_lamp` writes them in LaMP's form, for `persona.eval.lamp.evaluate_lamp` and every other reader of it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from persona.files import write_atomically
from persona.lamp.outputs import write_predictions
from persona.lamp.tasks import LampSplit, LampTask, Question, lamp_task
from persona.records import Profile, Record

SPLIT = "dev"

LEAST_DIFFERENCE = 0.05
"""Texts: an answer is better than another if its ROUGE-1 is higher by at least this. Labels and scores: if it is right,
or nearer, and the other is not. Set before any answer was seen, like the questions and the opening one."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a history.

    Attributes:
        user_id: a short name.
        who: who this is, one sentence.
        habit: what is typical of the person, for the reader of the page. Nothing else reads it.
        unsaid: words that would give the habit away; no text of a record or request holds them.
        profile: the history, oldest first.
    """

    user_id: str
    who: str
    habit: str
    unsaid: tuple[str, ...]
    profile: Profile


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A request that no history holds.

    Attributes:
        text: what it is about.
        time: when it is asked, ISO 8601, after all records.
        golds: what each of the two people would answer, by user id.
        opening: whether the page opens with it.
    """

    text: str
    time: str
    golds: Mapping[str, str]
    opening: bool = False


@dataclass(frozen=True, slots=True)
class Trade:
    """Two people of one trade, and what both are asked.

    Attributes:
        name: e.g. ``"runner"``.
        title: the same for readers.
        task: the LaMP task whose form the records and requests have.
        asked: what is asked of each text, in plain words.
        labels: the answers to choose from; None for texts.
        person: the one who is asked.
        other: somebody else of the same trade.
        questions: the held-out requests.
    """

    name: str
    title: str
    task: LampTask
    asked: str
    labels: tuple[str, ...] | None
    person: Person
    other: Person
    questions: tuple[HeldOut, ...]

    def request(self, text: str) -> str:
        """The request about `text` as the LLM gets it."""
        choices = f" Answer with {', '.join(self.labels[:-1])} or {self.labels[-1]}." if self.labels else ""
        return f"{self.asked}{choices}\n\n{text}"

    def split(self) -> LampSplit:
        """The requests as questions of the LaMP task: first the person's, then the same ones put to the other."""
        questions, golds = [], {}
        for person in (self.person, self.other):
            for number, held_out in enumerate(self.questions, 1):
                id = f"{person.user_id}-{number}"
                input = self.task.make_input(held_out.text, labels=self.labels)
                questions.append(Question(id, person.user_id, input, person.profile, held_out.time))
                golds[id] = held_out.golds[person.user_id]
        return LampSplit(self.task, tuple(questions), golds, self.labels)

    def write_lamp(self, folder: Path) -> None:
        """Write `split` into `folder`, which is made if it is not there, in the form of LaMP's files."""
        folder.mkdir(parents=True, exist_ok=True)
        split = self.split()
        questions = [
            {
                "id": question.id,
                "user_id": question.user_id,
                "date": question.time,
                "input": question.input,
                "profile": [self.task.entry(record, record.id) for record in question.profile],
            }
            for question in split.questions
        ]
        write_atomically(folder / f"{SPLIT}_questions.json", json.dumps(questions, indent=1, ensure_ascii=False) + "\n")
        write_predictions(folder / f"{SPLIT}_outputs.json", self.task, split.golds or {})


def write_people(folder: Path) -> list[Path]:
    """Write the files of all trades in LaMP's form, each into a folder of its own in `folder`; returns those."""
    folders = [folder / trade.name for trade in trades()]
    for trade, made in zip(trades(), folders, strict=True):
        trade.write_lamp(made)
    return folders


@cache
def trades() -> tuple[Trade, ...]:
    """All trades, by name."""
    folder = resources.files("persona.eval.demo").joinpath("histories")
    files = {file.name.removesuffix(".toml"): file for file in folder.iterdir() if file.name.endswith(".toml")}
    return tuple(_trade(name, tomllib.loads(files[name].read_text(encoding="utf-8"))) for name in sorted(files))


def _trade(name: str, content: Mapping[str, Any]) -> Trade:
    task = lamp_task(content["task"])
    person, other = (_person(each, content["records"]) for each in content["people"])
    questions = (
        HeldOut(_unfolded(each["text"]), each["date"].isoformat(), each["golds"], each.get("opening", False))
        for each in content["questions"]
    )
    labels = tuple(content["labels"]) if "labels" in content else task.labels
    return Trade(name, content["title"], task, content["asked"], labels, person, other, tuple(questions))


def _person(content: Mapping[str, Any], records: list[Mapping[str, Any]]) -> Person:
    user_id = content["user_id"]
    own = [each for each in records if each["user_id"] == user_id]
    history = Profile.from_records(
        user_id,
        (
            Record(
                _unfolded(each["text"]),
                target=each["target"],
                time=each["date"].isoformat(),
                id=f"{user_id}-{number}",
                metadata={"title": each["title"]} if "title" in each else {},
            )
            for number, each in enumerate(own, 1)
        ),
    )
    return Person(user_id, content["who"], content["habit"], tuple(content["unsaid"]), history)


def _unfolded(text: str) -> str:
    """`text` on one line; the files fold it for their readers."""
    return " ".join(text.split())
