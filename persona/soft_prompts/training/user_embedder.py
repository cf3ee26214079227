"""Training a user embedder against a frozen LLM.

    embedder = new_user_embedder(llm, split, encoder)
    reader = history_reader(embedder.config, encoder, store)
    report = train_user_embedder(embedder, split, llm, reader, out=Path("embedders/ratings"), retriever=retriever)

Four stages: the warm-up, in which the LLM computes nothing (`warm_up`); the LLM's loss on the answers (`answers`); the
same for the soft prompt of a user without records alone, on examples that show none, which leaves all other soft
prompts as they are; and, for an embedder that copies, what to copy (`copying`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from persona.channels import check_way
from persona.encoders.user_vectors import UserVectorFile
from persona.errors import InvalidOptionError
from persona.files import make_ordinary, write_atomically
from persona.lamp.tasks import LampSplit
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.protocols import SOFT_PROMPT, GenerationOptions, RecordEncoder, Retriever
from persona.soft_prompts.config import PAPER_TOKENS
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.histories import ReadsHistories
from persona.soft_prompts.instruction import InstructionWords
from persona.soft_prompts.parts.registry import fitted, made, parsed
from persona.soft_prompts.training.answers import AnswerStage, TrainingSetup
from persona.soft_prompts.training.copying import train_copying
from persona.soft_prompts.training.examples import Examples
from persona.soft_prompts.training.loop import Progress
from persona.soft_prompts.training.options import UserEmbedderShape, UserEmbedderTraining
from persona.soft_prompts.training.tokens import ExampleTokens
from persona.soft_prompts.training.warm_up import warm_up
from persona.version import __version__

CHECKPOINT = "checkpoint.pt"
NEW_USER_CHECKPOINT = "new_user_checkpoint.pt"
NOTES = "training.json"

_NEW_USER_RATE = 2.0
"""Learning rate of the stage of new users, over the usual size of one number in a soft token."""

_VECTOR_TOKENS = 4  # from users' own vectors, if nothing else is given


@dataclass(frozen=True, slots=True)
class UserEmbedderReport:
    """What a training did. Losses are means over questions of the validation users, in nats per token.

    Attributes:
        steps: steps taken, those before a resume among them.
        best_step: the step whose weights were kept; 0 is the start.
        validation_loss: of these weights.
        validation_loss_before: at the start.
        new_user_loss: were they users without any record; None without that stage.
        new_user_loss_before: the same before that stage.
        copy_loss: with copying, on (some of) the questions; None for an embedder that was not made to copy.
        copy_loss_before: the same without copying; equal if nothing is copied.
        users: training users, without the validation users.
        questions: questions of the split that were trained on.
        questions_from_records: further questions, made from the users' own records.
        seconds: of this run.
        gates: the learned weight of each view of a record, 1 at the start; None without further views.
    """

    steps: int
    best_step: int
    validation_loss: float
    validation_loss_before: float
    new_user_loss: float | None
    new_user_loss_before: float | None
    copy_loss: float | None
    copy_loss_before: float | None
    users: int
    questions: int
    questions_from_records: int
    seconds: float
    gates: Mapping[str, float] | None = None


def new_user_embedder(
    llm: TransformersLM,
    split: LampSplit,
    source: RecordEncoder | UserVectorFile,
    shape: UserEmbedderShape | None = None,
    *,
    seed: int = 0,
) -> UserEmbedder:
    """An untrained user embedder.

    Args:
        llm: the frozen LLM.
        split: the training questions, whose answers its instruction starts from.
        source: the record encoder, or the users' own vectors.
        shape: what it is made of.
        seed: of all starting values.

    Raises:
        UnsupportedChannelError: if the LLM takes no soft prompts.
        InvalidOptionError: if options contradict one another.
        EvaluationError: if the split has no golds.
    """
    check_way(llm, SOFT_PROMPT, "a user embedder")
    shape = shape or UserEmbedderShape()
    attention = shape.mode == "attention"
    if isinstance(source, UserVectorFile):
        if not attention:
            raise InvalidOptionError(f"user vectors stand for the records: leave `mode` out, was: {shape.mode!r}")
        tokens, copies = shape.n_tokens or _VECTOR_TOKENS, bool(shape.copies)
        return UserEmbedder.for_llm(llm, source, seed=seed, copies=copies, n_tokens=tokens)
    return UserEmbedder.for_llm(
        llm,
        source,
        seed=seed,
        words=InstructionWords.of(split, llm, source) if attention and shape.n_tokens is None else None,
        copies=attention if shape.copies is None else shape.copies,
        mode=shape.mode,
        n_tokens=shape.n_tokens or PAPER_TOKENS,
        heads=shape.heads,
        width=shape.width,
        with_question=shape.with_question,
        views=fitted(shape.views, split),
        pooling=shape.pooling,
        state=shape.state,
        tokens=shape.tokens,
        # The paper's histories are encoded as LaMP's retrievers see them.
        view="text" if attention else split.task.view,
    )


def train_user_embedder(
    embedder: UserEmbedder,
    split: LampSplit,
    llm: TransformersLM,
    reader: ReadsHistories,
    options: UserEmbedderTraining | None = None,
    *,
    out: Path,
    retriever: Retriever | None = None,
    progress: Progress | None = None,
) -> UserEmbedderReport:
    """Train `embedder` in place on a LaMP split, and save the best weights in `out`.

    Args:
        embedder: the user embedder.
        split: training questions with golds; its users must be in no split that is reported on.
        llm: the frozen LLM. Its weights stay as they are.
        reader: makes histories for `embedder`; with a store, no vector is computed twice.
        options: how to train.
        out: folder for checkpoints, weights and ``training.json``. A run with the same options that was stopped goes on
            from its checkpoint.
        retriever: finds the records of prompts with some; needed if one of `UserEmbedderTraining.ks` is not 0.
        progress: called after each step of each stage.

    Raises:
        EvaluationError: if the split has no golds, or too few users to set some aside for validation.
        InvalidOptionError: if a retriever is needed and there is none, `out` holds the checkpoint of a run with other
            options, or a prompt is longer than the LLM can take and it was loaded with ``overlong="error"``.
        FingerprintMismatchError: if `embedder` belongs to another LLM or encoder.
    """
    options = options or UserEmbedderTraining()
    begun = time.perf_counter()
    setup = _set_up(embedder, split, llm, reader, options, retriever)
    answers = AnswerStage(setup, options, out / CHECKPOINT)
    if not answers.resume():
        if setup.accelerator.is_main_process:
            (out / NEW_USER_CHECKPOINT).unlink(missing_ok=True)  # of a run that is not gone on with
        if embedder.config.mode == "attention" and options.warm_up:
            warm_up(setup, reader, options, progress)
    answers.train(progress)
    new_users = None
    if (tuning := _new_user_options(embedder, options)) is not None:
        new_users = AnswerStage(setup, tuning, out / NEW_USER_CHECKPOINT, new_users=True)
        new_users.resume()
        new_users.train(progress)
    copy_losses = None if embedder.copying is None else train_copying(setup, options, progress)
    embedder.requires_grad_(True)
    setup.accelerator.wait_for_everyone()  # until then another process may want to read a checkpoint
    report = _report(setup, answers, new_users, copy_losses, time.perf_counter() - begun)
    if setup.accelerator.is_main_process:
        _save(embedder, options, report, out)
    return report


def _report(
    setup: TrainingSetup,
    answers: AnswerStage,
    new_users: AnswerStage | None,
    copy_losses: tuple[float, float] | None,
    seconds: float,
) -> UserEmbedderReport:
    return UserEmbedderReport(
        steps=answers.loop.step,
        best_step=answers.loop.stopping.best_step,
        validation_loss=answers.loop.stopping.best,
        validation_loss_before=answers.loop.before,
        new_user_loss=None if new_users is None else new_users.loop.stopping.best,
        new_user_loss_before=None if new_users is None else new_users.loop.before,
        copy_loss=None if copy_losses is None else copy_losses[0],
        copy_loss_before=None if copy_losses is None else copy_losses[1],
        users=len(setup.examples.users),
        questions=sum(not example.from_record for example in setup.examples.train),
        questions_from_records=sum(example.from_record for example in setup.examples.train),
        seconds=seconds,
        gates=_gates(setup.embedder),
    )


def _gates(embedder: UserEmbedder) -> dict[str, float] | None:
    gates = getattr(embedder.pooling, "gates", None)
    if gates is None:
        return None
    views = ("text", "target", "style", *(name for name, _ in parsed(embedder.config.views)))
    return dict(zip(views, gates.tolist(), strict=True))


def _set_up(
    embedder: UserEmbedder,
    split: LampSplit,
    llm: TransformersLM,
    reader: ReadsHistories,
    options: UserEmbedderTraining,
    retriever: Retriever | None,
) -> TrainingSetup:
    """Check that all parts fit, and put them together."""
    check_way(llm, SOFT_PROMPT, "a user embedder")
    embedder.check_fits(reader.fingerprint, llm)
    room = llm.input_limit(GenerationOptions(max_new_tokens=1))
    if room is not None and embedder.config.n_tokens >= room:
        raise InvalidOptionError(
            f"{llm.name} reads at most {room} tokens, {embedder.config.n_tokens} soft ones leave none for a question: "
            "make fewer (`n_tokens`)"
        )
    if any(options.ks) and retriever is None:
        raise InvalidOptionError("training prompts with records need a retriever: give one, or set `ks=(0,)`")
    embedder.note_task(split.task.name)
    examples = Examples(split, reader, options)
    # Buffers hold what is copied and are the same in all processes; in step with them a process that calls the model
    # once more than another would wait for ever.
    alone = DistributedDataParallelKwargs(broadcast_buffers=False)
    cpu = llm.model.device.type == "cpu"
    accelerator = Accelerator(cpu=cpu, gradient_accumulation_steps=1, kwargs_handlers=[alone])
    if options.batch < accelerator.num_processes:
        raise InvalidOptionError(
            f"`batch` must be at least the number of processes, {accelerator.num_processes}, was: {options.batch}"
        )
    embedder.to(llm.model.device)
    objectives = _objectives(embedder, options).to(llm.model.device)
    # Codes begin with the states of a batch, which differ from process to process.
    if (len(objectives) or embedder.config.state or embedder.config.tokens) and accelerator.num_processes > 1:
        raise InvalidOptionError(
            f"`objectives`, `state` and `tokens` are trained by one process, there are {accelerator.num_processes}"
        )
    tokens = ExampleTokens(split.task, llm, retriever, embedder.config.n_tokens, options.max_length)
    return TrainingSetup(embedder, examples, tokens, TargetLoss(llm), accelerator, objectives)


def _objectives(embedder: UserEmbedder, options: UserEmbedderTraining) -> nn.ModuleList:
    """The objectives; none without the user, whose states they are about."""
    if options.without_user or not options.objectives:
        return nn.ModuleList()
    if embedder.config.mode != "attention":
        raise InvalidOptionError(f"`objectives` are of mode 'attention', the mode was: {embedder.config.mode!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        return nn.ModuleList(made("objective", options.objectives, embedder.config, sum(embedder.pooling.sizes)))


def _new_user_options(embedder: UserEmbedder, options: UserEmbedderTraining) -> UserEmbedderTraining | None:
    """How the soft prompt of a user without records is tuned; None if it is not.

    Such a user has no records in the text either.
    """
    steps = options.steps // 2 if options.new_user_steps is None else options.new_user_steps
    if embedder.config.mode != "attention" or options.without_user or not steps:
        return None
    rate = _NEW_USER_RATE / embedder.config.llm_hidden**0.5
    return replace(options, without_user=True, steps=steps, learning_rate=rate, ks=(0,))


def _save(embedder: UserEmbedder, options: UserEmbedderTraining, report: UserEmbedderReport, out: Path) -> None:
    """Save the weights and how they were trained; the checkpoints are not needed any more."""
    out.mkdir(parents=True, exist_ok=True)
    embedder.save_pretrained(out)
    make_ordinary(out / "model.safetensors")
    notes = {"persona": __version__, "task": embedder.config.task, "options": asdict(options), "report": asdict(report)}
    write_atomically(out / NOTES, json.dumps(notes, indent=2) + "\n")
    for name in (NEW_USER_CHECKPOINT, CHECKPOINT):
        (out / name).unlink(missing_ok=True)
