"""The methods that persona knows by name, made for a LaMP task; which there are says `persona.eval.lamp`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona.assembly import as_encoder, as_user_embedder, as_user_vectors
from persona.channels import Ask, Channel
from persona.errors import InvalidOptionError
from persona.eval.benchmark import earliest_profiles
from persona.eval.benchmarks.lamp import LampBenchmark
from persona.eval.calibration import NO_CALIBRATION, calibration_questions
from persona.eval.controls import WITHOUT_USER, WithoutHistory
from persona.eval.methods import Method
from persona.eval.options import NONE, STEERING, SUMMARIES, USER_EMBEDDER, LampOptions
from persona.eval.report import Failure
from persona.eval.run import Progress
from persona.lamp.prompts import LampWording
from persona.lamp.tasks import LampTask
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.prompts import PromptBuilder
from persona.protocols import GenerationOptions, LanguageModel, RecordEncoder
from persona.records import Profile
from persona.retrievers.registry import RETRIEVERS, RetrieverOptions, make_retrievers, needs_encoder
from persona.store.profile_store import ProfileStore

if TYPE_CHECKING:
    from persona.adapters.task_adapter import TaskAdapter
    from persona.soft_prompts.embedder import UserEmbedder
    from persona.summaries.writing import WrittenSummaries

_LABEL_TOKENS, _TEXT_TOKENS = 16, 64


class NamedMethods:
    """Makes methods by name.

    Args:
        benchmark: whose questions they are to answer.
        llm: the frozen LLM.
        options: which methods, and of what.
        folder: where vectors, summaries and adapters are kept, and found again by a run that was stopped.
        stack: closes what the methods read from.
        progress: called with a stage's name, what is done and what there is to do.

    Attributes:
        retrieval: how retrievers are made, the relevance filter loaded.
    """

    def __init__(
        self,
        benchmark: LampBenchmark,
        llm: LanguageModel,
        options: LampOptions,
        folder: Path,
        stack: ExitStack,
        progress: Progress,
    ) -> None:
        self._benchmark, self._llm, self._options = benchmark, llm, options
        self._questions = benchmark.questions[: options.limit]
        self._folder, self._progress = folder, progress
        self._wording = LampWording(benchmark.task, options.summary_form)
        self._builder = PromptBuilder.of(
            llm, wording=self._wording, mask=options.mask, max_length=options.max_length, placement=options.placement
        )
        self._generation = _generation(benchmark.task, options)
        self._embedders, self._embedders_without = (
            [as_user_embedder(each, options.user_vectors) for each in given]
            for given in (options.user_embedders, options.user_embedder_controls)
        )
        _check_seeds([*self._embedders, *self._embedders_without])
        self._vectors = as_user_vectors(options.user_vectors)
        self._task_adapters = _loaded_task_adapters(options.task_adapters, benchmark.task)
        self._store = stack.enter_context(ProfileStore(f"sqlite:///{folder / 'vectors.db'}"))
        self._encoder: RecordEncoder | None = None
        self.retrieval = replace(options.retrieval, view=benchmark.task.view, seed=options.seed)
        if options.reads_vectors:
            reader = self._embedders[0] if self._embedders and self._vectors is None else None
            self._encoder = as_encoder(options.encoder, reader)
            self.retrieval = self._with_loaded_filter(self._encoder)
            self._embed(self._encoder)
        self._retrievers = make_retrievers(options.retrievers, self.retrieval, encoder=self._encoder, store=self._store)

    def _with_loaded_filter(self, encoder: RecordEncoder) -> RetrieverOptions:
        from persona.retrievers.relevance.filters import load_filter

        given = self.retrieval.relevance
        loaded = load_filter(given, encoder) if isinstance(given, str | Path) else given
        return replace(self.retrieval, relevance=loaded)

    def _embed(self, encoder: RecordEncoder) -> None:
        """Put the records of all questions, and the vectors that something reads, into the store."""
        from persona.encoders.embedding import embed_users
        from persona.retrievers.relevance.filters import RelevanceFilter
        from persona.soft_prompts.histories import history_views

        options = self._options
        trained_on = (
            calibration_questions(self._benchmark, options.calibration_questions, options.seed)
            if options.calibration != NO_CALIBRATION and self._benchmark.labels is not None
            else []
        )
        self._store.upsert(
            (question.user_id, record) for question in (*self._questions, *trained_on) for record in question.profile
        )
        retrieval, filtering = replace(self.retrieval, relevance=None, judge="question"), self.retrieval.relevance
        views = [retrieval.view] if any(needs_encoder(each, retrieval) for each in self._options.retrievers) else []
        views += ["text"] if "key_value" in self._options.retrievers else []
        views += [filtering.view] if isinstance(filtering, RelevanceFilter) else []
        views += history_views(self._embedders[0].config) if self._embedders and self._vectors is None else ()
        for view in dict.fromkeys(views):
            embed_users(
                self._store,
                encoder,
                view=view,
                progress=lambda done, total, records: self._progress("embed users", done, total),
            )

    def made(self) -> list[Method]:
        """The methods, in the order of their names and numbers of records, for each way to answer."""
        made = [method for name in self._options.methods for method in self._methods(name)]
        if len(self._options.answers) == 1:
            return made
        return [each.answering(way) for way in self._options.answers for each in made]

    def _methods(self, name: str) -> Iterable[Method]:
        if name == NONE:
            return [Method(NONE, (self.personalizer(),))]
        if name in RETRIEVERS:
            return [Method(name, (self.personalizer(self._records(name, k)),), k) for k in self._options.ks]
        if name == USER_EMBEDDER:
            return self._user_embedder_methods()
        if name == STEERING:
            return self._steering_methods()
        return self._summary_methods(name) if name in SUMMARIES else self._adapter_methods(name)

    def _alone_and_beside(self, name: str, channels: Sequence[Channel], **known: Any) -> dict[int, Method]:
        """A method by its numbers of records: 0, then each of `ks`; with a run for each of `channels`."""
        made = {0: Method(name, tuple(map(self.personalizer, channels)), **known)}
        for k in self._options.ks:
            records = self._records(self._options.beside, k)
            runs = tuple(self.personalizer(records, channel) for channel in channels)
            made[k] = Method(f"{name} + {self._options.beside}", runs, k, **known)
        return made

    def _user_embedder_methods(self) -> list[Method]:
        own = self._soft_prompt_methods(self._embedders)
        without = self._soft_prompt_methods(self._embedders_without, WITHOUT_USER)
        return [replace(method, without_user=without.get(k)) for k, method in own.items()]

    def _soft_prompt_methods(self, embedders: Sequence[UserEmbedder], control: str | None = None) -> dict[int, Method]:
        from persona.soft_prompts.channel import SoftPromptChannel

        source = self._vectors or self._encoder
        if not embedders or source is None:
            return {}
        channels: list[Channel] = [SoftPromptChannel(each, self._llm, source, self._store) for each in embedders]
        if control == WITHOUT_USER:
            channels = list(map(WithoutHistory, channels))
        parts = {"user_embedders": [each.fingerprint for each in embedders]}
        return self._alone_and_beside(USER_EMBEDDER, channels, control=control, parts=parts)

    def _steering_methods(self) -> list[Method]:
        """Vectors made from each profile, against the mean of the other users'."""
        from persona.adapters.examples import history_examples
        from persona.steering.contrast import Contrast
        from persona.steering.from_profiles import EverybodysSteering, ProfileSteering

        examples = partial(history_examples, task=self._benchmark.task, labels=self._benchmark.labels)
        contrast = Contrast(self._llm, examples)
        own = ProfileSteering(contrast, self._folder, progress=partial(self._progress, "steering vectors"))
        everybody = EverybodysSteering(own, [question.profile for question in self._questions])
        parts = {"steering": [contrast.family.key]}
        without = self._alone_and_beside(STEERING, [everybody], control=WITHOUT_USER, parts=parts)
        methods = self._alone_and_beside(STEERING, [own], parts=parts)
        return [replace(each, without_user=without[k], trains_per_user=True) for k, each in methods.items()]

    def _summary_methods(self, name: str) -> Iterable[Method]:
        from persona.summaries.channel import STATS, SummaryChannel

        source, written = SUMMARIES[name], self._written_summaries
        as_target = self._wording.notes_are_targets
        channel = SummaryChannel(source, written, task=self._benchmark.name, as_target=as_target)
        parts = {} if source == STATS else {"summarizer": [written.llm.fingerprint]}
        return self._alone_and_beside(name, [channel], parts=parts).values()

    @property
    def failures(self) -> list[Failure]:
        """The summaries that an LLM did not write; their users' questions were asked without one."""
        if "_written_summaries" not in vars(self):
            return []
        return [Failure("summaries", f"user {user}", why) for user, why in self._written_summaries.failures.items()]

    @cached_property
    def _written_summaries(self) -> WrittenSummaries:
        """What an LLM writes about profiles, shared by the methods, so that it is written once."""
        from persona.summaries.prompts import INSTRUCT, TASK
        from persona.summaries.writing import SummaryOptions, WrittenSummaries

        given = self._options.summary_llm or self._llm
        form = TASK if self._wording.notes_are_targets else INSTRUCT
        # An LLM that was trained on the task has seen prompts as long as the task's; one that follows instructions
        # reads a history in as few parts as it can.
        context = self._options.max_length if form == TASK else SummaryOptions().context_tokens
        return WrittenSummaries(
            load_llm(given) if isinstance(given, str) else given,
            SummaryOptions(task=self._benchmark.name, form=form, context_tokens=context),
            labels=self._benchmark.labels,
            path=self._folder / "summaries.jsonl",
            progress=partial(self._progress, "summaries"),
        )

    def _adapter_methods(self, name: str) -> list[Method]:
        from persona.adapters.from_profiles import ONE_PASS, ONE_PASS_WITHOUT_USER

        without, generated = self._task_adapter_alone, name == ONE_PASS
        if generated and all(each.generator_folder(with_user=False) for each in self._task_adapters):
            without = self._adapters(ONE_PASS_WITHOUT_USER, ONE_PASS, control=WITHOUT_USER)
        return [
            replace(method, without_user=without[k], trains_per_user=not generated)
            for k, method in self._adapters(name).items()
        ]

    @cached_property
    def _task_adapter_alone(self) -> dict[int, Method]:
        """What the gain of every method with adapters is measured against."""
        from persona.adapters.from_profiles import TASK

        return self._adapters(TASK)

    def _adapters(self, made: str, name: str | None = None, **known: Any) -> dict[int, Method]:
        """A method with an adapter made from each profile, or with the task adapter alone; `name` if not by `made`."""
        from persona.adapters.examples import history_examples
        from persona.adapters.from_profiles import ProfileAdapters

        task = self._benchmark.task
        earliest = earliest_profiles(self._questions) if self._options.adapters_once else {}

        def profile_of(ask: Ask) -> Profile:
            return earliest.get(ask.profile.user_id, ask.profile)

        channels = [
            ProfileAdapters(
                made,
                each,
                self._llm,
                partial(history_examples, task=task, labels=self._benchmark.labels),
                self._folder / "adapters",
                neighbours=self._options.neighbours,
                profile_of=profile_of,
                progress=partial(self._progress, f"{made} adapters"),
            )
            for each in self._task_adapters
        ]
        parts = {"task_adapters": [each.fingerprint for each in self._task_adapters]}
        return self._alone_and_beside(name or made, channels, parts=parts, **known)

    def _records(self, retriever: str, k: int) -> Channel:
        from persona.retrievers.channel import RecordsChannel

        return RecordsChannel(self._retrievers[retriever], k)

    def personalizer(self, *channels: Channel) -> Personalizer:
        """What answers with some channels, in LaMP's wording."""
        return Personalizer(self._llm, self._store, channels, builder=self._builder, options=self._generation)


def _generation(task: LampTask, options: LampOptions) -> GenerationOptions:
    tokens = options.max_new_tokens or (_TEXT_TOKENS if task.labels is None else _LABEL_TOKENS)
    return GenerationOptions(max_new_tokens=tokens, num_beams=options.num_beams, answers=options.answers[0])


def _loaded_task_adapters(given: Sequence[TaskAdapter | str | Path], task: LampTask) -> list[TaskAdapter]:
    if not given:
        return []
    from persona.adapters.task_adapter import TaskAdapter

    loaded = [TaskAdapter.load(each) if isinstance(each, str | Path) else each for each in given]
    for each in loaded:
        if each.task != task.name:
            raise InvalidOptionError(f"the task adapter was trained for {each.task}, the questions are {task.name}")
    if len({each.family for each in loaded}) > 1:
        raise InvalidOptionError("task adapters of one row must differ in their seed only: model and shape differ")
    return loaded


def _check_seeds(embedders: Sequence[UserEmbedder]) -> None:
    """Refuse user embedders that are no seeds of one training."""
    names = ("mode", "view", "encoder_dim", "with_question")
    shapes = {(*(getattr(each.config, name) for name in names), bool(each.config.copy_tokens)) for each in embedders}
    if len(shapes) > 1:
        raise InvalidOptionError(
            "the user embedders of one row, and their controls, must differ in their seed only; their "
            f"{', '.join(names)} and whether they copy were: {', '.join(map(str, sorted(shapes)))}"
        )
