"""Training a user embedder against a frozen LLM.

A training example is a question of a training user with its answer, and the rest of that user's records. Questions are
those of the split and, declared and switchable, more of the same kind made from the users' own histories by leaving one
record out: its text becomes the question, its target the answer. The loss is that of the LLM on the answer.

Before that comes a warm-up in which the LLM computes nothing. First the gates of the echo (`persona.embedder`) are set
by least squares, which is most of what labels and scores need. Then, from what the heads found and the question, a
small head that is thrown away afterwards tells the answer's vector from those of the other answers, and its style:
where to look in a history is learned there. And the soft tokens learn to say it: those in the slot become the answer's
embeddings, as far as the history tells them, and the others stay the words that they are. With x_t soft token t over
the LLM's scale, I_t the instruction's and y_t the answer's embedding in place t of a slot of s tokens, that loss is

    (sum over the slot |x_t - y_t|^2 + sum over the rest |x_t - I_t|^2) / s

so that the slot becomes the mean of what the answer may be. The LLM then only has to listen.

Everything random in step n follows from ``(seed, n)``, and a checkpoint holds the parameters, the optimizer and the
step. So a run that was killed goes on to the very weights of an undisturbed one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

import persona
from persona.embedder import UserEmbedder
from persona.errors import EvaluationError, InvalidOptionError, PersonaError
from persona.files import replacing, write_atomically
from persona.histories import History, HistoryBatch, HistoryReader
from persona.instruction_words import answer_ids, in_slot
from persona.lamp import LampSplit, LampTask
from persona.prompts import lamp_prompt
from persona.protocols import GenerationOptions, Retriever
from persona.records import Profile
from persona.target_loss import TargetLoss
from persona.transformers_llm import TransformersLM
from persona.writing_style import STYLE_DIM, style_vector

Progress = Callable[[int, int, float, float], None]
"""Called after a step with the steps done, all steps, the step's loss and the best dev loss so far."""

CHECKPOINT = "checkpoint.pt"
NOTES = "training.json"

_POOLED = 8
"""Batches that are drawn together and sorted by length, so that little is padded."""

_WARM_RATE, _WARM_BATCH, _WARM_LOOK, _WARM_TEMPERATURE = 2e-3, 64, 25, 0.05

_NULL_RECORDS = (1.0, 3.0, 10.0, 30.0, 100.0)
_CALIBRATION, _GATE_RIDGE = 2048, 0.01
_PADDED_RECORDS = 2**16
"""Records of one batch of users kept aside, padding included: with vectors of 384 numbers half a gigabyte."""


@dataclass(frozen=True, slots=True)
class PlugTraining:
    """How to train.

    Attributes:
        warm_up: steps of the warm-up at most; 0 for none. Only the mode ``"plug"`` has one.
        steps: optimizer steps at most.
        batch: examples in a step.
        accumulate: parts in which a step's batch is computed, to save memory.
        learning_rate: peak of AdamW's; 5 % of the steps warm up, then half a cosine.
        weight_decay: of AdamW.
        ks: numbers of retrieved records in the training prompts, drawn equally often; 0 is the question alone.
        leave_one_out: most questions made from one user's own records; 0 makes none.
        history_dropout: each example loses a share of its records, drawn between 0 and this.
        empty_share: share of the examples that lose all, so that a new user's prompt is learned.
        query_dropout: share of the examples whose soft prompt is made without the question.
        without_user: never show a record: the control "trained without the user".
        dev_users: share of the training users kept aside to choose the best step.
        evaluate_every: steps between two looks at them.
        patience: looks without a better one before the training ends.
        max_length: token budget of a prompt.
        seed: of everything random.
    """

    warm_up: int = 400
    steps: int = 600
    batch: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    ks: tuple[int, ...] = (0, 1)
    leave_one_out: int = 8
    history_dropout: float = 0.3
    empty_share: float = 0.1
    query_dropout: float = 0.1
    without_user: bool = False
    dev_users: float = 0.2
    evaluate_every: int = 50
    patience: int = 6
    max_length: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "evaluate_every", "patience"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"`{name}` must be at least 1, was: {getattr(self, name)}")
        for name in ("history_dropout", "empty_share", "query_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidOptionError(f"`{name}` must be from 0 to 1, was: {getattr(self, name)}")
        if not 0 < self.dev_users < 1:
            raise InvalidOptionError(f"`dev_users` must be between 0 and 1, was: {self.dev_users}")
        if not self.ks or min(self.ks) < 0:
            raise InvalidOptionError(f"`ks` must be numbers of at least 0, was: {self.ks}")
        if self.learning_rate <= 0:
            raise InvalidOptionError(f"`learning_rate` must be above 0, was: {self.learning_rate}")
        for name in ("leave_one_out", "warm_up"):
            if getattr(self, name) < 0:
                raise InvalidOptionError(f"`{name}` must be at least 0, was: {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class PlugReport:
    """What a training did.

    Attributes:
        steps: steps taken, those before a resume among them.
        best_step: the step whose weights were kept; 0 is the start.
        dev_loss: mean loss of the kept weights on the users kept aside, nats per token.
        dev_loss_before: the same at the start.
        users: training users, without those kept aside.
        questions: questions of the split that were trained on.
        made: further questions made from the users' own records.
        seconds: of this run.
    """

    steps: int
    best_step: int
    dev_loss: float
    dev_loss_before: float
    users: int
    questions: int
    made: int
    seconds: float


def train_plug(
    plug: UserEmbedder,
    split: LampSplit,
    llm: TransformersLM,
    reader: HistoryReader,
    options: PlugTraining | None = None,
    *,
    out: Path,
    retriever: Retriever | None = None,
    progress: Progress | None = None,
    warm_progress: Progress | None = None,
) -> PlugReport:
    """Train `plug` in place on a LaMP split, and save the best weights in `out`.

    Args:
        plug: the user embedder (`UserEmbedder.for_llm`).
        split: training questions with golds; its users must be in no split that is reported on.
        llm: the frozen LLM. Its weights stay as they are.
        reader: reads histories for `plug`; with a store, no vector is computed twice.
        options: how to train.
        out: folder for the checkpoint, the weights and ``training.json``. A run with the same options that was
            stopped goes on from its checkpoint.
        retriever: finds the records of prompts with some; needed if one of `PlugTraining.ks` is not 0.
        progress: see `Progress`.
        warm_progress: the same for the warm-up.

    Raises:
        EvaluationError: if the split has no golds, or too few users to keep some aside.
        InvalidOptionError: if a retriever is needed and there is none, `out` holds the checkpoint of a run with other
            options, or a prompt is longer than the LLM can take and it was loaded with ``overlong="error"``.
        FingerprintMismatchError: if `plug` belongs to another LLM or encoder.
    """
    options = options or PlugTraining()
    begun = time.perf_counter()
    plug.check_fits(reader.encoder.fingerprint, llm)
    if any(options.ks) and retriever is None:
        raise InvalidOptionError("training prompts with records need a retriever: give one, or set `ks=(0,)`")
    examples = _Examples(split, reader, options)
    accelerator = Accelerator(cpu=llm.model.device.type == "cpu", gradient_accumulation_steps=1)
    run = _Run(plug.to(llm.model.device), llm, examples, options, out, retriever, accelerator)
    if not run.resume() and plug.config.mode == "plug" and options.warm_up:
        warm_up(plug, examples, reader, llm, options, progress=warm_progress)
    run.train(progress or (lambda done, total, loss, best: None))
    report = PlugReport(
        steps=run.step,
        best_step=run.best_step,
        dev_loss=run.best,
        dev_loss_before=run.before,
        users=examples.n_users,
        questions=sum(not example.made for example in examples.train),
        made=sum(example.made for example in examples.train),
        seconds=time.perf_counter() - begun,
    )
    if accelerator.is_main_process:
        run.finish(report)
    return report


@dataclass(frozen=True, slots=True, eq=False)
class _Example:
    """A question to train on.

    Attributes:
        input: the official input.
        gold: its answer.
        profile: what may be shown of the user: the question's own records, or the others than the one left out.
        rows: their rows in the user's history.  # (records,)
        query: vector of the question.  # (encoder_dim,)
        made: whether it was made from a record.
    """

    user_id: str
    input: str
    gold: str
    profile: Profile
    rows: NDArray[np.intp]
    query: NDArray[np.float32]
    made: bool


class _Examples:
    """The examples of a split, and the histories of its users.

    Attributes:
        train: those to train on.
        dev: questions of the split by users kept aside.
        histories: user id -> all records that any question shows of the user.
        n_users: users to train on.
    """

    def __init__(self, split: LampSplit, reader: HistoryReader, options: PlugTraining) -> None:
        if split.golds is None:
            raise EvaluationError("training needs golds: this split has none")
        self.task = split.task
        self._labels = split.labels if split.task.name in ("LaMP_2", "LaMP_2N") else None
        # All records of a user, each once, under the ids that the store knows them by.
        union: dict[str, dict[str, Any]] = {}
        for question in split.questions:
            known = union.setdefault(question.user_id, {})
            for record in question.profile:
                known.setdefault(record.id, record)
        users = list(union)
        kept_aside = max(1, round(options.dev_users * len(users)))
        if kept_aside >= len(users):
            raise EvaluationError(f"training needs questions of at least 2 users, was: {len(users)}")
        drawn = np.random.default_rng((options.seed, 1)).permutation(len(users))[:kept_aside]
        aside = {users[place] for place in drawn}
        profiles = [Profile(user_id, tuple(records.values())) for user_id, records in union.items()]
        self.histories: Mapping[str, History] = dict(zip(users, reader.read(profiles), strict=True))
        self.n_users = len(users) - kept_aside
        rows = {user: {name: row for row, name in enumerate(records)} for user, records in union.items()}
        queries = reader.questions([split.task.query(question.input) for question in split.questions])
        given = [
            _Example(
                question.user_id,
                question.input,
                split.golds[question.id],
                question.profile,
                np.array([rows[question.user_id][record.id] for record in question.profile], np.intp),
                query,
                False,
            )
            for question, query in zip(split.questions, queries, strict=True)
        ]
        self.dev = [example for example in given if example.user_id in aside]
        self._given = [example for example in given if example.user_id not in aside]
        self.train = list(self._given)
        # A record that could be left out is noted only: what is left of a long history is as long as the history.
        self._left_out: list[tuple[Profile, int]] = []
        draw = np.random.default_rng((options.seed, 2))
        for profile in profiles:
            if profile.user_id in aside or not options.leave_one_out:
                continue
            rows_left_out = self._answered(profile)
            self._left_out += [(profile, row) for row in rows_left_out]
            chosen = sorted(draw.permutation(len(rows_left_out))[: options.leave_one_out])
            self.train += [self._without(profile, rows_left_out[place]) for place in chosen]

    @property
    def n_warm_up(self) -> int:
        """How many examples the warm-up draws from: the questions of the split and one from every record."""
        return len(self._given) + len(self._left_out)

    def warm_up(self, place: int) -> _Example:
        """One of them."""
        if place < len(self._given):
            return self._given[place]
        return self._without(*self._left_out[place - len(self._given)])

    def golds(self) -> list[str]:
        """The different answers of the warm-up's examples and of those kept aside."""
        made = (profile[row].target or "" for profile, row in self._left_out)
        return list(dict.fromkeys([*(one.gold for one in self._given), *made, *(one.gold for one in self.dev)]))

    def shown(self, example: _Example, options: PlugTraining, draw: np.random.Generator | None = None) -> History:
        """What a user embedder sees of the user: for training what `draw` leaves of it, to be tested on all."""
        history = self.histories[example.user_id].take(example.rows)
        if options.without_user:
            return history.take(np.arange(0))
        if draw is None:
            return history
        kept = np.flatnonzero(draw.random(len(history)) >= options.history_dropout * draw.random())
        return history.take(kept[:0] if draw.random() < options.empty_share else kept)

    def _answered(self, profile: Profile) -> list[int]:
        """Rows of the records that a question can be made from."""
        if self.task.name == "LaMP_1":
            return []  # The two references of such a question are in no record.
        return [row for row, record in enumerate(profile) if record.target is not None]

    def _without(self, profile: Profile, row: int) -> _Example:
        """The question of one record, with the others as its history."""
        record = profile[row]
        assert record.target is not None
        return _Example(
            profile.user_id,
            self.task.make_input(record.text, labels=self._labels),
            record.target,
            Profile(profile.user_id, profile.records[:row] + profile.records[row + 1 :]),
            np.delete(np.arange(len(profile), dtype=np.intp), row),
            # With the view "text" the vector of the question is that of the record.
            np.asarray(self.histories[profile.user_id].keys[row], np.float32),
            True,
        )


class _Run:
    """One training: its state, and how a step is taken."""

    def __init__(
        self,
        plug: UserEmbedder,
        llm: TransformersLM,
        examples: _Examples,
        options: PlugTraining,
        out: Path,
        retriever: Retriever | None,
        accelerator: Accelerator,
    ) -> None:
        self.plug, self.llm, self.examples, self.options, self.out = plug, llm, examples, options, out
        self.retriever, self.accelerator = retriever, accelerator
        self.loss = TargetLoss(llm)
        self.optimizer = torch.optim.AdamW(
            plug.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.98)
        )
        self.model, self.optimizer = accelerator.prepare(plug, self.optimizer)
        self.step = self.best_step = self.rounds = 0
        self.best = self.before = math.inf
        self.best_state = _copied(plug.state_dict())
        self.tokens: dict[tuple[int, int], tuple[list[int], list[int]]] = {}

    def train(self, progress: Progress) -> None:
        """Take steps until there are enough, or no better ones come."""
        options = self.options
        self.plug.train()
        for batch in self._batches(self.step):
            if self.step % options.evaluate_every == 0:
                self._look()
                if self.rounds >= options.patience:
                    break
            share = _learning_rate(self.step, options.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = options.learning_rate * share
            loss = self._take(batch)
            self.step += 1
            progress(self.step, options.steps, loss, self.best)
        else:
            self._look()
        self.plug.load_state_dict(self.best_state)
        self.plug.eval()

    def _take(self, batch: Sequence[tuple[int, int]]) -> float:
        """One optimizer step; the batch's mean loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        mine = batch[self.accelerator.process_index :: self.accelerator.num_processes]
        size = -(-len(mine) // self.options.accumulate)
        for start in range(0, len(mine), size):
            part = mine[start : start + size]
            loss = self._loss(part).sum() / len(mine)
            self.accelerator.backward(loss)
            total += float(loss.detach())
        self.accelerator.clip_grad_norm_(self.plug.parameters(), 1.0)
        self.optimizer.step()
        return total

    def _loss(self, part: Sequence[tuple[int, int]]) -> torch.Tensor:
        """The loss of each of some examples, as they are shown in this step.  # (part,)"""
        options, examples = self.options, self.examples
        histories, queries, prompts, targets, unasked = [], [], [], [], []
        for place, number in part:
            example = examples.train[place]
            draw = np.random.default_rng((options.seed, 3, number))
            histories.append(examples.shown(example, options, draw))
            queries.append(example.query)
            unasked.append(draw.random() < options.query_dropout)
            k = options.ks[int(draw.integers(len(options.ks)))]
            prompt, target = self._tokens(place, k)
            prompts.append(prompt)
            targets.append(target)
        batch = HistoryBatch.of(histories, self.plug.config, np.stack(queries), self.loss.device)
        soft_prompts = self.model(batch.keys, batch.values, batch.mask, batch.query, batch.days)
        if any(unasked):
            free = self.model(batch.keys, batch.values, batch.mask, None, batch.days)
            chosen = torch.tensor(unasked, device=self.loss.device)[:, None, None]
            soft_prompts = torch.where(chosen, free, soft_prompts)
        return self.loss(prompts, targets, soft_prompts)

    def _tokens(self, place: int, k: int, dev: bool = False) -> tuple[list[int], list[int]]:
        """Prompt with `k` retrieved records, and target, of an example; made once."""
        key = (-1 - place if dev else place, k)
        if key not in self.tokens:
            example = (self.examples.dev if dev else self.examples.train)[place]
            text = prompt_text(
                self.examples.task, example.input, example.profile, k, self.retriever, self.llm, self.options.max_length
            )
            (target,) = self.llm.target_ids([example.gold])
            room = self.llm.prompt_limit(GenerationOptions(max_new_tokens=len(target)))
            limit = None if room is None else room - self.plug.config.n_tokens
            (prompt,) = self.llm.prompt_ids([text], limit=limit)
            self.tokens[key] = prompt, target
        return self.tokens[key]

    def _look(self) -> None:
        """See how well the users kept aside are answered; keep the weights if better than before."""
        found = self._dev_loss()
        if self.step == 0:
            self.before = found
        if found < self.best:
            self.best, self.best_step, self.rounds = found, self.step, 0
            self.best_state = _copied(self.plug.state_dict())
        else:
            self.rounds += 1
        if self.accelerator.is_main_process and 0 < self.step < self.options.steps:
            self._save_checkpoint()

    @torch.no_grad()
    def _dev_loss(self) -> float:
        options, examples = self.options, self.examples
        self.plug.eval()
        losses: list[float] = []
        ks = sorted(set(options.ks))
        places = sorted(range(len(examples.dev)), key=lambda place: len(examples.dev[place].input))
        for start in range(0, len(places), options.batch):
            some = places[start : start + options.batch]
            shown = [examples.dev[place] for place in some]
            histories = [examples.shown(one, options) for one in shown]
            queries = np.stack([one.query for one in shown])
            batch = HistoryBatch.of(histories, self.plug.config, queries, self.loss.device)
            soft_prompts = self.plug(batch.keys, batch.values, batch.mask, batch.query, batch.days)
            for k in ks:
                pairs = [self._tokens(place, k, dev=True) for place in some]
                losses += self.loss([p for p, _ in pairs], [t for _, t in pairs], soft_prompts).tolist()
        self.plug.train()
        return float(np.mean(losses))

    def _batches(self, first: int) -> Iterator[list[tuple[int, int]]]:
        """(example, number of the draw) of each step from `first` on; examples of like length go together."""
        size, n = self.options.batch, len(self.examples.train)
        for step in range(first, self.options.steps):
            pool, place = divmod(step, _POOLED)
            drawn = list(_drawn(self.options.seed, n, pool * _POOLED * size, _POOLED * size))
            drawn.sort(key=lambda one: len(self.examples.train[one[0]].input))
            batches = [drawn[start : start + size] for start in range(0, len(drawn), size)]
            order = np.random.default_rng((self.options.seed, 4, pool)).permutation(_POOLED)
            yield batches[order[place]]

    def resume(self) -> bool:
        """Go on from the checkpoint in `out`, if there is one, and tell whether there was.

        Raises:
            InvalidOptionError: if it is of a run with other options.
        """
        path = self.out / CHECKPOINT
        if not path.is_file():
            return False
        try:
            state = torch.load(path, map_location=self.loss.device, weights_only=True)
        except Exception as error:
            raise PersonaError(f"{path}: the checkpoint cannot be read, delete it to begin anew: {error}") from error
        if state["run"] != self._name():
            raise InvalidOptionError(
                f"{path} is the checkpoint of a run with other options, data or models: finish that one, "
                "delete the file, or train into another folder"
            )
        self.plug.load_state_dict(state["plug"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_state = state["best_state"]
        self.step, self.best_step, self.rounds = state["step"], state["best_step"], state["rounds"]
        self.best, self.before = state["best"], state["before"]
        return True

    def _save_checkpoint(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "run": self._name(),
            "plug": self.plug.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_state": self.best_state,
            "step": self.step,
            "best_step": self.best_step,
            "rounds": self.rounds,
            "best": self.best,
            "before": self.before,
        }
        with replacing(self.out / CHECKPOINT) as temporary:
            torch.save(state, temporary)

    def _name(self) -> str:
        """What makes two runs the same run."""
        sizes = [len(self.examples.train), len(self.examples.dev)]
        return json.dumps([asdict(self.options), asdict(self.plug.config), self.examples.task.name, sizes])

    def finish(self, report: PlugReport) -> None:
        """Save the kept weights and what made them; the checkpoint is not needed any more."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.plug.save_pretrained(self.out)
        notes = {
            "persona": persona.__version__,
            "task": self.examples.task.name,
            "options": asdict(self.options),
            "report": asdict(report),
        }
        write_atomically(self.out / NOTES, json.dumps(notes, indent=2) + "\n")
        (self.out / CHECKPOINT).unlink(missing_ok=True)


def warm_up(
    plug: UserEmbedder,
    examples: _Examples,
    reader: HistoryReader,
    llm: TransformersLM,
    options: PlugTraining,
    progress: Progress | None = None,
) -> None:
    """Teach the heads of `plug` where to look and its soft tokens to say it; see the module. The best step is kept.

    With p the head's guess and a_j the vectors of the answers in the batch, the loss is that of the slot, plus
    ``-log softmax_j(p . a_j / 0.05)`` of the right one, plus 10 times the mean squared error of its style.
    """
    pooling: Any = plug.pooling
    device = next(plug.parameters()).device
    answers = _Answers.of(examples.golds(), plug, reader, llm)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        width, dim = plug.config.width, plug.config.encoder_dim
        head = nn.Sequential(nn.Linear(width + dim, width), nn.GELU(), nn.Linear(width, dim + STYLE_DIM)).to(device)
    parameters = [*pooling.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_WARM_RATE, weight_decay=options.weight_decay, betas=(0.9, 0.98))

    if answers.slot_tokens:
        _set_echo(plug, examples, answers, options)

    def loss_of(some: Sequence[_Example], histories: Sequence[History], asked: bool = True) -> torch.Tensor:
        batch = HistoryBatch.of(histories, plug.config, np.stack([one.query for one in some]), device)
        assert batch.query is not None
        tokens, found = pooling.read(batch.keys, batch.values, batch.mask, batch.query if asked else None, batch.days)
        guess = head(torch.cat((found, batch.query * dim**0.5), dim=1))
        return answers.loss([one.gold for one in some], guess, tokens)

    best, best_state, rounds, report = math.inf, _copied(pooling.state_dict()), 0, progress or (lambda *_: None)
    aside = [(one, examples.shown(one, options)) for one in examples.dev]
    parts = list(_parts([history for _, history in aside], np.random.default_rng((options.seed, 8))))
    for step in range(options.warm_up + 1):
        if step % _WARM_LOOK == 0 or step == options.warm_up:
            with torch.no_grad():
                losses = [
                    float(loss_of([aside[place][0] for place in part], [aside[place][1] for place in part]))
                    for part in parts
                ]
            found = float(np.average(losses, weights=[len(part) for part in parts]))
            rounds = 0 if found < best else rounds + 1
            if found < best:
                best, best_state = found, _copied(pooling.state_dict())
            if rounds >= options.patience:
                break
        if step == options.warm_up:
            break
        draw = np.random.default_rng((options.seed, 6, step))
        some = [examples.warm_up(place) for place in draw.integers(0, examples.n_warm_up, _WARM_BATCH)]
        histories = [examples.shown(one, options, draw) for one in some]
        for group in optimizer.param_groups:
            group["lr"] = _WARM_RATE * _learning_rate(step, options.warm_up)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(some, histories, asked=bool(draw.random() >= options.query_dropout))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        report(step + 1, options.warm_up, float(loss.detach()), best)
    pooling.load_state_dict(best_state)


def _parts(histories: Sequence[History], draw: np.random.Generator) -> Iterator[list[int]]:
    """The histories in parts that fit into memory when padded to their longest; small sets are one part."""
    part: list[int] = []
    longest = 1
    for place in draw.permutation(len(histories)).tolist():
        longest = max(longest, len(histories[place]))
        if part and longest * (len(part) + 1) > _PADDED_RECORDS:
            yield part
            part, longest = [], max(1, len(histories[place]))
        part.append(place)
    if part:
        yield part


@torch.no_grad()
def _set_echo(plug: UserEmbedder, examples: _Examples, answers: _Answers, options: PlugTraining) -> None:
    """Set the echo's gates, and how many records outweigh the null record, by least squares on training examples.

    For a given m the gates e that bring ``sum_h e_h echo_h`` nearest to the answers' embeddings solve normal equations
    of one row per head; m is the one of a few whose gates come nearest.
    """
    pooling: Any = plug.pooling
    device = answers.vectors.device
    draw = np.random.default_rng((options.seed, 7))
    drawn = [examples.warm_up(place) for place in draw.permutation(examples.n_warm_up)[:_CALIBRATION]]
    heads = len(pooling.echo_gates)
    gram = torch.zeros(len(_NULL_RECORDS), heads, heads, device=device)
    right = torch.zeros(len(_NULL_RECORDS), heads, device=device)
    for start in range(0, len(drawn), _WARM_BATCH):
        some = drawn[start : start + _WARM_BATCH]
        batch = HistoryBatch.of(
            [examples.shown(one, options) for one in some],
            plug.config,
            np.stack([one.query for one in some]),
            device,
        )
        aims = answers.aims([one.gold for one in some]).flatten(1)
        weights = pooling.weights(batch.keys, batch.mask, batch.query, batch.days)
        for place, null_records in enumerate(_NULL_RECORDS):
            targets = pooling.targets(batch.values, batch.mask, weights, torch.tensor(null_records, device=device))
            echoes = pooling.echo(targets)  # (batch, heads + 1, slot_tokens * llm_hidden)
            gram[place] += torch.einsum("bhd,bgd->hg", echoes, echoes)
            right[place] += torch.einsum("bhd,bd->h", echoes, aims)
    if not bool(gram.any()):
        return  # nobody has a record with a target
    ridge = _GATE_RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(heads, device=device)
    gates = torch.linalg.solve(gram + ridge, right)
    nearness = torch.einsum("mh,mh->m", gates, 2 * right) - torch.einsum("mh,mhg,mg->m", gates, gram, gates)
    best = int(nearness.argmax())
    pooling.echo_gates.copy_(gates[best])
    pooling.log_null_records.fill_(math.log(_NULL_RECORDS[best]))


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    """What the warm-up aims at: each answer as the record encoder, the style and the LLM's embeddings see it.

    Attributes:
        places: answer -> its row.
        vectors: of the record encoder.  # (answers, encoder_dim)
        styles: (answers, STYLE_DIM)
        ids: token ids of each answer.
        plug: the user embedder that is to say them.
        llm: the LLM that is to hear them.
    """

    places: Mapping[str, int]
    vectors: torch.Tensor
    styles: torch.Tensor
    ids: Sequence[Sequence[int]]
    plug: UserEmbedder
    llm: TransformersLM

    @classmethod
    def of(cls, golds: Sequence[str], plug: UserEmbedder, reader: HistoryReader, llm: TransformersLM) -> _Answers:
        """Of different answers."""
        device = next(plug.parameters()).device
        return cls(
            {gold: place for place, gold in enumerate(golds)},
            torch.from_numpy(reader.questions(golds)).to(device),
            torch.from_numpy(np.stack([style_vector(gold) for gold in golds])).to(device),
            answer_ids(llm, list(golds)),
            plug,
            llm,
        )

    @property
    def slot_tokens(self) -> int:
        """Length of the slot; 0 for none."""
        start, end = self.plug.config.slot
        return end - start

    def aims(self, golds: Sequence[str]) -> torch.Tensor:
        """What answers add to the instruction in the slot, over the LLM's scale.  # (golds, slot_tokens, llm_hidden)"""
        filled = in_slot(self.llm, [self.ids[self.places[gold]] for gold in golds], self.slot_tokens)
        instruction = self.plug.instruction.detach()[slice(*self.plug.config.slot)]
        return filled.to(instruction.device) / self.plug.config.embedding_scale - instruction

    def loss(self, golds: Sequence[str], guess: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The loss of `warm_up`.

        Args:
            golds: the right answers.
            guess: the head's.  # (golds, encoder_dim + STYLE_DIM)
            tokens: what the users add to the instruction.  # (golds, n_tokens, llm_hidden)
        """
        right = torch.tensor([self.places[gold] for gold in golds], device=guess.device)
        different, answer = torch.unique(right, return_inverse=True)
        vector, style = torch.split(guess, [self.vectors.shape[1], STYLE_DIM], dim=1)
        scores = F.normalize(vector, dim=1) @ self.vectors[different].T / _WARM_TEMPERATURE
        loss = F.cross_entropy(scores, answer) + 10 * F.mse_loss(style, self.styles[right])
        if self.slot_tokens:
            start, end = self.plug.config.slot
            aimed = F.pad(self.aims(golds), (0, 0, start, tokens.shape[1] - end))
            loss = loss + (tokens - aimed).square().sum((1, 2)).mean() / self.slot_tokens
        return loss


def prompt_text(
    task: LampTask,
    input: str,
    profile: Profile,
    k: int,
    retriever: Retriever | None,
    llm: TransformersLM,
    max_length: int,
) -> str:
    """The official prompt with `k` retrieved records, or the input alone."""
    if k == 0 or not profile.records:
        return input
    assert retriever is not None
    found = retriever.retrieve(profile, task.query(input), k)
    return lamp_prompt(task, input, [one.record for one in found], llm.tokenizer, max_length=max_length).text


def _drawn(seed: int, n: int, first: int, count: int) -> Iterator[tuple[int, int]]:
    """Draws `first` to `first + count` of an endless row of shuffled rounds over `n` examples, with their numbers."""
    number = first
    while number < first + count:
        order = np.random.default_rng((seed, 5, number // n)).permutation(n)
        end = min((number // n + 1) * n, first + count)
        for place in range(number, end):
            yield int(order[place % n]), place
        number = end


def _learning_rate(step: int, steps: int) -> float:
    """Share of the peak: 5 % of the steps warm up, then half a cosine down to 0."""
    warm = max(1, round(0.05 * steps))
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)))


def _copied(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
