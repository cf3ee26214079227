"""PersonaMem version 3: what do real users want next, and what of theirs is to be left alone? (Jiang et al., arXiv
2608.21381)

    backend/760/test.json     [{"query_id": ..., "task_type": ..., "ts": 1775342465, "user_query": ...,
                                "instance_full": {...}}]
    benchmark/760/queries.csv older: query_id,task_type,ts,query_text,instance_json
    backend/760/instagram.json, facebook, threads, chatbot, ai_studio
                              [{"source_timestamp": ..., "source_hashtags": [...], "content": {"title": ..., "caption":
                                ...}, or "conversation": [{"role": ..., "content": ...}], or "messages": [{"sender":
                                ..., "text": ...}], "interaction_format": {"action_label": ...}}]

Two kinds of its tasks are asked; those that act through tools, and scenes that are judged as a whole, are not. The
history of a question is what happened before it, in all apps; the file's own notes on preferences are left out.

==============  ========================================================================================================
slate           to rank candidates (`slate` or `candidates`), of which one is what the user turned to next. `recall@1`,
                `recall@5`, `nDCG@5` and `MRR` of it; ``negative first``, whether what the user passed over comes first.
                What an answer does not name has no rank. ``official recall@1``: of an answer that is no whole ranking
                the slate's own order is taken, of older slates
avoid           to answer with a slice of interests that are to be left alone (`gt_slice`). `leaked`, by judges, whether
                any of them is brought up; `served`, the share of those that fit. ``official leaked``: half of an
                interest's hashtags, or a cosine of .5 by MiniLM of it and the whole answer
==============  ========================================================================================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from math import log2
from os import PathLike
from pathlib import Path
from types import MappingProxyType

import numpy as np

from persona.errors import DataFormatError, check_one_of
from persona.eval.benchmark import Question
from persona.eval.benchmarks.conversations.app_events import History, moment_of, shown, tags_of
from persona.eval.benchmarks.reading import Part, read_json, read_table
from persona.eval.judging.benchmark import UNDECIDED, JudgedBenchmark, Verdicts, judged_metric, ratios, values_of
from persona.eval.judging.check import KnownItems
from persona.eval.judging.prompts import JudgedItem
from persona.eval.judging.rates import Rates, allowing_for
from persona.eval.metrics import Metric, Samples, mean_of_sums
from persona.eval.report import OFFICIAL
from persona.eval.results.samples import column, unlabelled
from persona.protocols import RecordEncoder
from persona.records import Profile

TASKS = ("slate", "avoid")
_NEGATIVE = ("negative", "hard_negative")
_RANK = (
    "Which of these will I turn to next? {request}\n{slate}\nAnswer with the numbers of all of them, the likeliest "
    "first, with commas, and nothing else."
)


@dataclass(frozen=True, slots=True)
class PersonaMem3Options:
    """What of PersonaMem's third version is asked.

    Attributes:
        task: slate or avoid.
        kinds: comma list of types of tasks; empty for all.
    """

    task: str = TASKS[0]
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_one_of(TASKS, task=self.task)


@dataclass(frozen=True, slots=True)
class Interest:
    """What a user likes, or what is to be left alone: in words, and by its hashtags."""

    text: str
    hashtags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is right for a question.

    Attributes:
        size: how many candidates are to be ranked.
        held_out: the number of the one that the user turned to.
        negatives: the numbers of those that the user passed over.
        filled: whether the published code takes the slate's order for an answer that is no ranking.
        target: interests that an answer may serve.
        avoid: those that it must leave alone.
    """

    size: int = 0
    held_out: int = 0
    negatives: frozenset[int] = frozenset()
    filled: bool = False
    target: tuple[Interest, ...] = ()
    avoid: tuple[Interest, ...] = ()


class PersonaMem3(JudgedBenchmark):
    """Questions of PersonaMem's third version; see the module.

    Args:
        questions: of one of the `TASKS`.
        wanted: what is right, by the question's id.
        task: which task.
    """

    Options = PersonaMem3Options
    source = "get bowen-upenn/PersonaMem-v3 of the Hugging Face hub, the folders backend/USER with test.json"
    name = "personamem-v3"
    licence = "CC-BY-NC-4.0"
    commercial = False
    flaws: Mapping[str, str] = MappingProxyType(
        {f"{OFFICIAL}leaked": "compares interests with the whole answer: a long one hides them, an empty one is fine"}
    )

    def __init__(self, questions: Sequence[Question], wanted: Mapping[str, Wanted], task: str) -> None:
        self.questions, self._wanted, self._task = tuple(questions), wanted, task
        if task == TASKS[0]:
            names = {"recall@1": True, "recall@5": True, "nDCG@5": True, "MRR": True, "negative first": False}
            names[f"{OFFICIAL}recall@1"] = True
            self.metrics = tuple(Metric(name, higher, unlabelled, mean_of_sums) for name, higher in names.items())
            self.defects = {f"{OFFICIAL}recall@1": "takes the slate's own order where an answer is no whole ranking"}

    @classmethod
    def read(cls, path: str | PathLike[str], **options: object) -> PersonaMem3:
        """The questions of a folder; options as `PersonaMem3Options`.

        Raises:
            DataFormatError: if a file is missing or of another form.
        """
        chosen, folder = PersonaMem3Options(**options), Path(path)  # type: ignore[arg-type]
        files = sorted(folder.rglob("test.json")) or sorted(folder.rglob("queries.csv"))
        if not files:
            raise DataFormatError("the folder must hold backend/USER/test.json, holds none", source=str(folder))
        questions, wanted = [], {}
        for file in files:
            beside = folder / "backend" / file.parent.name
            history = History(file.parent.name, beside if beside.is_dir() else file.parent)
            for item, instance in _items(file):
                kind = item["task_type"].filled
                if chosen.kinds and kind not in chosen.kinds:
                    continue
                right = _slate(instance) if chosen.task == TASKS[0] else _slice(instance)
                if right is not None:
                    question = _question(item, instance, history.before(moment_of(item["ts"])), chosen.task)
                    questions.append(question)
                    wanted[question.id] = right
        return cls(questions, wanted, chosen.task)

    def measures(self, rates: Rates | None) -> tuple[Metric, ...]:
        """The metrics by one judge."""
        leaked = judged_metric("leaked", higher_is_better=False)
        official = replace(leaked, name=f"{OFFICIAL}leaked")
        return (leaked, *allowing_for(judged_metric("served"), rates), UNDECIDED, official)

    def judged(self, questions: Sequence[Question], answers: Sequence[str], verdicts: Verdicts) -> Samples:
        """What one judge's verdicts come to. A question with an interest that is undecided has leaked only if another
        one was seen, and does not count otherwise."""
        avoid = [self._wanted[each.id].avoid for each in questions]
        parts = [(some[: len(cut)], some[len(cut) :]) for some, cut in zip(values_of(verdicts), avoid, strict=True)]
        decided = [[one for one in served if one is not None] for _, served in parts]
        return {
            "leaked": ratios([(1, 1) if 1.0 in avoided else (0, None not in avoided) for avoided, _ in parts]),
            "served": ratios([(sum(some), len(some)) for some in decided]),
            f"{OFFICIAL}leaked": ratios([(leaked, 1) for leaked in map(official_leak, avoid, answers)]),
        }

    def score(self, questions: Sequence[Question], answers: Sequence[str]) -> Samples:
        """What a ranking is worth, or what judges decide."""
        if self._task != TASKS[0]:
            return super().score(questions, answers)
        rows = [ranked(self._wanted[each.id], answer) for each, answer in zip(questions, answers, strict=True)]
        return {metric.name: column([row[metric.name] for row in rows]) for metric in self.metrics}

    def baselines(self, questions: Sequence[Question]) -> Mapping[str, Sequence[str]]:
        """The slate in its own order."""
        if self._task != TASKS[0]:
            return {}
        return {"the slate's order": [", ".join(map(str, range(self._wanted[each.id].size))) for each in questions]}

    def known_items(self) -> KnownItems:
        """Interests as answers, and vague answers."""
        interests = [item for question in self.questions for item in self.items(question, "")]
        return KnownItems.of_right([replace(item, answer=item.rubric["Interest"]) for item in interests])

    def items(self, question: Question, answer: str) -> list[JudgedItem]:
        """What a judge is asked about an answer: each interest, those to be left alone first."""
        right = self._wanted[question.id]
        return [
            JudgedItem(f"{question.id}/{number}", "surfaced", question.query, "", answer, {"Interest": interest.text})
            for number, interest in enumerate((*right.avoid, *right.target))
        ]


def ranked(wanted: Wanted, answer: str) -> dict[str, float]:
    """What a ranking is worth, by each measure."""
    listed = re.search(r"\[[\d\s,]*\]", answer)
    numbers = map(int, re.findall(r"\d{1,4}", listed[0] if listed else answer))
    order = list(dict.fromkeys(number for number in numbers if number < wanted.size))
    rank = order.index(wanted.held_out) + 1 if wanted.held_out in order else None
    return {
        "recall@1": float(rank == 1),
        "recall@5": float(rank is not None and rank <= 5),
        "nDCG@5": 1 / log2(rank + 1) if rank is not None and rank <= 5 else 0.0,
        "MRR": 1 / rank if rank is not None else 0.0,
        "negative first": float(bool(order) and order[0] in wanted.negatives),
        f"{OFFICIAL}recall@1": float(_published(wanted, answer)[:1] == [wanted.held_out]),
    }


def _published(wanted: Wanted, answer: str) -> list[object]:
    """The order that the published code takes: a list in JSON, or of older slates the slate's own."""
    order: object = []
    with suppress(ValueError, RecursionError):
        if found := re.search(r"\{.*\}", answer, re.DOTALL):
            parsed = json.loads(found[0])
            order = parsed.get("ranked_indices") or parsed.get("ranked_indexes")
    whole = isinstance(order, list) and sorted(map(str, order)) == sorted(map(str, range(wanted.size)))
    if wanted.filled and not whole:
        return list(range(wanted.size))
    return order if isinstance(order, list) else []


def official_leak(avoid: Sequence[Interest], answer: str) -> bool:
    """Whether the published code sees one of the interests in an answer."""
    words = {word.lower() for word in re.findall(r"[A-Za-z0-9#]{3,}", answer)}
    tags = [[bool(_parts(tag) & words) for tag in interest.hashtags] for interest in avoid]
    if any(some and sum(some) >= len(some) / 2 for some in tags):
        return True
    if not answer.strip() or not avoid:
        return False
    rows = _minilm().encode([answer, *(interest.text for interest in avoid)])
    return bool(np.max(rows[1:] @ rows[0]) >= 0.5)


def _parts(tag: str) -> set[str]:
    name = tag.lstrip("#")
    return {name.lower(), *(part.lower() for part in re.split(r"(?<=[a-z])(?=[A-Z])", name) if len(part) > 2)}


@cache
def _minilm() -> RecordEncoder:
    from persona.encoders.load import load_encoder

    return load_encoder("minilm")


def _items(file: Path) -> Iterator[tuple[Part, Part]]:
    """Each item of a file, and its instance, with all that the task needs."""
    if file.suffix == ".json":
        for item in read_json(file).parts:
            yield item, item["instance_full"]
        return
    for row in read_table(file):
        yield row, row["instance_json"].json


def _slate(instance: Part) -> Wanted | None:
    """What is right for a slate; None where the instance has none."""
    slate = instance.get("slate") or instance.get("candidates")
    if slate is None:
        return None
    size, held_out = len(slate.parts), instance["held_out_idx"]
    if not 0 <= held_out.number < size:
        held_out.refuse(f"it must be one of {size} candidates, was: {held_out.number}")
    origins = instance.get("origin_by_idx")
    if origins is None:
        listed = instance.get("hard_negative_idxs")
        negatives = [each.number for each in listed.parts] if listed else []
    else:
        negatives = [number for number, each in enumerate(origins.parts) if each.text in _NEGATIVE]
    return Wanted(size, held_out.number, frozenset(negatives), filled=origins is not None)


def _slice(instance: Part) -> Wanted | None:
    """The interests of an instance; None where none is to be left alone."""
    slice_ = instance.get("gt_slice")
    avoid = slice_ and _interests(slice_.get("avoid"))
    return Wanted(target=_interests(slice_.get("target")), avoid=avoid) if slice_ and avoid else None


def _interests(listed: Part | None) -> tuple[Interest, ...]:
    found = []
    for each in listed.parts if listed else ():
        category = each.get("category")
        text = f"{each['persona_item'].filled} {category.text if category else ''}".strip()
        found.append(Interest(text, tags_of(each.get("source_hashtags"))))
    return tuple(found)


def _question(item: Part, instance: Part, profile: Profile, task: str) -> Question:
    moment = moment_of(item["ts"])
    said = next((part for part in map(item.get, ("user_query", "query_text")) if part and part.text.strip()), None)
    if task == TASKS[0]:
        asked = said.text if said and not said.text.startswith("[system prompt]") else ""
        slate = (instance.get("slate") or instance["candidates"]).parts
        lines = "\n".join(f"[{number}] {shown(each)}" for number, each in enumerate(slate))
        prompt, gold = _RANK.format(request=asked, slate=lines), str(instance["held_out_idx"].number)
        query = asked or lines
    else:
        if said is None:
            item.refuse("a question of the user must stand here")
        prompt = query = said.text
        gold = "leaves alone what it should"
    return Question(
        id=item["query_id"].filled,
        user_id=profile.user_id,
        profile=profile,
        prompt=prompt,
        query=query,
        gold=gold,
        time=datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds"),
        kind=item["task_type"].filled,
    )
