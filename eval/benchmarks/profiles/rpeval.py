"""RPEval: when not to personalise (Feng et al.). In Chinese.

    {"persona": "likes fast music to stay awake", "question": "What can I listen to for a nap?",
     "intent_type": "ignore", "reason": "...", "implicit_persona": "User: ...\\n\\nAssistant: ..."}

A preference should be ignored by an answer, support it, or dominate it. Of the file ``single`` each item has one
preference; of ``multi`` a list of them and in `intent_type` a letter each, A ignore, B support, C dominate. A history
is the preference as a record (``explicit``), or the conversation in which it shows (``implicit``).

**Discrimination** asks which of the three it should be, and **generation** for the answer itself, of which a judge says
how it treats the preference.

=====================  =============================================================================================
``accuracy``, ``f1``   of discrimination: the right one of three; macro-F1, for which rare labels count as much
``restraint``          of discrimination: whether "ignore" is told from the other two
``rational``           of generation: the share of answers that treat a preference as they should
``over-``,             of generation: the share that makes more of it, and the share that makes less
``under-personalized``
``undecided``          of generation: the share without a verdict, which is not rational
``official accuracy``  the published one leaves out questions that were not answered, as it drops those that timed out
``official rational``  the published one leaves out answers without a verdict
=====================  =============================================================================================

**A trap**: the implicit file spells the label "support" in Chinese and the explicit one in English. Compared as strings
all 50 of them would be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType

import numpy as np

from persona.errors import check_one_of
from persona.eval.benchmark import Benchmark, Question
from persona.eval.benchmarks.reading import Part, read_json
from persona.eval.judging.benchmark import UNDECIDED, JudgedBenchmark, Verdicts, judged_metric, ratios
from persona.eval.judging.prompts import KINDS, JudgedItem
from persona.eval.judging.rates import Rates
from persona.eval.metrics import ACCURACY, F1, Answer, Array, Metric, Samples, mean_of_sums, ratio_of_sums
from persona.eval.report import OFFICIAL
from persona.protocols import Choices, Retriever
from persona.records import Profile, Record

IGNORE, SUPPORT, DOMINATE = LABELS = ("ignore", "support", "dominate")
"""What an answer should make of a preference, from least to most."""

SPELLINGS: Mapping[str, str] = MappingProxyType(
    {
        **{label: label for label in LABELS},
        **dict(zip("ABC", LABELS, strict=True)),
        "supportive": SUPPORT,
        "dominant": DOMINATE,
        "忽略偏好": IGNORE,
        "支持性偏好": SUPPORT,
        "调和偏好": SUPPORT,
        "以偏好为主线": DOMINATE,
    }
)
"""Every spelling of a label."""

_TREATMENTS = dict(zip(LABELS, KINDS["treatment"].verdicts.values(), strict=True))
_PROMPT = (
    'A person asks: "{question}"\nA preference of this person is known{which}. What should the answer make of it?\n'
    "ignore: nothing, since it has nothing to do with the question or would do harm to it.\n"
    "support: something, beside what else matters.\n"
    "dominate: all of it, since the answer would be wrong without it.\n"
    "Answer with one word: ignore, support or dominate."
)
_TURN = re.compile(r"^(用户|助手|user|assistant)\s*[:：]\s*", re.IGNORECASE)
_ROLES = {"用户": "user", "助手": "assistant"}


@dataclass(frozen=True, slots=True)
class RpEvalOptions:
    """What of RPEval is read, and what is asked.

    Attributes:
        asked: discrimination or generation.
        preference: explicit or implicit.
        items: single or multi.
        filter: a relevance filter (untrained, or a folder of `persona train filter`) whose say on discrimination is a
            row of its own: ignore where it passes nothing, else support. Empty for none.
        encoder: of that filter.

    Raises:
        InvalidOptionError: if a name is not known.
    """

    asked: str = "discrimination"
    preference: str = "explicit"
    items: str = "single"
    filter: str = ""
    encoder: str = "minilm"

    def __post_init__(self) -> None:
        check_one_of(("discrimination", "generation"), asked=self.asked)
        check_one_of(("explicit", "implicit"), preference=self.preference)
        check_one_of(("single", "multi"), items=self.items)


class RpEval(Benchmark):
    """RPEval's questions; see the module. `read` gives those of discrimination or of generation.

    Args:
        questions: their golds and kinds are the labels.
        preferences: in words, by the question's id.
    """

    Options = RpEvalOptions
    source = "get benchmark_dataset of github.com/XueyangFeng/RPEval"
    licence = "CC-BY-NC-4.0"
    commercial = False

    def __init__(self, questions: Sequence[Question], preferences: Mapping[str, str]) -> None:
        self.questions, self.preferences = tuple(questions), preferences

    @classmethod
    def read(cls, path: str | PathLike[str], **options: str) -> RpEval:
        """The questions of a file, or of the folder ``benchmark_dataset``.

        Args:
            path: the file or the folder.
            **options: as `RpEvalOptions`.

        Raises:
            DataFormatError: if the file is of another form.
        """
        wanted, place = RpEvalOptions(**options), Path(path)
        if place.is_dir():
            place = place / f"{wanted.preference}_preference" / f"{wanted.items}_testset.json"
        found = [each for row, part in enumerate(read_json(place).parts) for each in _questions(part, row, wanted)]
        preferences = {question.id: preference for question, preference in found}
        questions = [question for question, _ in found]
        if wanted.asked == "generation":
            return Generation(questions, preferences)
        return Discrimination(questions, preferences, _filtering(wanted))


class Discrimination(RpEval):
    """What should an answer make of a preference?

    Args:
        questions: see `RpEval`.
        preferences: see `RpEval`.
        retriever: finds nothing where it holds that nothing is relevant; None for no row of that kind.
    """

    name = "rpeval discrimination"
    metrics = (
        ACCURACY,
        F1,
        Metric("restraint", True, lambda answers, labels: _restraint(answers), mean_of_sums),
        Metric(f"{OFFICIAL}accuracy", True, lambda answers, labels: _where_answered(answers), ratio_of_sums),
    )
    defects: Mapping[str, str] = MappingProxyType({f"{OFFICIAL}accuracy": "leaves out what was not answered"})

    def __init__(
        self, questions: Sequence[Question], preferences: Mapping[str, str], retriever: Retriever | None = None
    ) -> None:
        super().__init__(questions, preferences)
        self._retriever = retriever

    def baselines(self, questions: Sequence[Question]) -> Mapping[str, Sequence[str]]:
        """Always the same label; and what the relevance filter says."""
        always = {f"always {label}": [label] * len(questions) for label in LABELS}
        if self._retriever is None:
            return always
        found = self._retriever.retrieve_batch(
            [each.profile for each in questions], [each.query for each in questions], 1
        )
        return {**always, "relevance filter": [SUPPORT if records else IGNORE for records in found]}


class Generation(JudgedBenchmark, RpEval):
    """Does an answer treat a preference as it should?"""

    name = "rpeval generation"
    flaws: Mapping[str, str] = MappingProxyType({f"{OFFICIAL}rational": "leaves out what the judge did not decide"})

    def measures(self, rates: Rates | None) -> tuple[Metric, ...]:
        """The metrics by one judge. Rates of passes and fails say nothing about three ways to treat a preference."""
        worse = (judged_metric(f"{how}-personalized", higher_is_better=False) for how in ("over", "under"))
        return (judged_metric("rational"), *worse, UNDECIDED, judged_metric(f"{OFFICIAL}rational"))

    def items(self, question: Question, answer: str) -> list[JudgedItem]:
        """What a judge is asked about an answer."""
        known = {"The person's preference": self.preferences[question.id]}
        return [JudgedItem(question.id, "treatment", question.prompt, "", answer, known)]

    def judged(self, questions: Sequence[Question], answers: Sequence[str], verdicts: Verdicts) -> Samples:
        """What each measure records. An empty answer treats nothing as it should."""
        rows = [
            (only.value, _TREATMENTS[question.kind], bool(answer.strip()))
            for (only,), question, answer in zip(verdicts, questions, answers, strict=True)
        ]
        right = [float(given and value == wanted) for value, wanted, given in rows]
        decided = [(value or 0.0, wanted, given and value is not None) for value, wanted, given in rows]
        return {
            "rational": ratios([(each, 1) for each in right]),
            "over-personalized": ratios([(known and value > wanted, 1) for value, wanted, known in decided]),
            "under-personalized": ratios([(known and value < wanted, 1) for value, wanted, known in decided]),
            f"{OFFICIAL}rational": ratios([(each, row[0] is not None) for each, row in zip(right, rows, strict=True)]),
        }


def _restraint(answers: Sequence[Answer]) -> Array:
    told = [(each.gold == IGNORE) == (each.prediction == IGNORE) and each.prediction in LABELS for each in answers]
    return np.array(told, dtype=np.float64)[:, None]


def _where_answered(answers: Sequence[Answer]) -> Array:
    return ratios([(each.gold == each.prediction, bool(each.prediction)) for each in answers])


def _filtering(wanted: RpEvalOptions) -> Retriever | None:
    if not wanted.filter:
        return None
    from persona.encoders.load import load_encoder
    from persona.retrievers.registry import RetrieverOptions, make_retriever

    options = RetrieverOptions(relevance=wanted.filter)
    return make_retriever("recency", options, encoder=load_encoder(wanted.encoder))


def _questions(item: Part, number: int, wanted: RpEvalOptions) -> list[tuple[Question, str]]:
    """An item's questions, one for each preference, and the preference in words."""
    preferences = _listed(item["persona"])
    labels = _labels(item["intent_type"], len(preferences))
    shown = _listed(item["implicit_persona"]) if wanted.preference == "implicit" else preferences
    user_id, asked = f"item-{number}", item["question"].filled
    records = [record for part in shown for record in _records(part)]
    found = []
    for place, (preference, label) in enumerate(zip(preferences, labels, strict=True)):
        id_ = f"{number}/{place}" if len(preferences) > 1 else str(number)
        which = f', "{preference.text}"' if len(preferences) > 1 else ""
        prompt, choices = asked, None
        if wanted.asked == "discrimination":
            prompt, choices = _PROMPT.format(question=asked, which=which), Choices(LABELS)
        with item.located():
            profile = Profile(user_id, tuple(records))
            question = Question(id_, user_id, profile, prompt, asked, gold=label, choices=choices, kind=label)
        found.append((question, preference.text))
    return found


def _listed(part: Part) -> list[Part]:
    """A text, or the texts of a list; none of them blank."""
    texts = part.parts if isinstance(part.value, list) else [part]
    if not texts or not all(each.filled for each in texts):
        part.refuse("there must be at least one preference")
    return texts


def _labels(spelled: Part, count: int) -> list[str]:
    """The labels of an item: one word, or one letter for each preference."""
    text = spelled.filled.strip()
    parts = [text] if text in SPELLINGS and count == 1 else list(text)
    labels = [SPELLINGS.get(part) for part in parts]
    if len(labels) != count or None in labels:
        spelled.refuse(
            f"an intent type must be {', '.join(LABELS)}, or a letter of A, B, C for each of {count}, was: {text!r:.80}"
        )
    return [label for label in labels if label]


def _records(part: Part) -> list[Record]:
    """The turns of a conversation, or one text, as records."""
    paragraphs = [each.strip() for each in part.text.split("\n\n") if each.strip()]
    turns = [_TURN.match(each) for each in paragraphs]
    with part.located():
        if not all(turns):
            return [Record(part.text)]
        found: list[Record] = []
        for paragraph, turn in zip(paragraphs, turns, strict=True):
            text = paragraph[turn.end() :] if turn else ""
            if turn and text.strip():
                role = _ROLES.get(turn[1], turn[1].lower())
                found.append(Record(text, id=f"{part.place or 0}:{len(found)}", role=role))
        return found
