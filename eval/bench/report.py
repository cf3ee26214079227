"""What the bench found: one row an idea, with what it is worth and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from persona.eval.bench.ideas import BenchOptions, Idea
from persona.eval.benchmark import Benchmark
from persona.eval.bootstrap import PairedDifference, holm
from persona.eval.methods import row_name
from persona.eval.report import Report, Row, difference_cell, interval_cell, markdown, table
from persona.eval.results.scoring import compared

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Cost:
    """What a user embedder costs.

    Attributes:
        parameters: that are trained.
        stored: bytes of a user, in a store: the state's codes or numbers, or the soft prompt in float16.
        milliseconds: to make one user's soft prompt from stored vectors, many users together.
        seconds: of the training with the user, of the first seed.
    """

    parameters: int
    stored: int
    milliseconds: float
    seconds: float

    def cells(self) -> list[str]:
        """The numbers as strings."""
        return [f"{self.parameters:,}", f"{self.stored:,}", f"{self.milliseconds:.2f}", f"{self.seconds:.0f}"]


@dataclass(frozen=True, slots=True)
class BenchRow:
    """An idea, scored.

    Attributes:
        name: the idea's.
        source: where it is from.
        row: its score and its differences to its controls.
        to_baseline: first metric, this idea minus the baseline, paired over users; None for the baseline itself.
        corrected: p-value of that, by Holm's correction for all ideas.
        cost: None where nothing is trained.
    """

    name: str
    source: str
    row: Row
    to_baseline: PairedDifference | None
    corrected: float | None
    cost: Cost | None


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All ideas of a bench.

    Attributes:
        report: scores and answers of all rows, controls among them.
        metric: what is compared.
        baseline: the idea that the others are compared with.
        rows: the ideas, in the order in which they were given.
    """

    report: Report
    metric: str
    baseline: str
    rows: tuple[BenchRow, ...]

    @classmethod
    def of(
        cls,
        report: Report,
        benchmark: Benchmark,
        ideas: Sequence[Idea],
        costs: Mapping[str, Cost],
        options: BenchOptions,
    ) -> BenchReport:
        """Compare the rows of ideas with that of the baseline."""
        metric, rows = benchmark.metrics[0], {each.name: each for each in report.rows if each.control is None}
        named = {idea.name: idea for idea in ideas}
        own = {
            name: rows[row_name(name, 0 if each.trained else each.options.k, "", None)] for name, each in named.items()
        }
        baseline = options.baseline if options.baseline in own else ideas[0].name
        differences = {
            name: compared(metric, report.groups, row.samples, own[baseline].samples, options.evaluation)
            for name, row in own.items()
            if name != baseline
        }
        values = holm([each.p_value for each in differences.values()])
        corrected = dict(zip(differences, values, strict=True))
        made = (
            BenchRow(name, each.options.source, own[name], differences.get(name), corrected.get(name), costs.get(name))
            for name, each in named.items()
        )
        return cls(report, metric.name, baseline, tuple(made))

    def as_dict(self) -> dict[str, Any]:
        """Everything but the answers, ready for JSON."""
        ideas = [
            {
                "name": each.name,
                "source": each.source,
                "difference_to_baseline": each.to_baseline and asdict(each.to_baseline),
                "p_holm": each.corrected,
                "cost": each.cost and asdict(each.cost),
            }
            for each in self.rows
        ]
        return {**self.report.as_dict(), "baseline": self.baseline, "ideas": ideas}

    def cells(self) -> list[list[str]]:
        """Header and rows as strings."""
        header = [
            "idea",
            self.metric,
            f"to {self.baseline}",
            "p (Holm)",
            "to trained without user",
            "to another user's",
        ]
        none = next(row for row in self.report.rows if not row.control and row.difference is None)
        cells = [["none", interval_cell(none.scores[self.metric]), *["-"] * 8]]
        for each in self.rows:
            row, p_value = each.row, "-" if each.corrected is None else f"{each.corrected:.3f}"
            differences = [
                difference_cell(each.to_baseline),
                p_value,
                *map(difference_cell, (row.gain, row.to_other_user)),
            ]
            cost = ["-"] * 4 if each.cost is None else each.cost.cells()
            cells.append([each.name, interval_cell(row.scores[self.metric]), *differences, *cost])
        return [[*header, "parameters", "bytes a user", "ms a user", "s of training"], *cells]

    def markdown(self) -> str:
        """The report as a Markdown table."""
        return markdown(self.cells())

    def table(self, title: str) -> Table:
        """The report as a `rich` table."""
        report = self.report
        return table(
            self.cells(),
            title=f"{title}: {report.benchmark}, {report.questions} questions of {report.users} users",
            caption="intervals: 95 %, bootstrap over users, paired; p: by Holm's correction for all ideas",
        )
