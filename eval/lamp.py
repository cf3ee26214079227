"""What `persona eval lamp` runs: the methods that persona knows by name, on a LaMP task, in LaMP's own words.

>>> options = LampOptions(methods=("none", "bm25-lamp", "stats"), ks=(1, 4))
>>> evaluate_lamp(LampBenchmark.read("LaMP_3"), load_llm("tiny", overlong="truncate"), options)  # doctest: +SKIP

=======================================================  ===============================================================
``none``                                                 the question alone
a retriever of `persona.retrievers.registry.RETRIEVERS`  the k records that it finds
``user-embedder``                                        a user embedder's soft prompt
``stats``, ``summary``, ``stats+summary``                a summary: exact statistics, what an LLM wrote, both
``steering``                                             a steering vector of the profile (`persona.steering`)
``lora``, ``lora+task``, ``neighbours``, ``routed``,     an adapter of the profile (`persona.adapters.from_profiles`)
``one-pass``
=======================================================  ===============================================================

All but the first two run alone and beside each number of records: ``user-embedder + bm25-lamp k=1``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

from persona.errors import InvalidOptionError
from persona.eval.benchmarks.general_questions import GENERAL_QUESTIONS, GeneralQuestion
from persona.eval.benchmarks.lamp import LampBenchmark
from persona.eval.benchmarks.lamp_methods import NamedMethods
from persona.eval.benchmarks.restraint import evaluate_restraint
from persona.eval.controls import Control, EmptyHistory, OtherUser, TrainedWithoutUser
from persona.eval.options import ADAPTERS, LampOptions
from persona.eval.report import Report, write_results
from persona.eval.run import Progress, evaluate, working_folder
from persona.llm.counting import Cost, counting_llm
from persona.llm.load import load_llm
from persona.protocols import LanguageModel


def evaluate_lamp(
    benchmark: LampBenchmark,
    llm: LanguageModel,
    options: LampOptions | None = None,
    *,
    out: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """Run methods by name on a LaMP task, beside their controls and the baselines that need no LLM.

    Args:
        benchmark: the questions.
        llm: the frozen LLM.
        options: what to run; None takes the defaults.
        out: folder for answers, summaries, vectors and adapters (a run that was stopped goes on), predictions in the
            official form and ``results.json``; None keeps nothing.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        InvalidOptionError: if the methods do not fit the task.
        UnsupportedChannelError: if the LLM cannot take what a method brings.
        PersonaError: as `evaluate`.
    """
    options = options or LampOptions()
    controls: list[Control] = [TrainedWithoutUser()]
    if options.controls:
        controls.insert(0, OtherUser(options.seed))
        if options.user_vectors is None:  # a file has a vector for every user, whatever the history
            controls.insert(1, EmptyHistory())
    with ExitStack() as stack:
        folder = working_folder(out, stack)
        named = NamedMethods(benchmark, llm, options, folder, stack, progress)
        report = evaluate(benchmark, named.made(), controls, options=options, out=out, progress=progress)
        if named.failures:
            report = replace(report, failures=(*named.failures, *report.failures))
            if out is not None:
                write_results(out, report.as_dict())
        return report


def lamp_cost(
    benchmark: LampBenchmark, llm: LanguageModel, options: LampOptions | None = None, *, out: Path | None = None
) -> Cost:
    """What `evaluate_lamp` would ask of the LLM, without asking it; arguments as there.

    Answers and summaries that lie in `out` are not asked for again. Answers by likelihood count a prompt for each
    choice. The summaries that are still to be written are counted as if each were as long as it may be.

    Raises:
        InvalidOptionError: if something would have to be trained first.
    """
    options = options or LampOptions()
    if trained := [method for method in options.methods if method in ADAPTERS]:
        raise InvalidOptionError(
            f"a dry run trains nothing, and {trained[0]!r} trains an adapter for each profile: leave it out"
        )
    counting = counting_llm(llm)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("answers.jsonl", "summaries.jsonl"):
            if out is not None and (out / name).exists():
                shutil.copy(out / name, folder)
        summary_llm = options.summary_llm
        asked = [counting]
        if summary_llm is not None:
            asked.append(counting_llm(load_llm(summary_llm) if isinstance(summary_llm, str) else summary_llm))
            summary_llm = asked[-1]
        evaluate_lamp(benchmark, counting, replace(options, resamples=1, summary_llm=summary_llm), out=Path(folder))
    costs = [each.cost for each in asked]
    return Cost(*(sum(getattr(each, field.name) for each in costs) for field in fields(Cost)))


def evaluate_lamp_restraint(
    benchmark: LampBenchmark,
    llm: LanguageModel,
    options: LampOptions,
    filters: Sequence[str | Path] = (),
    general: Sequence[GeneralQuestion] = GENERAL_QUESTIONS,
    *,
    out: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """`evaluate_restraint` of methods by name, each as it is and with each relevance filter over its retriever.

    Args:
        benchmark: the questions of the users.
        llm: the frozen LLM.
        options: methods and numbers of records; the first method's score is what the others are to keep.
        filters: what `persona.retrievers.relevance.filters.load_filter` takes.
        general: the questions that need no personalization.
        out: folder for answers (a run that was stopped goes on) and ``results.json``; None keeps nothing.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        PersonaError: as `evaluate_restraint`, or if a method or filter cannot be made.
    """
    from persona.retrievers.relevance.filters import RelevanceFilter

    plain = replace(options.retrieval, relevance=None, judge="question")
    variants = {"": plain} | {
        f" + {'filter' if len(filters) == 1 else name}": replace(options.retrieval, relevance=name) for name in filters
    }
    with ExitStack() as stack:
        folder = working_folder(out, stack)
        made = {
            suffix: NamedMethods(benchmark, llm, replace(options, retrieval=each), folder, stack, progress)
            for suffix, each in variants.items()
        }
        methods = {
            f"{method.name}{suffix}" + (f" k={method.k}" if len(options.ks) > 1 else ""): method.personalizers[0]
            for alike in zip(*(each.made() for each in made.values()), strict=True)
            for suffix, method in zip(made, alike, strict=True)
        }
        loaded = [
            each.retrieval.relevance for each in made.values() if isinstance(each.retrieval.relevance, RelevanceFilter)
        ]
        names = {str(name): [each.fingerprint, each.threshold] for name, each in zip(filters, loaded, strict=True)}
        return evaluate_restraint(
            benchmark, methods, general, options=options, out=out, config={"filters": names}, progress=progress
        )
