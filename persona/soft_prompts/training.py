"""Training a user embedder against a frozen LLM.

The loss is that of the LLM on the answers of training examples (`persona.soft_prompts.examples`), after a warm-up in which the
LLM computes nothing (`persona.soft_prompts.warm_up`). At the end the soft prompt of a user without records is tuned alone, on
examples that show none, and nothing else moves: what the embedder says of users with records stays as it is. Last, an
embedder that copies learns what to copy (`persona.soft_prompts.copy_training`), with all else as it is.

Everything random in step n follows from ``(seed, n)``, and a checkpoint holds the parameters, the optimizer and the
step. So a run that was killed goes on to the very weights of an undisturbed one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from persona.errors import InvalidOptionError, PersonaError
from persona.files import make_ordinary, replacing, write_atomically
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import LampSplit, LampTask
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions, Retriever
from persona.records import Profile
from persona.soft_prompts.copy_training import train_copying
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.examples import Example, Examples, UserEmbedderTraining
from persona.soft_prompts.histories import HistoryBatch, ReadsHistories
from persona.soft_prompts.warm_up import Progress, copied_state, rate_share, warm_up
from persona.version import __version__

CHECKPOINT = "checkpoint.pt"
NEW_USER_CHECKPOINT = "new_user_checkpoint.pt"
NOTES = "training.json"

_NEW_USER = "pooling.new_user"
_NEW_USER_RATE = 2.0
"""Of the tuning for new users: the learning rate, over the usual size of one number in a soft token."""

_POOLED = 8
"""Batches that are drawn together and sorted by length, so that little is padded."""


@dataclass(frozen=True, slots=True)
class UserEmbedderReport:
    """What a training did.

    Attributes:
        steps: steps taken, those before a resume among them.
        best_step: the step whose weights were kept; 0 is the start.
        dev_loss: mean loss of the kept weights on the users kept aside, nats per token.
        dev_loss_before: the same at the start.
        new_user_loss: mean loss on their questions, were they new users without any record; None without that tuning.
        new_user_loss_before: the same before the tuning.
        copy_loss: mean loss on (some of) their questions with what is copied, each with one of `UserEmbedderTraining.ks`
            records; None for an embedder that was not made to copy.
        copy_loss_before: the same with nothing copied; equal if nothing is.
        users: training users, without those kept aside.
        questions: questions of the split that were trained on.
        made: further questions made from the users' own records.
        seconds: of this run.
    """

    steps: int
    best_step: int
    dev_loss: float
    dev_loss_before: float
    new_user_loss: float | None
    new_user_loss_before: float | None
    copy_loss: float | None
    copy_loss_before: float | None
    users: int
    questions: int
    made: int
    seconds: float


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
    warm_progress: Progress | None = None,
    new_user_progress: Progress | None = None,
    copy_progress: Progress | None = None,
) -> UserEmbedderReport:
    """Train `embedder` in place on a LaMP split, and save the best weights in `out`.

    Args:
        embedder: the user embedder (`UserEmbedder.for_llm`).
        split: training questions with golds; its users must be in no split that is reported on.
        llm: the frozen LLM. Its weights stay as they are.
        reader: reads histories for `embedder`; with a store, no vector is computed twice.
        options: how to train.
        out: folder for the checkpoint, the weights and ``training.json``. A run with the same options that was
            stopped goes on from its checkpoint.
        retriever: finds the records of prompts with some; needed if one of `UserEmbedderTraining.ks` is not 0.
        progress: see `Progress`.
        warm_progress: the same for the warm-up.
        new_user_progress: the same for the tuning for new users.
        copy_progress: the same for learning what to copy; it counts target tokens, and has no losses.

    Raises:
        EvaluationError: if the split has no golds, or too few users to keep some aside.
        InvalidOptionError: if a retriever is needed and there is none, `out` holds the checkpoint of a run with other
            options, or a prompt is longer than the LLM can take and it was loaded with ``overlong="error"``.
        FingerprintMismatchError: if `embedder` belongs to another LLM or encoder.
    """
    options = options or UserEmbedderTraining()
    begun = time.perf_counter()
    embedder.check_fits(reader.fingerprint, llm)
    room = llm.input_limit(GenerationOptions(max_new_tokens=1))
    if room is not None and embedder.config.n_tokens >= room:
        raise InvalidOptionError(
            f"{llm.name} reads at most {room} tokens, {embedder.config.n_tokens} soft ones leave none for a question: "
            "make fewer (`n_tokens`, --tokens)"
        )
    embedder.note_task(split.task.name)
    if any(options.ks) and retriever is None:
        raise InvalidOptionError("training prompts with records need a retriever: give one, or set `ks=(0,)`")
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
    silent: Progress = lambda done, total, loss, best: None  # noqa: E731
    embedder.to(llm.model.device)
    run = _Run(embedder, llm, examples, options, out / CHECKPOINT, retriever, accelerator)
    place = out / NEW_USER_CHECKPOINT
    if not run.resume():
        if accelerator.is_main_process:
            place.unlink(missing_ok=True)  # of a run that is not gone on with
        if embedder.config.mode == "attention" and options.warm_up:
            warm_up(embedder, examples, reader, llm, options, progress=warm_progress)
    run.train(progress or silent)
    new_user = None
    if (tuning := _new_user_options(embedder, options)) is not None:
        new_user = _Run(embedder, llm, examples, tuning, place, retriever, accelerator, only=_NEW_USER)
        new_user.resume()
        new_user.train(new_user_progress or silent)
    copy_loss = copy_loss_before = None
    if embedder.copying is not None:
        embedder.eval()
        copy_loss, copy_loss_before = train_copying(
            embedder, examples, run.example_tokens, run.loss, options, copy_progress
        )
    embedder.requires_grad_(True)
    accelerator.wait_for_everyone()  # until then another process may want to read a checkpoint
    report = UserEmbedderReport(
        steps=run.step,
        best_step=run.best_step,
        dev_loss=run.best,
        dev_loss_before=run.before,
        new_user_loss=None if new_user is None else new_user.best,
        new_user_loss_before=None if new_user is None else new_user.before,
        copy_loss=copy_loss,
        copy_loss_before=copy_loss_before,
        users=examples.n_users,
        questions=sum(not example.made for example in examples.train),
        made=sum(example.made for example in examples.train),
        seconds=time.perf_counter() - begun,
    )
    if accelerator.is_main_process:
        _finish(embedder, split.task, options, report, out)
    return report


def _new_user_options(embedder: UserEmbedder, options: UserEmbedderTraining) -> UserEmbedderTraining | None:
    """How the soft prompt of a user without records is tuned, who has none in the text either; None if it is not."""
    steps = options.steps // 2 if options.new_user_steps is None else options.new_user_steps
    if embedder.config.mode != "attention" or options.without_user or not steps:
        return None
    rate = _NEW_USER_RATE / embedder.config.llm_hidden**0.5
    return replace(options, without_user=True, steps=steps, learning_rate=rate, ks=(0,))


class _Run:
    """One training: its state, and how a step is taken. With `only`, of the parameter of this name alone."""

    def __init__(
        self,
        embedder: UserEmbedder,
        llm: TransformersLM,
        examples: Examples,
        options: UserEmbedderTraining,
        checkpoint: Path,
        retriever: Retriever | None,
        accelerator: Accelerator,
        *,
        only: str | None = None,
    ) -> None:
        self.embedder, self.llm, self.examples, self.options, self.checkpoint = (
            embedder,
            llm,
            examples,
            options,
            checkpoint,
        )
        self.retriever, self.accelerator = retriever, accelerator
        # What the rest of the weights is belongs to a run that leaves them as they are.
        self.begun_from = embedder.fingerprint if only else ""
        self.loss = TargetLoss(llm)
        for name, parameter in embedder.named_parameters():
            parameter.requires_grad_(name == only if only else name != _NEW_USER)
        trained = [parameter for parameter in embedder.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.98)
        )
        self.model, self.optimizer = accelerator.prepare(embedder, self.optimizer)
        self.step = self.best_step = self.rounds = 0
        self.looked = -1
        self.best = self.before = math.inf
        self.best_state = copied_state(embedder.state_dict())
        self.tokens: dict[tuple[int, int], tuple[list[int], list[int]]] = {}

    def train(self, progress: Progress) -> None:
        """Take steps until there are enough, or no better ones come."""
        options = self.options
        self.embedder.train()
        for batch in self._batches(self.step):
            if self.step % options.evaluate_every == 0:
                self._look()
                if self.rounds >= options.patience:
                    break
            share = rate_share(self.step, options.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = options.learning_rate * share
            loss = self._take(batch)
            self.step += 1
            progress(self.step, options.steps, loss, self.best)
        else:
            self._look()
        self.embedder.load_state_dict(self.best_state)
        self.embedder.eval()

    def _take(self, batch: Sequence[tuple[int, int]]) -> float:
        """One optimizer step; the batch's mean loss."""
        # All, not only those of the optimizer: what an earlier run left would count when gradients are clipped.
        self.embedder.zero_grad(set_to_none=True)
        total = 0.0
        processes = self.accelerator.num_processes
        mine = batch[self.accelerator.process_index :: processes]
        # Gradients are averaged over the processes after each part. Their shares of the batch need not be equal, the
        # number of parts has to be: one that has no example left takes part with one that counts nothing.
        largest = -(-len(batch) // processes)
        size = -(-largest // self.options.accumulate)
        for start in range(0, largest, size):
            part = mine[start : start + size]
            weight = processes / len(batch) if part else 0.0
            loss = self._loss(part or batch[:1]).sum() * weight
            self.accelerator.backward(loss)
            total += float(loss.detach())
        self.accelerator.clip_grad_norm_(self.embedder.parameters(), 1.0)
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
        batch = HistoryBatch.of(histories, self.embedder.config, np.stack(queries), self.loss.device)
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
            self.tokens[key] = self.example_tokens((self.examples.dev if dev else self.examples.train)[place], k)
        return self.tokens[key]

    def example_tokens(self, example: Example, k: int) -> tuple[list[int], list[int]]:
        """Prompt with `k` retrieved records, and target, of an example."""
        text = prompt_text(
            self.examples.task, example.input, example.profile, k, self.retriever, self.llm, self.options.max_length
        )
        (target,) = self.llm.target_ids([example.gold])
        room = self.llm.input_limit(GenerationOptions(max_new_tokens=len(target)))
        limit = None if room is None else room - self.embedder.config.n_tokens
        (prompt,) = self.llm.prompt_ids([text], limit=limit)
        return prompt, target

    def _look(self) -> None:
        """See how well the users kept aside are answered; keep the weights if better than before.

        Where a run goes on from a checkpoint it has looked already.
        """
        if self.looked == self.step:
            return
        self.looked = self.step
        found = self._dev_loss()
        if self.step == 0:
            self.before = found
        if found < self.best:
            self.best, self.best_step, self.rounds = found, self.step, 0
            self.best_state = copied_state(self.embedder.state_dict())
        else:
            self.rounds += 1
        if self.accelerator.is_main_process and self.step:
            self._save_checkpoint()

    @torch.no_grad()
    def _dev_loss(self) -> float:
        options, examples = self.options, self.examples
        self.embedder.eval()
        losses: list[float] = []
        ks = sorted(set(options.ks))
        places = sorted(range(len(examples.dev)), key=lambda place: len(examples.dev[place].input))
        for start in range(0, len(places), options.batch):
            some = places[start : start + options.batch]
            shown = [examples.dev[place] for place in some]
            histories = [examples.shown(one, options) for one in shown]
            queries = np.stack([one.query for one in shown])
            batch = HistoryBatch.of(histories, self.embedder.config, queries, self.loss.device)
            soft_prompts = self.embedder(batch.keys, batch.values, batch.mask, batch.query, batch.days)
            for k in ks:
                pairs = [self._tokens(place, k, dev=True) for place in some]
                losses += self.loss([p for p, _ in pairs], [t for _, t in pairs], soft_prompts).tolist()
        self.embedder.train()
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
        """Go on from the checkpoint, if there is one, and tell whether there was.

        Raises:
            InvalidOptionError: if it is of a run with other options.
        """
        path = self.checkpoint
        if not path.is_file():
            return False
        try:
            state = torch.load(path, map_location=self.loss.device, weights_only=True)
        except Exception as error:
            # torch's own words would advise to load it unsafely.
            raise PersonaError(f"{path}: the checkpoint cannot be read, delete it to begin anew") from error
        if state["run"] != self._name():
            raise InvalidOptionError(
                f"{path} is the checkpoint of a run with other options, data or models: finish that one, "
                "delete the file, or train into another folder"
            )
        self.embedder.load_state_dict(state["embedder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_state = state["best_state"]
        self.step, self.best_step, self.rounds = state["step"], state["best_step"], state["rounds"]
        self.best, self.before = state["best"], state["before"]
        self.looked = self.step
        return True

    def _save_checkpoint(self) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "run": self._name(),
            "embedder": self.embedder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_state": self.best_state,
            "step": self.step,
            "best_step": self.best_step,
            "rounds": self.rounds,
            "best": self.best,
            "before": self.before,
        }
        with replacing(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def _name(self) -> str:
        """What makes two runs the same run."""
        kind = type(self.retriever)
        # The plain `repr` would name a place in memory.
        retriever = kind.__name__ if kind.__repr__ is object.__repr__ else repr(self.retriever)
        data = [self.examples.task.name, self.examples.fingerprint, retriever]
        return json.dumps([asdict(self.options), asdict(self.embedder.config), data, self.begun_from])


def _finish(
    embedder: UserEmbedder, task: LampTask, options: UserEmbedderTraining, report: UserEmbedderReport, out: Path
) -> None:
    """Save the kept weights and what made them; the checkpoints are not needed any more."""
    out.mkdir(parents=True, exist_ok=True)
    embedder.save_pretrained(out)
    make_ordinary(out / "model.safetensors")
    notes = {
        "persona": __version__,
        "task": task.name,
        "options": asdict(options),
        "report": asdict(report),
    }
    write_atomically(out / NOTES, json.dumps(notes, indent=2) + "\n")
    for name in (NEW_USER_CHECKPOINT, CHECKPOINT):
        (out / name).unlink(missing_ok=True)


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
