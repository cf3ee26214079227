"""How good a judge is: what it says of answers that are known to be right, and of vague ones that are wrong.

The right ones are golds in their own words, the wrong ones say nothing that could be wrong: "It had to do with the
garden, as far as I remember." A judge that passes those would pass a method that has learned to be vague. Each is asked
with every prompt, and in two runs, the second in the other order.

>>> vague_answer("When did she plant the apricot tree?", 1)
'It had to do with the apricot, plant, tree, as far as I remember.'
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.judging.judge import LLMJudge, Verdict
from persona.eval.judging.prompts import PROMPTS, JudgedItem
from persona.eval.judging.rates import Rates
from persona.eval.report import table, write_results
from persona.protocols import LanguageModel
from persona.version import __version__

if TYPE_CHECKING:
    from rich.table import Table

RUNS = 2
PASS = 0.75
"""A verdict of at least this passes: a yes, or a score in the upper quarter."""

_VAGUE = (
    "Yes, that came up at some point, and there was more than one side to it.",
    "It had to do with the {topic}, as far as I remember.",
    "There are several ways to look at this. It depends on the situation, and on what matters most to you.",
    "As was said before, the {topic} played a part in it, among other things.",
)
_WORD = re.compile(r"[^\W\d_]{4,}")
_ASKING = frozenset(
    _WORD.findall("what when where which whose would could should does have with that this they them your from")
)


@dataclass(frozen=True, slots=True)
class KnownItems:
    """Answers of which it is known what a judge should say.

    Attributes:
        right: those that it should pass.
        wrong: those that it should fail.
    """

    right: tuple[JudgedItem, ...]
    wrong: tuple[JudgedItem, ...]

    @classmethod
    def of_right(cls, right: Sequence[JudgedItem]) -> KnownItems:
        """Of items with right answers: these, and a vague answer to each question."""
        vague = (replace(item, answer=vague_answer(item.question, number)) for number, item in enumerate(right))
        return cls(tuple(right), tuple(vague))

    @classmethod
    def of_golds(cls, items: Sequence[JudgedItem]) -> KnownItems:
        """Of items with a gold, which is the right answer."""
        return cls.of_right([replace(item, answer=item.gold) for item in items if item.gold.strip()])


@runtime_checkable
class Checkable(Protocol):
    """A benchmark that a judge can be checked on."""

    name: str

    def known_items(self) -> KnownItems:
        """Answers of which it is known what a judge should say."""
        ...


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How a judge is checked.

    Attributes:
        prompts: names of `persona.eval.judging.prompts.PROMPTS`.
        limit: only the first right and the first wrong answers.
        tries: how often at most one answer is asked about.
        max_new_tokens: longest reply.

    Raises:
        InvalidOptionError: if there is no prompt.
    """

    prompts: tuple[str, ...] = tuple(PROMPTS)
    limit: int | None = None
    tries: int = 3
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InvalidOptionError("there must be at least one prompt to check, was given none")

    def judge(self, llm: LanguageModel, prompt: str, run: int, out: Path | None) -> LLMJudge:
        """A judge for one of the runs, which knows nothing of the others."""
        path = out and out / f"replies-{run + 1}.jsonl"
        return LLMJudge(llm, prompt, path=path, tries=self.tries, max_new_tokens=self.max_new_tokens)


@dataclass(frozen=True, slots=True)
class CheckedPrompt:
    """What a judge said with one prompt.

    Attributes:
        prompt: its name.
        rates: how often it was wrong, in the first run.
        undecided: the share of all items that it gave no verdict on.
        between_runs: the share of items that both runs say the same of.
    """

    prompt: str
    rates: Rates
    undecided: float
    between_runs: float


@dataclass(frozen=True, slots=True)
class JudgeCheck:
    """How good a judge is.

    Attributes:
        judge: fingerprint of the LLM.
        benchmark: whose answers it judged.
        prompts: what came of each prompt.
        between_prompts: the share of items that two prompts say the same of, by both names.
    """

    judge: str
    benchmark: str
    prompts: tuple[CheckedPrompt, ...]
    between_prompts: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Itself, ready for JSON; `Rates.read` finds the rates in it."""
        rates = {each.prompt: asdict(each.rates) for each in self.prompts}
        prompts = {each.prompt: {"a": each.rates.a, "r": each.rates.r, **asdict(each)} for each in self.prompts}
        about = {"persona": __version__, "judge": self.judge, "benchmark": self.benchmark, "rates": rates}
        return {**about, "prompts": prompts, "between_prompts": dict(self.between_prompts)}

    def table(self) -> Table:
        """Itself as a `rich` table."""
        header = ["prompt", "vague passed (a)", "golds failed (r)", "undecided", "same in both runs"]
        rows = [
            [
                each.prompt,
                f"{each.rates.a:.3f} ({each.rates.passed} of {each.rates.wrong})",
                f"{each.rates.r:.3f} ({each.rates.failed} of {each.rates.golds})",
                f"{each.undecided:.3f}",
                f"{each.between_runs:.3f}",
            ]
            for each in self.prompts
        ]
        same = "; ".join(f"{names}: {share:.3f}" for names, share in self.between_prompts.items())
        caption = f"judged the same by two prompts: {same}" if same else None
        return table([header, *rows], title=f"{self.judge} as a judge of {self.benchmark}", caption=caption)


def vague_answer(question: str, number: int) -> str:
    """An answer that names the question's own words and says nothing; `number` chooses its form."""
    words = sorted({word.lower() for word in _WORD.findall(question)} - _ASKING, key=lambda word: (-len(word), word))
    return _VAGUE[number % len(_VAGUE)].format(topic=", ".join(words[:3]) or "matter")


def check_judge(
    benchmark: Checkable, llm: LanguageModel, options: CheckOptions | None = None, *, out: Path | None = None
) -> JudgeCheck:
    """Ask a judge about answers of which it is known what it should say.

    Args:
        benchmark: has the answers.
        llm: the judge.
        options: how; None takes the defaults.
        out: folder for the replies, from which a stopped check goes on, and ``results.json``; None keeps nothing.

    Raises:
        InvalidOptionError: if there is no prompt of that name.
        EvaluationError: if the benchmark has no such answers.
        GenerationError: if the LLM answers no request at all.
    """
    options = options or CheckOptions()
    known = benchmark.known_items()
    right, wrong = known.right[: options.limit], known.wrong[: options.limit]
    if not right or not wrong:
        raise EvaluationError(f"{benchmark.name} has no answers of which it is known what a judge should say")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    items = [*right, *wrong]
    said = {
        prompt: [_run(options.judge(llm, prompt, run, out), items, run) for run in range(RUNS)]
        for prompt in options.prompts
    }
    checked = tuple(_checked(prompt, runs, len(right)) for prompt, runs in said.items())
    pairs = {f"{a}, {b}": _agreement(said[a][0], said[b][0]) for a, b in combinations(said, 2)}
    done = JudgeCheck(llm.fingerprint, benchmark.name, checked, pairs)
    if out is not None:
        write_results(out, done.as_dict())
    return done


def _run(judge: LLMJudge, items: Sequence[JudgedItem], run: int) -> list[Verdict]:
    """One run's verdicts, in the order of `items`; every second run asks in the other order."""
    step = -1 if run % 2 else 1
    return judge.verdicts(items[::step])[::step]


def _checked(prompt: str, runs: Sequence[Sequence[Verdict]], right: int) -> CheckedPrompt:
    passes = [_passes(each) for each in runs[0]]
    rates = Rates(sum(passes[right:]), len(passes) - right, right - sum(passes[:right]), right)
    every = [each for run in runs for each in run]
    return CheckedPrompt(
        prompt, rates, sum(each.value is None for each in every) / len(every), _agreement(runs[0], runs[1])
    )


def _passes(verdict: Verdict) -> bool:
    return verdict.value is not None and verdict.value >= PASS


def _agreement(a: Sequence[Verdict], b: Sequence[Verdict]) -> float:
    return sum(x.value == y.value for x, y in zip(a, b, strict=True)) / len(a)
