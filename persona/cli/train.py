"""Training: `persona train user-embedder | adapters | filter`.

The settings of a training are its options dataclasses. ``--print-config`` prints all of it as a TOML file;
``--config`` reads such a file, and ``--set`` one setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any
from warnings import warn

import typer

from persona.cli import terminal
from persona.cli.options import command
from persona.cli.store import embed_views
from persona.errors import InvalidOptionError, PersonaWarning, UnsupportedChannelError

if TYPE_CHECKING:
    from rich.progress import Progress

    from persona.adapters.examples import ExampleMaker
    from persona.lamp.tasks import LampSplit
    from persona.llm.transformers import TransformersLM
    from persona.protocols import RecordEncoder
    from persona.retrievers.relevance.training import RelevanceTraining
    from persona.retrievers.usefulness.training import UsefulnessTraining
    from persona.soft_prompts.embedder import UserEmbedder
    from persona.soft_prompts.training.options import UserEmbedderShape, UserEmbedderTraining
    from persona.steering.options import SteeringOptions
    from persona.store.profile_store import ProfileStore

app = terminal.group("train", "Train for an LLM that stays as it is.")


@dataclass(frozen=True)
class EmbedderSources:
    """What a user embedder is trained with.

    Attributes:
        retriever: finds the records in training prompts.
        user_vectors: vectors of users that you have (.parquet, or .npy with .ids.jsonl), in place of the records.
        vectors: an SQLite file that keeps the records' vectors for further trainings.
    """

    retriever: str = "bm25-lamp"
    user_vectors: str | None = None
    vectors: str | None = None

    def __post_init__(self) -> None:
        from persona.retrievers.registry import check_retriever

        check_retriever(self.retriever)


def _embedder_defaults() -> dict[str, Any]:
    from persona.soft_prompts.training.options import UserEmbedderShape, UserEmbedderTraining

    return {"embedder": UserEmbedderShape(), "sources": EmbedderSources(), "training": UserEmbedderTraining()}


@dataclass(frozen=True)
class TrainUserEmbedder:
    """Options of `persona train user-embedder`.

    Attributes:
        data: a folder with train_questions.json and train_outputs.json.
        out: folder for the user embedder.
    """

    data: Path
    out: Annotated[Path, typer.Option()]
    llm: terminal.Llm = None
    encoder: terminal.Encoder = None


@command(app, "user-embedder", TrainUserEmbedder, settings=_embedder_defaults)
def user_embedder(options: TrainUserEmbedder, settings: Mapping[str, Any]) -> None:
    """Train a user embedder on a LaMP task.

    Stopped at any moment, the same command goes on from the last evaluation on the validation users.
    On several GPUs: torchrun --nproc-per-node N -m persona train user-embedder ...
    """
    import torch
    from accelerate import PartialState

    from persona.encoders.user_vectors import UserVectorFile
    from persona.readers import read_split
    from persona.retrievers.registry import RetrieverOptions, make_retriever, needs_encoder
    from persona.soft_prompts.histories import history_reader
    from persona.soft_prompts.training.user_embedder import new_user_embedder, train_user_embedder
    from persona.store.profile_store import ProfileStore

    shape, sources, training = settings["embedder"], settings["sources"], settings["training"]
    _check_all_is_read(shape, sources, training)
    reads = needs_encoder(sources.retriever) and any(training.ks)
    terminal.check_encoder_is_read(
        options.encoder, sources.user_vectors is None or reads, "a training with `user_vectors`"
    )
    terminal.check_folder(options.out)
    split = read_split(options.data, "train")
    # Of several processes each has its own device, before anything is loaded onto one.
    state = PartialState(cpu=not torch.cuda.is_available())
    llm = load_trainable(options.llm, overlong="truncate")
    file = None if sources.user_vectors is None else UserVectorFile(sources.user_vectors)
    encoder = terminal.load_encoder(options.encoder) if file is None or reads else None
    source = file or encoder
    assert source is not None
    embedder = new_user_embedder(llm, split, source, shape, seed=training.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    cache = Path(sources.vectors) if sources.vectors else options.out / "vectors.db"
    with (
        terminal.progress_bars("steps", shown=state.is_main_process) as progress,
        ProfileStore(f"sqlite:///{cache}") as store,
    ):
        with state.main_process_first():  # the others find what the first one puts in
            _embed_split(split, embedder, encoder, store, progress)
        retriever = None
        if any(training.ks):
            chosen = RetrieverOptions(view=split.task.view, seed=training.seed)
            retriever = make_retriever(sources.retriever, chosen, encoder=encoder, store=store)
        done = train_user_embedder(
            embedder,
            split,
            llm,
            history_reader(embedder.config, source, store),
            training,
            out=options.out,
            retriever=retriever,
            progress=terminal.training_bars(progress),
        )
    state.wait_for_everyone()
    if state.is_main_process:
        if not sources.vectors:  # the training users' vectors are no part of the embedder
            for name in (cache.name, f"{cache.name}-wal", f"{cache.name}-shm"):
                cache.with_name(name).unlink(missing_ok=True)
        terminal.report_facts({"out": str(options.out), **asdict(done)})


def _check_all_is_read(shape: UserEmbedderShape, sources: EmbedderSources, training: UserEmbedderTraining) -> None:
    """Refuse settings that nothing reads.

    Raises:
        InvalidOptionError: with their names.
    """
    if training.without_user and training.new_user_steps is not None:
        raise InvalidOptionError("without a user nobody has records, and nothing reads `new_user_steps`: leave it out")
    if sources.user_vectors is None and shape.mode == "attention":
        return
    names = ("heads", "width", "with_question", *(["n_tokens"] if shape.mode == "persona-plug" else []))
    unread = [name for name in names if getattr(shape, name) != getattr(type(shape)(), name)]
    names = ("warm_up", "new_user_steps")
    unread += [name for name in names if getattr(training, name) != getattr(type(training)(), name)]
    if unread:
        where = "the mode 'persona-plug'" if sources.user_vectors is None else "`user_vectors`"
        raise InvalidOptionError(f"with {where} nothing reads `{'`, `'.join(unread)}`: leave it out")


def _embed_split(
    split: LampSplit, embedder: UserEmbedder, encoder: RecordEncoder | None, store: ProfileStore, progress: Progress
) -> None:
    """Put the records of a split into a store, with the vectors that `embedder` reads."""
    from persona.soft_prompts.histories import history_views

    store.upsert((question.user_id, record) for question in split.questions for record in question.profile)
    if encoder is not None:
        embed_views(store, encoder, history_views(embedder.config), progress)


def load_trainable(llm: str | None, **options: Any) -> TransformersLM:
    """The LLM to train against.

    Raises:
        UnsupportedChannelError: if it is no transformers model.
    """
    from persona.llm.transformers import TransformersLM

    loaded = terminal.load_llm(llm, **options)
    if not isinstance(loaded, TransformersLM):
        raise UnsupportedChannelError(
            "training needs a transformers model: give a folder, a hub id or tiny with --llm, "
            f"was: {loaded.fingerprint}"
        )
    return loaded


def steer_users(llm: str | None, settings: SteeringOptions, examples: ExampleMaker, *, everybody: bool) -> None:
    """Make a steering vector for every user in the store, or for those with new records."""
    from persona.adapters.bank import AdapterBank
    from persona.steering.contrast import Contrast
    from persona.steering.users import steer_users as steer

    contrast = Contrast(load_trainable(llm), examples, settings)
    with terminal.opened_store() as store, terminal.progress_bars("users") as progress:
        bar = progress.add_task("steer users", total=None)
        done = steer(
            AdapterBank(store),
            contrast,
            user_ids=store.user_ids() if everybody else None,
            progress=lambda users: progress.update(bar, completed=users),
        )
    terminal.report_facts({"family": contrast.family.key, **asdict(done)})


def _filter_defaults() -> dict[str, Any]:
    from persona.retrievers.relevance.training import RelevanceTraining
    from persona.retrievers.usefulness.training import UsefulnessTraining

    return {"": RelevanceTraining(), "usefulness": UsefulnessTraining()}


@dataclass(frozen=True)
class TrainFilter:
    """Options of `persona train filter`.

    Attributes:
        data: a folder with train_questions.json.
        out: folder for the filter.
    """

    data: Path
    out: Annotated[Path, typer.Option()]
    encoder: terminal.Encoder = None
    task: terminal.TaskName = None
    general: terminal.General = field(default_factory=list)


@command(app, "filter", TrainFilter, settings=_filter_defaults)
def train_filter(options: TrainFilter, settings: Mapping[str, Any]) -> None:
    """Train a relevance filter on a LaMP task.

    A user's own questions are to keep their records, general questions none. Some 160 general ones come with persona;
    give more with --general, of the kind that your users ask beside the task.
    With --set usefulness.llm=LLM the retriever `useful` learns instead which records make the users' answers likelier.
    """
    from persona.readers import read_split
    from persona.retrievers.relevance.training import train_relevance, training_questions
    from persona.store.profile_store import ProfileStore

    training: RelevanceTraining = settings[""]
    terminal.check_folder(options.out)
    split = read_split(options.data, "train", task=options.task)
    if settings["usefulness"].llm is not None:
        if training != type(training)():
            raise InvalidOptionError("usefulness is learned by the settings `usefulness.NAME`: leave the filter's out")
        _learn_usefulness(options, split, settings["usefulness"])
        return
    general = _general_questions(options.general, training.questions)
    encoder = terminal.load_encoder(options.encoder)
    with (
        terminal.progress_bars("steps") as progress,
        TemporaryDirectory() as folder,
        ProfileStore(f"sqlite:///{folder}/vectors.db") as store,
    ):
        asked = training_questions(split, training)
        store.upsert((question.user_id, record) for question in asked for record in question.profile)
        embed_views(store, encoder, [training.view], progress)
        trained, done = train_relevance(
            split, encoder, training, general=general, store=store, progress=terminal.stage_bars(progress)
        )
    trained.save(options.out)
    if done.recall < training.recall:
        warn(
            f"restraint={training.restraint:g} raised the threshold: fewer own questions keep their records than "
            f"recall={training.recall:.0%}",
            PersonaWarning,
            stacklevel=1,
        )
    terminal.report_facts({"out": str(options.out), **asdict(done)})


def _learn_usefulness(options: TrainFilter, split: LampSplit, training: UsefulnessTraining) -> None:
    from persona.retrievers.usefulness.training import train_usefulness

    if options.general:
        raise InvalidOptionError("usefulness is learned from the users' own records, and nothing reads --general")
    llm = load_trainable(training.llm, overlong="truncate")
    with terminal.progress_bars("steps") as progress:
        spaces, done = train_usefulness(
            split, terminal.load_encoder(options.encoder), llm, training, progress=terminal.stage_bars(progress)
        )
    spaces.save_pretrained(options.out)
    terminal.report_facts({"out": str(options.out), **asdict(done)})


def _general_questions(files: list[Path], at_most: int) -> Mapping[str, list[str]]:
    """General questions by kind: those that come with persona, and those of `files`."""
    from persona.eval.benchmarks.general_questions import read_general
    from persona.retrievers.relevance.general import GENERAL
    from persona.retrievers.relevance.training import LEAST_GENERAL

    kinds: dict[str, list[str]] = {name: list(texts) for name, texts in GENERAL.items()}
    for file in files:
        more = [question.query or question.question for question in read_general(file, at_most)]
        # Too few to be weighed as a kind of their own join the questions that come with persona.
        kinds.setdefault(file.resolve().name if len(more) >= LEAST_GENERAL else "questions", []).extend(more)
    return kinds
