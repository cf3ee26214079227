"""LongLaMP: long texts in a user's own manner (Kumar et al., arXiv 2407.11016).

    {"name": "A. Researcher", "input": "Generate an abstract for the title ... using the following items: ...",
     "output": "We ...", "profile": [{"id": "1", "title": "On gardens", "abstract": "We plant ...", "year": "2015"}]}

Four tasks, abstracts, product reviews, topics and e-mails, each in two settings: ``user`` asks for users of whom the
training split knows nothing, ``temporal`` for the newest texts of known ones. A text of the history is a record whose
target it is, and whose text is what it was written for: the paper's title, the product's description, the topic.

===================================  ==============================================================================
``rouge-1``, ``rouge-L``,            over all questions; METEOR of `persona.eval.benchmarks.profiles.meteor`
``meteor``
``official rouge-1``, ``...-L``,     the published evaluation: empty answers leave the mean, so that a method which
``official meteor``                  answers only what it can scores better; METEOR by NLTK
===================================  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType

from persona.errors import check_one_of
from persona.eval.benchmark import Benchmark, Question
from persona.eval.benchmarks.baselines import nearest_records
from persona.eval.benchmarks.profiles.meteor import has_wordnet, meteor, official_meteor
from persona.eval.benchmarks.reading import Part, table_files, table_rows
from persona.eval.judging.benchmark import ratios
from persona.eval.metrics import Metric, Samples, mean_of_sums, ratio_of_sums, rouge
from persona.eval.report import OFFICIAL
from persona.eval.results.samples import column, unlabelled
from persona.records import Profile, Record

SETTINGS = ("user", "temporal")
SPLITS = ("train", "val", "test")

_USERS = ("reviewerId", "name", "author", "user_id", "id")
_ITEMS = "items:"


@dataclass(frozen=True, slots=True)
class Task:
    """One of LongLaMP's tasks.

    Attributes:
        name: as its files are called, without the setting.
        target: the field of a history's text, the first that an item has.
        text: the field of what it was written for, likewise.
    """

    name: str
    target: tuple[str, ...]
    text: tuple[str, ...]


TASKS = (
    Task("abstract_generation", ("abstract",), ("title",)),
    Task("product_review", ("reviewText",), ("description", "summary")),
    Task("topic_writing", ("content", "output"), ("summary", "input")),
    Task("email_completion", ("text",), ("title",)),
)
"""The tasks; the fields of a history say which it is."""

_SCORES: Mapping[str, tuple[Callable[[str, str], float], Callable[[str, str], float]]] = MappingProxyType(
    {
        "rouge-1": (lambda gold, said: rouge("rouge1", gold, said),) * 2,
        "rouge-L": (lambda gold, said: rouge("rougeL", gold, said),) * 2,
        "meteor": (meteor, official_meteor),
    }
)


@dataclass(frozen=True, slots=True)
class LongLampOptions:
    """What of LongLaMP is read.

    Attributes:
        task: abstract_generation, product_review, topic_writing or email_completion; empty where DATA holds one.
        setting: user or temporal, where DATA holds both.
        split: train, val or test.

    Raises:
        InvalidOptionError: if a name is not known.
    """

    task: str = ""
    setting: str = "user"
    split: str = "test"

    def __post_init__(self) -> None:
        check_one_of(("", *(task.name for task in TASKS)), task=self.task)
        check_one_of(SETTINGS, setting=self.setting)
        check_one_of(SPLITS, split=self.split)


class LongLamp(Benchmark):
    """LongLaMP's questions; see the module.

    Attributes:
        task: which of the tasks.
    """

    Options = LongLampOptions
    source = "save LongLaMP/LongLaMP of the Hugging Face hub, its folders TASK_SETTING; e-mails need the Avocado corpus"
    licence = "of the sources (abstracts of AMiner, reviews of Amazon, posts of Reddit); none is named for the whole"

    def __init__(self, task: Task, questions: Sequence[Question]) -> None:
        self.task, self.questions = task, tuple(questions)
        self.name = f"longlamp {task.name}"
        fixed = [Metric(name, True, unlabelled, mean_of_sums) for name in _SCORES]
        official = [Metric(f"{OFFICIAL}{name}", True, unlabelled, ratio_of_sums) for name in _SCORES]
        self.metrics = (*fixed, *official)
        synonyms = "with" if has_wordnet() else "without"
        meteors = f"; repeated words are matched from the end; here {synonyms} WordNet's synonyms"
        self.defects = {
            each.name: f"leaves out empty answers{meteors if each.name.endswith('meteor') else ''}" for each in official
        }

    @classmethod
    def read(cls, path: str | PathLike[str], **options: str) -> LongLamp:
        """The questions of a file, or of a folder with ``SPLIT.json``, ``.jsonl`` or ``.parquet``, perhaps in a folder
        ``TASK_SETTING``.

        Args:
            path: the file or the folder.
            **options: as `LongLampOptions`.

        Raises:
            DataFormatError: if a file is of another form.
        """
        wanted = LongLampOptions(**options)
        place = Path(path)
        if wanted.task and (inner := place / f"{wanted.task}_{wanted.setting}").is_dir():
            place = inner
        rows = [row for file in table_files(place, wanted.split) for row in table_rows(file)]
        task = next((task for row in rows for item in row["profile"].parts[:1] if (task := _task(item, wanted))), None)
        if task is None:
            Part([], str(place)).refuse("no question has a history: there is nothing to be personal by")
        return cls(task, [_question(task, row, number) for number, row in enumerate(rows)])

    def score(self, questions: Sequence[Question], answers: Sequence[str]) -> Samples:
        """What each metric records; see the module."""
        pairs = [((each.gold or "").strip(), said.strip()) for each, said in zip(questions, answers, strict=True)]
        samples = {}
        for name, (fixed, official) in _SCORES.items():
            samples[name] = column([fixed(*pair) for pair in pairs])
            samples[f"{OFFICIAL}{name}"] = ratios([(official(*pair), 1) if pair[1] else (0, 0) for pair in pairs])
        return samples

    def baselines(self, questions: Sequence[Question]) -> Mapping[str, Sequence[str]]:
        """The user's own text that was written for what is most like the question."""
        return {"nearest text": [record.written if record else "" for record in nearest_records(questions)]}


def query_of(prompt: str) -> str:
    """What of a prompt records are sought by: what follows "items:", or all of it where that is not there, where the
    published code ends with an error."""
    _, found, items = prompt.partition(_ITEMS)
    return items.strip() if found and items.strip() else prompt


def _task(item: Part, wanted: LongLampOptions) -> Task | None:
    """The task by the fields of a history's item."""
    for task in TASKS:
        if any(name in item.mapping for name in task.target) and any(name in item.mapping for name in task.text):
            if wanted.task not in ("", task.name):
                item.refuse(f"the history must be of {wanted.task}, is of {task.name}")
            return task
    item.refuse(f"an item of a history must have a text of {', '.join(task.name for task in TASKS)}, has none")


def _question(task: Task, row: Part, number: int) -> Question:
    whose = next((row[name].short for name in _USERS if row.get(name) is not None), str(number))
    records = [record for item in row["profile"].parts if (record := _record(task, item))]
    prompt, gold = row["input"].filled, row["output"].filled
    with row.located():
        return Question(str(number), whose, Profile.from_records(whose, records), prompt, query_of(prompt), gold)


def _record(task: Task, item: Part) -> Record | None:
    """An item of a history; None for one without a text."""
    target, text = (
        next((part.text for name in names if (part := item.get(name)) and part.text.strip()), "")
        for names in (task.target, task.text)
    )
    if not target:
        return None
    overall = item.get("overall")
    year = item.get("year")
    with item.located():
        return Record(
            text or target,
            target if text else None,
            time=year.short if year and year.short.isdigit() and len(year.short) == 4 else None,
            metadata={"overall": overall.short} if overall else {},
        )
