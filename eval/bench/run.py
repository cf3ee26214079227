"""Running the bench: train each idea with the user and without, then ask the same questions of all.

::

    bench = Bench(Path("ratings"), load_llm("tiny"), load_encoder("hashing"), BenchOptions(seeds=(0, 1, 2)))
    peers = Idea("peers", shape=UserEmbedderShape(pooling="heads + difference"))
    print(bench.run([Idea("default"), peers], out).markdown())
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from persona.encoders.embedding import embed_users
from persona.errors import InvalidOptionError
from persona.eval.bench.ideas import BenchOptions, Idea
from persona.eval.bench.report import BenchReport, Cost
from persona.eval.benchmarks.lamp import LampBenchmark
from persona.eval.benchmarks.lamp_methods import NamedMethods
from persona.eval.controls import WITHOUT_USER, OtherUser, TrainedWithoutUser, WithoutHistory
from persona.eval.methods import Method
from persona.eval.options import NONE, LampOptions
from persona.eval.report import write_results
from persona.eval.run import evaluate
from persona.files import write_atomically
from persona.lamp.tasks import LampSplit
from persona.llm.transformers import TransformersLM
from persona.protocols import RecordEncoder
from persona.readers import read_split
from persona.retrievers import LampBM25Retriever
from persona.soft_prompts.channel import SoftPromptChannel, soft_prompts
from persona.soft_prompts.embedder import UserEmbedder, load_user_embedder
from persona.soft_prompts.histories import HistoryReader, history_views
from persona.soft_prompts.training.loop import TrainingProgress
from persona.soft_prompts.training.options import UserEmbedderShape, UserEmbedderTraining
from persona.soft_prompts.training.user_embedder import NOTES, new_user_embedder, train_user_embedder
from persona.store.profile_store import ProfileStore

Progress = Callable[[str, int, int], object]

_FLOAT16 = 2
_TIMED_USERS = 64


class Bench:
    """Ideas on one LaMP task.

    Args:
        data: a folder with ``train`` questions and golds, and those of the split that is reported.
        llm: the frozen LLM.
        encoder: the record encoder.
        options: on what ideas are compared.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        PersonaError: if the files cannot be read.
    """

    def __init__(
        self,
        data: Path,
        llm: TransformersLM,
        encoder: RecordEncoder,
        options: BenchOptions | None = None,
        progress: Progress = lambda stage, done, total: None,
    ) -> None:
        self.llm, self.encoder, self.options, self._progress = llm, encoder, options or BenchOptions(), progress
        self._without_user: dict[tuple[UserEmbedderShape, UserEmbedderTraining], UserEmbedder] = {}
        self._training = _first_users(read_split(data, "train"), self.options.users)
        self._benchmark = LampBenchmark(_newest(read_split(data, self.options.split), self.options.records), None)

    def run(self, ideas: Sequence[Idea], out: Path) -> BenchReport:
        """Train and score ideas.

        Args:
            ideas: what is compared, each with a name of its own.
            out: folder for user embedders, answers and ``results.json``; a run that was stopped goes on from there.

        Raises:
            InvalidOptionError: if two ideas have one name.
            PersonaError: as `train_user_embedder` and `evaluate`.
        """
        named = [idea.name for idea in ideas]
        if len(set(named)) < len(named):
            raise InvalidOptionError(f"each idea needs a name of its own, were: {', '.join(named)}")
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            store = stack.enter_context(ProfileStore(f"sqlite:///{out / 'bench.db'}"))
            methods, costs = [self._none(out, stack)], {}
            for number, idea in enumerate(ideas):
                self._progress("ideas", number, len(ideas))
                if not idea.trained:
                    methods.append(self._retrieving(idea, out, stack))
                    continue
                embedders = [self._trained(idea, seed, out, store, without_user=False) for seed in self.options.seeds]
                without = [self._without(idea, seed, out, store) for seed in self.options.seeds]
                methods.append(self._method(idea, embedders, without, out, stack, store))
                costs[idea.name] = self._cost(embedders[0], out / idea.name)
            self._progress("ideas", len(ideas), len(ideas))
            report = evaluate(
                self._benchmark,
                methods,
                [OtherUser(0), TrainedWithoutUser()],
                options=self.options.evaluation,
                out=out,
                progress=self._progress,
            )
        made = BenchReport.of(report, self._benchmark, ideas, costs, self.options)
        write_results(out, made.as_dict())
        write_atomically(out / "bench.md", made.markdown())
        return made

    def _named(self, options: LampOptions, folder: Path, stack: ExitStack) -> NamedMethods:
        folder.mkdir(parents=True, exist_ok=True)
        return NamedMethods(self._benchmark, self.llm, options, folder, stack, self._progress)

    def _none(self, out: Path, stack: ExitStack) -> Method:
        (none,) = self._named(LampOptions(methods=(NONE,)), out / NONE, stack).made()
        return none

    def _retrieving(self, idea: Idea, out: Path, stack: ExitStack) -> Method:
        name, k = idea.options.method, idea.options.k
        options = LampOptions(methods=(name,), ks=(k,), encoder=self.encoder, limit=self.options.limit)
        (method,) = self._named(options, out / idea.name, stack).made()
        return replace(method, name=idea.name)

    def _without(self, idea: Idea, seed: int, out: Path, store: ProfileStore) -> UserEmbedder:
        """The same trained without the user; ideas that differ in their objectives alone share it."""
        key = idea.shape, replace(idea.training, objectives="", seed=seed)
        if key not in self._without_user:
            plain = replace(idea, training=replace(idea.training, objectives=""))
            self._without_user[key] = self._trained(plain, seed, out, store, without_user=True)
        return self._without_user[key]

    def _trained(self, idea: Idea, seed: int, out: Path, store: ProfileStore, *, without_user: bool) -> UserEmbedder:
        """The user embedder of an idea, made now or by a run before."""
        folder = out / idea.name / f"{'without-' if without_user else ''}{seed}"
        training = replace(idea.training, seed=seed, without_user=without_user)
        embedder = new_user_embedder(self.llm, self._training, self.encoder, idea.shape, seed=seed)
        if (folder / "model.safetensors").is_file():
            return _kept(folder, embedder, training)
        self._embed(embedder, store)

        def advance(now: TrainingProgress) -> None:
            self._progress(f"{folder.relative_to(out)} {now.stage}", now.done, now.total)

        train_user_embedder(
            embedder,
            self._training,
            self.llm,
            HistoryReader(embedder.config, self.encoder, store),
            training,
            out=folder,
            retriever=LampBM25Retriever(self._training.task.view) if any(training.ks) else None,
            progress=advance,
        )
        return embedder.eval()

    def _embed(self, embedder: UserEmbedder, store: ProfileStore) -> None:
        """Put the vectors that an embedder reads into the store, of all users, each once."""
        for questions in (self._training.questions, self._benchmark.questions):
            store.upsert((question.user_id, record) for question in questions for record in question.profile)
        for view in history_views(embedder.config):
            embed_users(store, self.encoder, view=view)

    def _method(
        self,
        idea: Idea,
        embedders: Sequence[UserEmbedder],
        without: Sequence[UserEmbedder],
        out: Path,
        stack: ExitStack,
        store: ProfileStore,
    ) -> Method:
        named = self._named(LampOptions(methods=(NONE,)), out / NONE, stack)
        channel = partial(
            SoftPromptChannel, llm=self.llm, source=self.encoder, store=store, query_free=idea.options.query_free
        )
        own = tuple(named.personalizer(channel(each)) for each in embedders)
        control = tuple(named.personalizer(WithoutHistory(channel(each))) for each in without)
        parts = {"user_embedders": [each.fingerprint for each in embedders]}
        return Method(idea.name, own, parts=parts, without_user=Method(idea.name, control, control=WITHOUT_USER), k=0)

    def _cost(self, embedder: UserEmbedder, folder: Path) -> Cost:
        """What a user embedder has and takes: measured on some users of the split."""
        profiles = list({question.user_id: question.profile for question in self._benchmark.questions}.values())
        histories = HistoryReader(embedder.config, self.encoder).read(profiles[:_TIMED_USERS])
        soft_prompts(embedder, histories)
        begun = time.perf_counter()
        soft_prompts(embedder, histories)
        milliseconds = 1000 * (time.perf_counter() - begun) / len(histories)
        state = embedder.pooling.state if embedder.keeps_state else None
        config = embedder.config
        stored = config.n_tokens * config.llm_hidden * _FLOAT16 if state is None else math.ceil(state.bits / 8)
        seconds = _notes(folder / f"{self.options.seeds[0]}")["report"]["seconds"]
        return Cost(sum(each.numel() for each in embedder.parameters()), stored, milliseconds, seconds)


def _first_users(split: LampSplit, users: int | None) -> LampSplit:
    """The questions of the first users."""
    chosen = set(list(dict.fromkeys(question.user_id for question in split.questions))[:users])
    questions = tuple(question for question in split.questions if question.user_id in chosen)
    golds = None if split.golds is None else {question.id: split.golds[question.id] for question in questions}
    return replace(split, questions=questions, golds=golds)


def _newest(split: LampSplit, records: int | None) -> LampSplit:
    """Questions whose profiles hold the newest records alone; without dates, the last ones."""
    if records is None:
        return split
    questions = []
    for question in split.questions:
        order = sorted(range(len(question.profile)), key=lambda row: (question.profile[row].time or "", row))
        kept = tuple(question.profile[row] for row in sorted(order[max(0, len(order) - records) :]))
        questions.append(replace(question, profile=replace(question.profile, records=kept)))
    return replace(split, questions=tuple(questions))


def _kept(folder: Path, made: UserEmbedder, training: UserEmbedderTraining) -> UserEmbedder:
    """The user embedder that an earlier run has trained.

    Raises:
        InvalidOptionError: if it was trained otherwise.
    """
    kept = load_user_embedder(folder)
    same = replace(kept.config, task="") == replace(made.config, task="")
    if not same or _notes(folder)["options"] != json.loads(json.dumps(asdict(training))):
        raise InvalidOptionError(f"{folder} holds a user embedder of other settings: name another folder, or delete it")
    return kept


def _notes(folder: Path) -> dict[str, Any]:
    notes: dict[str, Any] = json.loads((folder / NOTES).read_text(encoding="utf-8"))
    return notes
