"""Probes: what of a history a user's vector still knows. In the spirit of UQABench.

Made from any history whose records have labels (targets), one of each kind for each user, with four options:

=================  =========================================================================
``last item``      the label of the newest record
``n-th item``      that of the n-th newest, n from 2 to 5
``count``          how many records have some label
``next label``     the label of the record that comes next, which is taken out of the history
``top three``      the three commonest labels
``recent top``     the commonest label of the last five records
``drift``          the commonest label of the first third, and of the last
``several facts``  two to four of these facts in one request (in the spirit of Gen4Gen); by name only
=================  =========================================================================

A question with several right answers, two labels that are equally common say, is not asked. Answered from the soft
prompt alone, with another user's beside it, a probe says what the soft prompt carries of this user; `linear_probe` of
``benchmarks/`` says what a vector holds at all.

=====================  ============================================================================================
``accuracy``           the right one of four
``official accuracy``  as UQABench counts: an answer that begins with the right one is right, so "12" where it is 1
``coverage``           with ``several facts``: the share of a question's facts that the answer has in their places
=====================  ============================================================================================
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import eq
from os import PathLike
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from persona.errors import EvaluationError, check_least, check_one_of
from persona.eval.benchmark import Benchmark, Question
from persona.eval.metrics import ACCURACY, Answer, Array, Metric, mean_of_sums
from persona.eval.report import OFFICIAL
from persona.lamp.tasks import LampSplit, LampTask, RecordForm
from persona.lamp.tasks import Question as LampQuestion
from persona.readers import read_records
from persona.records import Profile, Record

LAST, NTH, COUNT, NEXT, TOP, RECENT, DRIFT = PROBES = (
    *("last item", "n-th item", "count", "next label"),
    *("top three", "recent top", "drift"),
)
"""The kinds of probes that are made unless others are named."""

SEVERAL = "several facts"
_FACTS_BETWEEN = "; "


def _covered(answers: Sequence[Answer], labels: Sequence[str]) -> Array:
    pairs = [(each.gold.split(_FACTS_BETWEEN), each.prediction.split(_FACTS_BETWEEN)) for each in answers]
    return np.array([[sum(map(eq, gold, said)) / len(gold)] for gold, said in pairs], dtype=np.float64)


COVERAGE = Metric("coverage", True, _covered, mean_of_sums)
"""The share of a question's facts that an answer has right, each in its place."""

OPTIONS = 4
_RECENT = 5
_FURTHEST = 5
_ASKED = "Of a person's records, each with a label: "


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """Which probes are made.

    Attributes:
        kinds: comma list of probes; all of them by default, but for "several facts".
        format: of the histories (persona ingest --help).
        training: histories of other users, for what learns from probes; empty for none.
        least: records with a label that a user needs, at least 6.
        seed: of what is asked, and of the wrong options.

    Raises:
        InvalidOptionError: if there is no such kind, or a number is out of range.
    """

    kinds: tuple[str, ...] = PROBES
    format: str = "auto"
    training: str = ""
    least: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in self.kinds or ("",):
            check_one_of((*PROBES, SEVERAL), kinds=kind)
        check_least(6, least=self.least)
        check_least(0, seed=self.seed)


@dataclass(frozen=True, slots=True)
class Probe:
    """What is behind a question.

    Attributes:
        group: probes that ask for the same of different users, e.g. ``"n-th item 3"``.
        options: the four answers: of each what it says, in parts: one label, three, the first and the last of a drift,
            or a number.
    """

    group: str
    options: Mapping[str, tuple[str, ...]]


class Probes(Benchmark):
    """Probes of some users; see the module.

    Args:
        profiles: their histories, oldest record first.
        options: which ones; None takes the defaults.
        training: probes of other users.
        labels: all labels, for wrong options; None takes those of `profiles`.

    Attributes:
        behind: by the question's id.

    Raises:
        EvaluationError: if there are fewer than four labels, nothing can be asked of any user, or a user is in both.
    """

    Options = ProbeOptions
    source = "give histories in any form that persona reads"
    name = "probes"
    metrics: Sequence[Metric] = (
        ACCURACY,
        Metric(f"{OFFICIAL}accuracy", True, lambda answers, labels: _begins(answers), mean_of_sums),
    )
    defects: Mapping[str, str] = MappingProxyType(
        {f"{OFFICIAL}accuracy": "counts an answer that only begins with the right one"}
    )

    def __init__(
        self,
        profiles: Iterable[Profile],
        options: ProbeOptions | None = None,
        training: Probes | None = None,
        *,
        labels: Iterable[str] | None = None,
    ) -> None:
        self._wanted, users, self._training = options or ProbeOptions(), list(profiles), training
        if SEVERAL in self._wanted.kinds:
            self.metrics = (*Probes.metrics, COVERAGE)
        self.labels = tuple(sorted({label for each in users for label in _labels(each)} if labels is None else labels))
        if len(self.labels) < OPTIONS:
            raise EvaluationError(f"probes need histories with at least {OPTIONS} labels, had: {len(self.labels)}")
        self.behind: dict[str, Probe] = {}
        self.questions = tuple(each for profile in users for each in self._of(profile))
        if not self.questions:
            raise EvaluationError(f"no user has {self._wanted.least} records with a label: nothing can be asked")
        if training is not None and (both := _users(training) & _users(self)):
            raise EvaluationError(f"users to learn from must not be asked, are in both: {', '.join(sorted(both)[:3])}")

    @classmethod
    def read(cls, path: str | PathLike[str], **options: object) -> Probes:
        """Probes of the users of a file of histories, in any form that `persona.readers.read_records` takes.

        Args:
            path: the file.
            **options: as `ProbeOptions`.

        Raises:
            DataFormatError: if a file cannot be read.
        """
        wanted = ProbeOptions(**options)  # type: ignore[arg-type]
        profiles = _profiles(path, wanted.format)
        if not wanted.training:
            return cls(profiles, wanted)
        others = _profiles(wanted.training, wanted.format)
        labels = {label for each in (*profiles, *others) for label in _labels(each)}
        return cls(profiles, wanted, cls(others, wanted, labels=labels), labels=labels)

    @property
    def training(self) -> Benchmark | None:
        """Probes of other users; None if there are none."""
        return self._training

    def baselines(self, questions: Sequence[Question]) -> Mapping[str, Sequence[str]]:
        """What is commonest among the answers of all users to the same question, and the user's own commonest label."""
        known = self._training or self
        everybody: dict[str, Counter[str]] = {}
        for each in known.questions:
            behind = known.behind[each.id]
            everybody.setdefault(behind.group, Counter()).update(behind.options[each.gold or ""])
        common: list[str] = []
        own: list[str] = []
        for each in questions:
            behind, counts = self.behind[each.id], Counter(_labels(each.profile))
            for answers, seen in ((common, everybody.get(behind.group, Counter[str]())), (own, counts)):
                answers.append(
                    max(behind.options, key=lambda option: sum(seen[part] for part in behind.options[option]))
                )
        return {"everybody's": common, "own commonest label": own}

    def as_split(self) -> LampSplit:
        """The probes as a split that a user embedder is trained on; it notes no task of LaMP."""
        questions = tuple(LampQuestion(each.id, each.user_id, each.prompt, each.profile) for each in self.questions)
        golds = {each.id: each.gold or "" for each in self.questions}
        task = LampTask(
            name="",
            title=self.name,
            template=_ASKED + "{text}",
            opening=_ASKED,
            query_marker=_ASKED,
            text_field="text",
            target_field="target",
            metrics=("accuracy",),
            form=RecordForm('"{text}" has the label "{target}" '),
            habit="which labels the person gives",
        )
        return LampSplit(task, questions, golds, None)

    def _of(self, profile: Profile) -> Iterator[Question]:
        labelled = Profile(profile.user_id, tuple(each for each in profile if (each.target or "").strip()))
        if len(labelled) < self._wanted.least:
            return
        for kind in self._wanted.kinds:
            number = (*PROBES, SEVERAL).index(kind)
            draw = np.random.default_rng([self._wanted.seed, number, *profile.user_id.encode()])
            made = _made(kind, _labels(labelled), draw, self.labels)
            if made is None or len(made.wrong) < OPTIONS - 1:
                continue
            parts = [made.right, *made.wrong]
            options = {_text(kind, parts[place]): parts[place] for place in draw.permutation(OPTIONS)}
            id_ = f"{profile.user_id}/{kind}"
            self.behind[id_] = Probe(made.group or kind, options)
            query = f"{made.asked}\nOptions: {'; '.join(options)}\nAnswer with one of them."
            yield Question(
                id=id_,
                user_id=profile.user_id,
                profile=Profile(profile.user_id, labelled.records[:-1]) if kind == NEXT else labelled,
                prompt=_ASKED + query,
                query=query,
                gold=_text(kind, made.right),
                choices=tuple(options),
                kind=kind,
            )


_Parts = tuple[str, ...]


class _Made(NamedTuple):
    """What is asked, the right answer and three wrong ones in parts, and the group; empty for the kind's own."""

    asked: str
    right: _Parts
    wrong: Sequence[_Parts]
    group: str = ""


def _made(kind: str, labels: Sequence[str], draw: np.random.Generator, every: Sequence[str]) -> _Made | None:
    """A probe of a user's labels, oldest first; None where it would have no single right answer."""
    if kind == COUNT:
        return _count(labels, draw)
    if kind == TOP:
        return _top_three(labels, draw, every)
    if kind == DRIFT:
        return _drift(labels, draw, every)
    if kind == SEVERAL:
        return _several(labels, draw, every)
    if kind == NTH:
        place = int(draw.integers(2, min(_FURTHEST, len(labels)) + 1))
        asked, label, group = f"which label has number {place} from the newest?", labels[-place], f"{NTH} {place}"
    else:
        asked, label, group = {
            LAST: ("which label has the newest one?", labels[-1], ""),
            NEXT: ("which label will the next one have?", labels[-1], ""),
            RECENT: (f"which label is the commonest among the last {_RECENT}?", _commonest(labels[-_RECENT:]), ""),
        }[kind]
    return _Made(asked, (label,), _other_labels(label, labels, draw, every), group) if label else None


def _count(labels: Sequence[str], draw: np.random.Generator) -> _Made:
    label = str(draw.choice(sorted(set(labels))))
    right = labels.count(label)
    near = sorted({abs(right + step) for step in range(-OPTIONS, OPTIONS + 1)} - {right}, key=lambda n: abs(n - right))
    wrong = [(str(each),) for each in draw.permutation(near[:OPTIONS])[: OPTIONS - 1]]
    return _Made(f'how many have the label "{label}"?', (str(right),), wrong, f"{COUNT} {label}")


def _top_three(labels: Sequence[str], draw: np.random.Generator, every: Sequence[str]) -> _Made | None:
    """The wrong answers have one or two of the right labels."""
    ranked = Counter(labels).most_common()
    if len(ranked) < 3 or (len(ranked) > 3 and ranked[2][1] == ranked[3][1]):
        return None
    right = tuple(sorted(label for label, _ in ranked[:3]))
    others = sorted(set(every) - set(right))
    found: dict[_Parts, None] = {}
    for _ in range(64):
        kept = draw.permutation(right)[: int(draw.integers(1, 3))].tolist()
        more = draw.permutation(others)[: 3 - len(kept)].tolist()
        if len(kept) + len(more) == 3 and len(found) < OPTIONS - 1:
            found.setdefault(tuple(sorted([*kept, *more])))
    return _Made("which three labels are the commonest?", right, tuple(found))


def _drift(labels: Sequence[str], draw: np.random.Generator, every: Sequence[str]) -> _Made | None:
    """One of the wrong answers is the right one the other way round, where that is another."""
    third = len(labels) // 3
    first, last = _commonest(labels[:third]), _commonest(labels[-third:])
    if not first or not last:
        return None
    drawn = [(str(a), str(b)) for a, b in draw.choice(every, size=(64, 2))]
    wrong = [pair for pair in dict.fromkeys([(last, first), *drawn]) if pair != (first, last)][: OPTIONS - 1]
    return _Made("which label is the commonest among the first third, and which among the last?", (first, last), wrong)


def _several(labels: Sequence[str], draw: np.random.Generator, every: Sequence[str]) -> _Made | None:
    """The wrong answers have some of the right facts, or none."""
    facts = {f"number {place} from the newest": labels[-place] for place in range(2, _FURTHEST + 1)}
    facts["the newest one"] = labels[-1]
    facts[f"the last {_RECENT} most often"] = _commonest(labels[-_RECENT:])
    known = sorted(words for words, label in facts.items() if label)
    if any(_FACTS_BETWEEN in label for label in every):
        return None
    asked = [known[place] for place in draw.permutation(len(known))[: int(draw.integers(2, 5))]]
    right = tuple(facts[words] for words in asked)
    wrong: dict[_Parts, None] = {}
    for _ in range(64):
        changed = set(draw.permutation(len(right))[: int(draw.integers(1, len(right) + 1))].tolist())
        drawn = draw.choice(every, size=len(right)).tolist()
        parts = tuple(drawn[place] if place in changed else label for place, label in enumerate(right))
        if parts != right and len(wrong) < OPTIONS - 1:
            wrong.setdefault(parts)
    words = _FACTS_BETWEEN.join(asked)
    return _Made(f"which labels have, in this order: {words}?", right, tuple(wrong), f"{SEVERAL} {words}")


def _other_labels(right: str, own: Sequence[str], draw: np.random.Generator, every: Sequence[str]) -> list[_Parts]:
    """Three other labels, two of them the user's own where there are any, so that knowing all of them is not enough."""
    mine = draw.permutation(sorted(set(own) - {right})).tolist()[:2]
    others = draw.permutation(sorted(set(every) - {right, *mine})).tolist()
    return [(each,) for each in [*mine, *others][: OPTIONS - 1]]


def _text(kind: str, parts: _Parts) -> str:
    """An option in words."""
    if kind == SEVERAL:
        return _FACTS_BETWEEN.join(parts)
    return f"from {parts[0]} to {parts[1]}" if kind == DRIFT else ", ".join(parts)


def _commonest(labels: Sequence[str]) -> str:
    """The commonest label; empty where two are."""
    (label, most), *others = Counter(labels).most_common(2)
    return "" if others and others[0][1] == most else label


def _users(probes: Probes) -> set[str]:
    return {each.user_id for each in probes.questions}


def _labels(profile: Profile) -> list[str]:
    return [each.target.strip() for each in profile if each.target and each.target.strip()]


def _profiles(path: str | PathLike[str], format: str) -> list[Profile]:
    records: dict[str, list[Record]] = defaultdict(list)
    for user_id, record in read_records(path, format=format):
        records[user_id].append(record)
    return [Profile.from_records(user_id, some) for user_id, some in records.items()]


def _begins(answers: Sequence[Answer]) -> Array:
    return np.array([[each.prediction.startswith(each.gold)] for each in answers], dtype=np.float64)
