"""Questions whose answers do not depend on who asks: what a personalized LLM should leave alone.

Each is a question and a short answer that anybody would accept, in our own words, in four domains: facts, numbers,
language and everyday know-how. None is about films, reviews, news or papers, the subjects of the histories they are
mixed with (`persona.eval.benchmarks.restraint`), and none is among those that filters are trained with
(`persona.retrievers.relevance.general`). Questions of another domain are read from files (`read_general`).

>>> len(GENERAL_QUESTIONS), GENERAL_QUESTIONS[0].question
(120, 'Which planet is closest to the sun?')
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from persona.errors import DataFormatError
from persona.formats.text_files import read_lines
from persona.readers import read_split


@dataclass(frozen=True, slots=True)
class GeneralQuestion:
    """A question that is not about the user.

    Attributes:
        domain: where it is from.
        question: as it is asked.
        answer: a right one.
        query: what is looked for in the history; empty is the question as it is.
    """

    domain: str
    question: str
    answer: str
    query: str = ""


def _built_in() -> tuple[GeneralQuestion, ...]:
    """The questions of the file beside this one: domain, question and answer in a line."""
    lines = resources.files(__package__).joinpath("general_questions.txt").read_text(encoding="utf-8").splitlines()
    return tuple(GeneralQuestion(*line.split("|")) for line in lines)


GENERAL_QUESTIONS = _built_in()
"""All of them, domain by domain."""


def read_general(path: Path, at_most: int, split: str = "train") -> tuple[GeneralQuestion, ...]:
    """Questions that are not about the users at hand, from a file or from another domain.

    Args:
        path: a text file with one question a line, or a folder like LaMP's with another task's questions.
        at_most: how many, spread over all there are.
        split: of the folder: train or dev.

    Returns:
        The questions; of a folder with the golds as answers, where there are any.

    Raises:
        DataFormatError: if the file is missing, empty or not UTF-8, or the folder is not like LaMP's.
    """
    domain = path.resolve().name
    if path.is_dir():
        read = read_split(path, split)
        golds = read.golds or {}
        questions = [
            GeneralQuestion(domain, each.input, golds.get(each.id, ""), read.task.query(each.input))
            for each in read.questions
        ]
    else:
        questions = [GeneralQuestion(domain, line.strip(), "") for _, line in read_lines(path)]
    if not questions:
        raise DataFormatError("there must be at least one question", source=path)
    spread = np.linspace(0, len(questions) - 1, min(at_most, len(questions))).round().astype(int)
    return tuple(questions[index] for index in spread)
