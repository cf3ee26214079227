"""PrefEval: does an answer heed a preference that was stated, or shown, some turns ago? (Zhao et al., arXiv 2502.09597)

    explicit_preference/travel_hotel.json   [{"preference": ..., "question": ..., "explanation": ...}]
    implicit_preference/choice-based/, persona-driven/: the same, with the `conversation` that shows the preference
    mcq_options/travel_hotel.json   [{..., "classification_task_options": ["the fitting one", "another", ...]}]
    filtered_inter_turns.json   [{"conversation": [{"role": "user", "content": ...}, ...]}]

Each item is a user of its own, whose history is the conversation, then any number of unrelated turns. The explicit form
is a single turn of the user, which an assistant acknowledges in words of ours, alike for all LLMs; in the original each
LLM acknowledges in its own.

========================  =============================================================================================
classification            which of four answers fits the person, by `accuracy`. The original shuffles options with one
                          generator for a whole run, so that a run that goes on has another order; here the order is the
                          item's
generation                the share of answers that `followed` the preference, by judges: helpful and no violation. An
                          answer that a judge decides nothing on has not followed. ``official followed`` counts what is
                          undecided as followed; `violated`, `unhelpful` and `undecided` say the rest
========================  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType

from persona.errors import InvalidOptionError, check_least, check_one_of
from persona.eval.benchmark import Question
from persona.eval.benchmarks.letters import LETTERS, chosen_letter, lettered, option_baselines, shuffled
from persona.eval.benchmarks.reading import Part, files_in, read_json, said, turns_of
from persona.eval.judging.benchmark import UNDECIDED, JudgedBenchmark, Verdicts, judged_metric, ratios
from persona.eval.judging.check import KnownItems
from persona.eval.judging.prompts import JudgedItem
from persona.eval.judging.rates import Rates, allowing_for
from persona.eval.metrics import ACCURACY, Metric, Samples
from persona.eval.report import OFFICIAL
from persona.eval.results.samples import column
from persona.records import Profile, Record

FORMS = ("explicit", "choice-based", "persona-driven")
TASKS = ("classification", "generation")
_VIOLATED = "preference/violated"
_OPTIONS = "classification_task_options"
_ACKNOWLEDGED = "Understood. I will keep that in mind."
_CHOOSE = "{question}\n\nWhich of these answers suits me best?\n{options}\nAnswer with its letter alone."


@dataclass(frozen=True, slots=True)
class PrefEvalOptions:
    """What of PrefEval is asked.

    Attributes:
        form: how the preference is known: explicit, choice-based or persona-driven.
        task: classification or generation.
        filler: how many unrelated turns, of the user and the assistant each, stand between it and the question.
        topics: comma list of topics, names of files; empty for all.
        shuffle: seed of the order of options.
    """

    form: str = FORMS[0]
    task: str = TASKS[0]
    filler: int = 0
    topics: tuple[str, ...] = ()
    shuffle: int = 41

    def __post_init__(self) -> None:
        check_one_of(FORMS, form=self.form)
        check_one_of(TASKS, task=self.task)
        check_least(0, filler=self.filler)


class PrefEval(JudgedBenchmark):
    """PrefEval's questions; see the module.

    Args:
        questions: of one of the `TASKS`.
        preferences: what the person prefers, by the question's id.
        options: the answers of the classification, the fitting one first, by the question's id; empty where not known.
        task: which task.
    """

    Options = PrefEvalOptions
    source = "get the folder benchmark_dataset of github.com/amazon-science/PrefEval"
    name = "prefeval"
    licence = "CC-BY-NC-4.0"
    commercial = False
    flaws: Mapping[str, str] = MappingProxyType(
        {f"{OFFICIAL}followed": "counts an answer that the judge does not decide on as followed"}
    )

    def __init__(
        self,
        questions: Sequence[Question],
        preferences: Mapping[str, str],
        options: Mapping[str, Sequence[str]],
        task: str = TASKS[0],
    ) -> None:
        self.questions = tuple(questions)
        self._preferences, self._options, self._task = preferences, options, task
        self.metrics = (ACCURACY,) if task == TASKS[0] else ()

    @classmethod
    def read(cls, path: str | PathLike[str], **options: object) -> PrefEval:
        """The items of a folder ``benchmark_dataset``; options as `PrefEvalOptions`.

        Raises:
            DataFormatError: if a file is missing or of another form.
            InvalidOptionError: if there is no such topic.
        """
        wanted, folder = PrefEvalOptions(**options), Path(path)  # type: ignore[arg-type]
        of_form = folder / ("explicit_preference" if wanted.form == FORMS[0] else f"implicit_preference/{wanted.form}")
        files = {file.stem: file for file in files_in(of_form, "*.json")}
        for topic in wanted.topics:
            if topic not in files:
                raise InvalidOptionError(f"a topic must be one of {', '.join(files)}, was: {topic!r}")
        filler = _filler(folder / "filtered_inter_turns.json", wanted.filler) if wanted.filler else ()
        questions, preferences, choices = [], {}, {}
        for topic in wanted.topics or files:
            listed = folder / "mcq_options" / files[topic].name
            needed = wanted.task == TASKS[0] or listed.exists()
            options_of = read_json(listed).parts if needed else []
            for index, item in enumerate(read_json(files[topic]).parts):
                name = f"{topic}:{index}"
                choices[name] = _paired(item, options_of, index) if needed else []
                questions.append(_question(name, item, wanted, filler, choices[name]))
                preferences[name] = item["preference"].filled
        return cls(questions, preferences, choices, wanted.task)

    def measures(self, rates: Rates | None) -> tuple[Metric, ...]:
        """The metrics by one judge. A check says how often violations are seen, so that share is corrected."""
        followed = (judged_metric("followed"), judged_metric(f"{OFFICIAL}followed"))
        violated = allowing_for(judged_metric("violated", higher_is_better=False), rates)
        return (*followed, *violated, judged_metric("unhelpful", higher_is_better=False), UNDECIDED)

    def items(self, question: Question, answer: str) -> list[JudgedItem]:
        """What a judge is asked about an answer."""
        return [self._item(question, kind, answer) for kind in (_VIOLATED, "helpful")]

    def judged(self, questions: Sequence[Question], answers: Sequence[str], verdicts: Verdicts) -> Samples:
        """What one judge's verdicts come to (`outcome`)."""
        found = [outcome(violated.value, helpful.value) for violated, helpful in verdicts]
        return {name: ratios([(each[name], 1.0) for each in found]) for name in found[0]}

    def baselines(self, questions: Sequence[Question]) -> Mapping[str, Sequence[str]]:
        """What can be chosen without an LLM (`persona.eval.benchmarks.letters.option_baselines`)."""
        return option_baselines(questions) if self._task == TASKS[0] else {}

    def score(self, questions: Sequence[Question], answers: Sequence[str]) -> Samples:
        """Whether the fitting option is chosen, or what judges decide."""
        if self._task != TASKS[0]:
            return super().score(questions, answers)
        pairs = zip(questions, answers, strict=True)
        return {ACCURACY.name: column([chosen_letter(answer, LETTERS) == each.gold for each, answer in pairs])}

    def known_items(self) -> KnownItems:
        """Options that go against a preference, and the one that does not, for a check of how a judge sees that."""
        known = [(each, self._options[each.id]) for each in self.questions if self._options[each.id]]
        against = [self._item(each, _VIOLATED, options[1]) for each, options in known]
        fitting = [self._item(each, _VIOLATED, options[0]) for each, options in known]
        return KnownItems(tuple(against), tuple(fitting))

    def _item(self, question: Question, kind: str, answer: str) -> JudgedItem:
        known = {"The person's preference": self._preferences[question.id]}
        return JudgedItem(f"{question.id}/{kind}", kind, question.query, "", answer, known)


def outcome(violated: float | None, helpful: float | None) -> dict[str, float]:
    """The measures of one answer, each 0 or 1, from the two verdicts that decide them."""
    good = helpful == 1 and violated == 0
    bad = helpful == 0 or violated == 1
    return {
        "followed": float(good),
        f"{OFFICIAL}followed": float(not bad),
        "violated": float(violated == 1),
        "unhelpful": float(helpful == 0),
        "undecided": float(not good and not bad),
    }


def _question(name: str, item: Part, wanted: PrefEvalOptions, filler: Sequence[Record], options: list[str]) -> Question:
    """An item's question, with lettered options where they are asked for; the first of them is the fitting one."""
    shown, asked = _conversation(item, wanted.form), item["question"].filled
    prompt, gold, choices = asked, "followed", None
    if wanted.task == TASKS[0]:
        order = shuffled(options, wanted.shuffle, name)
        prompt = _CHOOSE.format(question=asked, options=lettered([options[place] for place in order]))
        gold, choices = LETTERS[order.index(0)], tuple(LETTERS[: len(options)])
    return Question(
        id=name,
        user_id=name,
        profile=Profile(name, (*shown, *filler)),
        prompt=prompt,
        query=asked,
        gold=gold,
        choices=choices,
        kind=name.rpartition(":")[0],
        evidence=tuple(record.id for record in shown),
    )


def _conversation(item: Part, form: str) -> list[Record]:
    """The turns in which a preference is stated, or shows."""
    if form == FORMS[0]:
        turns = [("user", item["preference"]), ("assistant", Part(_ACKNOWLEDGED, item.source, item.place))]
    elif form == FORMS[1]:
        keys = ("query", "assistant_options", "user_selection", "assistant_acknowledgment")
        turns = [(("user", "assistant")[place % 2], item["conversation"][key]) for place, key in enumerate(keys)]
    else:
        numbered = sorted(item["conversation"].items, key=lambda pair: (len(pair[0]), pair[0]))
        turns = [(role, turn[role]) for _, turn in numbered for role in ("user", "assistant")]
    return [said("preference", number, role, text) for number, (role, text) in enumerate(turns)]


def _paired(item: Part, options_of: Sequence[Part], index: int) -> list[str]:
    """The options of an item: those at the same place, whose question or preference is the same."""
    if index >= len(options_of):
        item.refuse(f"there must be options for each item, there are: {len(options_of)}")
    other = options_of[index]
    if all(item[key].filled.strip() != other[key].filled.strip() for key in ("question", "preference")):
        other.refuse("the options must stand in the order of the items, these are of another question")
    options = [each.filled for each in other[_OPTIONS].parts]
    if len(options) < 2 or len(options) > len(LETTERS):
        other[_OPTIONS].refuse(f"there must be 2 to {len(LETTERS)} options, were: {len(options)}")
    return options


def _filler(path: Path, number: int) -> tuple[Record, ...]:
    """So many turns of user and assistant each; where the file has fewer, they come again."""
    records = [
        record
        for place, each in enumerate(read_json(path).parts)
        for record in turns_of(each["conversation"].parts, f"filler-{place}")
    ]
    if not records:
        read_json(path).refuse("there must be conversations with text, was: none")
    rounds = -(-2 * number // len(records))
    again = [
        Record(each.text, id=f"{each.id}:{turn}" if turn else each.id, role=each.role, metadata=each.metadata)
        for turn in range(rounds)
        for each in records
    ]
    return tuple(again[: 2 * number])
