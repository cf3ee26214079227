"""What an evaluation found: rows with scores and differences, as JSON, as a table or as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona.eval.answers import CONTEXT_CUT, OUTCOMES, THINKING
from persona.eval.bootstrap import Interval, PairedDifference
from persona.eval.methods import row_name
from persona.eval.metrics import Samples
from persona.eval.results.environment import environment
from persona.files import write_atomically
from persona.version import __version__

if TYPE_CHECKING:
    from rich.table import Table


OFFICIAL = "official "
"""Begins the name of a measure as its authors publish it, defects and all."""

_KINDS_WITH_INTERVALS = 7

GENERATED = "generate"
"""The way to answer in the LLM's own words; a table says which it was where there are others."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way to answer all questions, scored: a method, a control of it, or a baseline without an LLM.

    Attributes:
        method: the method's name.
        k: records asked for; 0 where there are none.
        control: the control's name; None for methods and baselines.
        scores: metric name -> value with its interval; empty where there are no golds.
        difference: first metric, this row minus the method that sends the question alone, paired over users; None for
            that method itself.
        gain: first metric, this row minus the same trained without the user (`Method.without_user`), paired over users;
            None where there is none.
        to_other_user: first metric, this row minus the same with another user's history, paired over users; None where
            that was not run. What another user's history does as well is the task's, not the user's.
        tokens_added: mean tokens that personalization added to a prompt.
        runs: question id -> answer; one for each seed of what was trained, else one.
        parts: what decided the answers (`Method.parts`).
        way: `Method.way`.
        answered: how answers were made, and the calibration of each run where there was one, e.g. ``"likelihood,
            prior"``; empty for baselines.
        outcomes: how many answers were made in each way, and how many requests failed, answers were cut, refused or
            empty (`persona.eval.answers.outcomes`); empty for baselines.
        kinds: first metric by the kind of questions; empty where there is one kind.
        evidence: share of the records that answers need which stood in the request, over the questions that name some;
            None where none does, or no records are given.
        corrected: p-value of `difference`, by Holm's correction for all methods; None where there is one.
        prompts: hash of the requests; empty for baselines.
        milliseconds: mean time of a question, what is made once for all included; None where it was not measured.
        kept: the share of another row's score that this one has, for errors the other way round; None where nothing is
            to be kept, or that score is 0.
        samples: what each metric recorded of each question.
    """

    method: str
    k: int
    control: str | None
    scores: Mapping[str, Interval]
    difference: PairedDifference | None = None
    gain: PairedDifference | None = None
    to_other_user: PairedDifference | None = None
    tokens_added: float = 0.0
    runs: tuple[Mapping[str, str], ...] = field(default=(), repr=False)
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    way: str = ""
    answered: str = ""
    outcomes: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, Interval] = field(default_factory=dict)
    evidence: Interval | None = None
    corrected: float | None = None
    prompts: str = ""
    milliseconds: float | None = None
    kept: float | None = None
    samples: Samples = field(default_factory=dict, repr=False, compare=False)

    @property
    def predictions(self) -> Mapping[str, str]:
        """Question id -> answer, of the first seed."""
        return self.runs[0]

    @property
    def name(self) -> str:
        """A name for tables and files, e.g. ``"bm25 k=4, other user"``."""
        return row_name(self.method, self.k, self.way, self.control)

    @property
    def file_names(self) -> tuple[str, ...]:
        """A file's name for the answers of each run."""
        name = re.sub(r"[^\w.-]", "", self.name.replace(" ", "_").replace("+", "plus").replace("/", "-"))
        if len(self.runs) == 1:
            return (f"{name}.json",)
        return tuple(f"{name}_run{number}.json" for number in range(1, len(self.runs) + 1))

    def as_dict(self) -> dict[str, Any]:
        """Everything but the answers, ready for JSON."""
        content = asdict(replace(self, runs=(), samples={}))
        for name in ("runs", "samples", "way"):
            del content[name]
        corrected = content.pop("corrected")
        return {"name": self.name, **content, "p_holm": corrected, "seeds": len(self.runs)}


@dataclass(frozen=True, slots=True)
class Failure:
    """A question that was not answered.

    Attributes:
        row: name of the row.
        question: the question's id.
        reason: what the LLM raised.
    """

    row: str
    question: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found.

    Attributes:
        benchmark: its name.
        questions: how many were asked.
        users: how many users they belong to.
        llm: fingerprint of the LLM, of all of them if there are several.
        config: what was run, as the caller says it.
        rows: methods, each with its controls, then baselines.
        data: hash of questions, profiles and golds: two reports with the same one are of the same data.
        failures: the questions that were not answered; the next run asks for them alone.
        left_out: how many questions no row is scored on, since one row has no answer to them
            (`EvaluationOptions.failures`).
        ids: the questions that are scored, in the order of `Row.samples`; once more for each further seed.
        groups: by the same order whose they are.
        licence, commercial, defects: those of the benchmark.
    """

    benchmark: str
    questions: int
    users: int
    llm: str
    config: Mapping[str, Any]
    rows: tuple[Row, ...]
    data: str
    failures: tuple[Failure, ...] = ()
    left_out: int = 0
    ids: tuple[str, ...] = field(default=(), repr=False)
    groups: tuple[str, ...] = field(default=(), repr=False)
    licence: str = ""
    commercial: bool = True
    defects: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Row:
        """The row of that name, e.g. ``report["bm25 k=4, other user"]``.

        Raises:
            KeyError: if there is none.
        """
        return {row.name: row for row in self.rows}[name]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the answers, ready for JSON."""
        names = ("benchmark", "questions", "users", "data", "llm", "config", "left_out", "licence", "commercial")
        content = {name: getattr(self, name) for name in names} | {"defects": dict(self.defects)}
        failures = [asdict(each) for each in self.failures]
        made = {"persona": __version__, "environment": environment()}
        return {**made, **content, "failures": failures, "rows": [row.as_dict() for row in self.rows]}

    @property
    def notes(self) -> list[str]:
        """What has to be said below the table: the licence, and what is wrong with official measures that differ."""
        said = [f"data: {self.licence}" + ("" if self.commercial else "; no commercial use")] if self.licence else []
        return said + [f"{name}: {why}" for name, why in self.defects.items() if name in self._metrics]

    @property
    def _metrics(self) -> list[str]:
        """The metrics, official ones only where they differ from the corrected ones."""

        def differs(name: str) -> bool:
            plain = name.removeprefix(OFFICIAL)
            return plain == name or any(
                plain not in row.scores or row.scores[plain].value != row.scores[name].value for row in self.rows
            )

        return [name for name in self.rows[0].scores if differs(name)]

    def by_kind(self) -> list[list[str]]:
        """The first metric of each row by the kind of questions, header and rows as strings; empty for one kind.

        Of many kinds the values alone, so that a table stays readable.
        """
        kinds = list(self.rows[0].kinds)
        cell = interval_cell if len(kinds) <= _KINDS_WITH_INTERVALS else value_cell
        rows = [[row.name, *(cell(row.kinds[kind]) for kind in kinds)] for row in self.rows]
        return [[self._metrics[0], *kinds], *rows] if kinds else []

    def markdown(self) -> str:
        """The report as a Markdown table."""
        return markdown(self.cells())

    def table(self, title: str) -> Table:
        """The report as a `rich` table; metrics with 95 % bootstrap intervals over users."""
        return table(
            self.cells(),
            title=f"{title}: {self.benchmark}, {self.questions} questions of {self.users} users",
            caption="intervals: 95 %, bootstrap over users; difference, paired: to "
            + ("`none`" if self.llm else "the first row; no LLM was asked")
            + (f"; {self.left_out} questions left out, which a row has no answer to" if self.left_out else ""),
        )

    def cells(self) -> list[list[str]]:
        """Header and rows as strings."""
        metrics = self._metrics
        differences = {
            f"difference in {metrics[0] if metrics else ''}": [row.difference for row in self.rows],
            "to trained without user / task adapter": [row.gain for row in self.rows],
            "to another user's": [row.to_other_user for row in self.rows],
        }
        columns = {"method": [row.name for row in self.rows]}
        columns |= {metric: [interval_cell(row.scores[metric]) for row in self.rows] for metric in metrics}
        columns |= {name: list(map(difference_cell, some)) for name, some in differences.items() if any(some)}
        if any(row.corrected is not None for row in self.rows):
            columns["p (Holm)"] = ["-" if row.corrected is None else f"{row.corrected:.3f}" for row in self.rows]
        if any(row.kept is not None for row in self.rows):
            columns["kept"] = ["-" if row.kept is None else f"{row.kept:.1%}" for row in self.rows]
        if any(row.evidence for row in self.rows):
            columns["evidence"] = ["-" if row.evidence is None else interval_cell(row.evidence) for row in self.rows]
        if any(row.answered not in ("", GENERATED) for row in self.rows):
            columns["answered"] = [row.answered or "-" for row in self.rows]
        if wrong := outcome_cells([row.outcomes for row in self.rows]):
            columns["of the answers"] = wrong
        if self.llm:
            columns["tokens added"] = [f"{row.tokens_added:.0f}" for row in self.rows]
        if any(row.milliseconds is not None for row in self.rows):
            columns["ms a question"] = [f"{row.milliseconds or 0:.1f}" for row in self.rows]
        return [list(columns), *map(list, zip(*columns.values(), strict=True))]


def outcome_cells(rows: Sequence[Mapping[str, int]]) -> list[str]:
    """What was wrong with each row's answers, e.g. ``"2 cut, 1 refused"``; nothing at all if nothing was."""
    wrong = [{name: row[name] for name in (*OUTCOMES, THINKING, CONTEXT_CUT) if row.get(name)} for row in rows]
    return [", ".join(f"{n} {name}" for name, n in each.items()) or "-" for each in wrong] if any(wrong) else []


def value_cell(interval: Interval) -> str:
    """The value alone."""
    return f"{interval.value:.3f}"


def interval_cell(interval: Interval) -> str:
    """An interval as a table shows it."""
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def difference_cell(difference: PairedDifference | None) -> str:
    """A difference with its interval as a table shows it; ``"-"`` for none."""
    if difference is None:
        return "-"
    return f"{difference.difference:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Header and rows as a Markdown table."""
    rule = ["---", *["---:"] * (len(cells[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])) + "\n"


def table(cells: Sequence[Sequence[str]], *, title: str, caption: str | None = None) -> Table:
    """Header and rows as a `rich` table."""
    from rich.table import Table

    made = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for number, name in enumerate(cells[0]):
        made.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in cells[1:]:
        made.add_row(*row)
    return made


def write_results(folder: Path, content: Mapping[str, Any], name: str = "results.json") -> None:
    """Write results into a folder, the whole file or nothing."""
    write_atomically(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
