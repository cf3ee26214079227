"""`persona train adapters`: users' adapters, and what is trained once for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.cli import terminal, train
from persona.cli.options import command
from persona.errors import InvalidOptionError, check_one_of

if TYPE_CHECKING:
    from torch import Tensor

    from persona.adapters.bank import AdapterBank
    from persona.adapters.examples import ExampleMaker
    from persona.adapters.task_adapter import TaskAdapter
    from persona.adapters.training.trainer import AdapterTrainer
    from persona.adapters.versions import AdapterReport
    from persona.store.profile_store import ProfileStore

KINDS = ("lora", "one-pass", "steering")
"""What can be made for every user."""

_SAMPLED = 20
"""Users whose records are read to plan a training."""


@dataclass(frozen=True)
class UserSettings:
    """What the users' adapters lie over, and what users with few records get.

    Attributes:
        prior: train users over an adapter that they all share.
        prior_users: users that the shared adapter learns from.
        new_prior: train the shared adapter anew, and all users over it.
        neighbours: lend users with fewer than `min_records` records the mean of this number of adapters that fit.
        kind: what is made: lora, trained; one-pass, written by the generator of the task adapter; or steering vectors
            (settings of the section steering).
    """

    prior: bool = True
    prior_users: int = 1000
    new_prior: bool = False
    neighbours: int = 0
    kind: str = KINDS[0]

    def __post_init__(self) -> None:
        check_one_of(KINDS, kind=self.kind)


def _defaults() -> dict[str, Any]:
    from persona.adapters.family import LoraSpec
    from persona.adapters.generated.training import GeneratorTraining
    from persona.adapters.training.options import TrainingOptions
    from persona.adapters.training.task import TaskTraining
    from persona.steering.options import SteeringOptions

    users = {"users": UserSettings(), "task": TaskTraining(), "generator": GeneratorTraining()}
    return {"": TrainingOptions(), "lora": LoraSpec(), **users, "steering": SteeringOptions()}


@dataclass(frozen=True)
class TrainAdapters:
    """Options of `persona train adapters`.

    Attributes:
        data: for a task adapter or a generator: a folder with train_questions.json and train_outputs.json.
        out: folder for the task adapter of DATA.
        task_adapter: train users over this task adapter, in its shape; its router is for users with few records.
            With DATA: train a generator of adapters over it, which goes into its folder.
        everybody: also users without new records.
        dry_run: only say what it costs: bytes, memory, time. Measures some steps.
    """

    data: Annotated[Path | None, typer.Argument()] = None
    out: Path | None = None
    llm: terminal.Llm = None
    task: terminal.TaskName = None
    task_adapter: Path | None = None
    everybody: Annotated[bool, typer.Option("--all")] = False
    dry_run: bool = False


@command(train.app, "adapters", TrainAdapters, store=True, settings=_defaults)
def train_adapters(options: TrainAdapters, settings: Mapping[str, Any]) -> None:
    """Train an adapter for every user in the store.

    Many users at once. A version is published only if it beats the shared adapter on the user's newest records. Safe to
    stop at any moment: the next run goes on with the users that are left, to the same weights.

    With DATA and --out: a task adapter from the training users of a LaMP task, which users' adapters can lie over.
    With DATA and --task-adapter: a generator, which writes users' adapters without training (users.kind=one-pass).
    """
    if options.data is not None:
        _train_shared(options.data, options, settings)
        return
    if options.out is not None:
        raise InvalidOptionError("--out is for a task adapter, and needs DATA; users' adapters go into the store")
    from persona.adapters.bank import AdapterBank
    from persona.adapters.examples import history_examples
    from persona.adapters.task_adapter import TaskAdapter
    from persona.adapters.training.trainer import AdapterTrainer
    from persona.adapters.training.users import train_users
    from persona.lamp.tasks import lamp_task

    given = None if options.task_adapter is None else TaskAdapter.load(options.task_adapter)
    one_pass = settings["users"].kind == "one-pass"
    if one_pass and (given is None or given.generator_folder() is None):
        raise InvalidOptionError(
            "users.kind=one-pass needs a task adapter with a generator: train one with DATA and --task-adapter FOLDER"
        )
    spec = settings["lora"] if given is None else replace(given.family.spec, dtype=settings["lora"].dtype)
    examples = partial(history_examples, task=None if options.task is None else lamp_task(options.task))
    if settings["users"].kind == "steering":
        if options.task_adapter is not None or options.dry_run:
            raise InvalidOptionError("--task-adapter and --dry-run are not for users.kind=steering: leave them out")
        train.steer_users(options.llm, settings["steering"], examples, everybody=options.everybody)
        return
    with terminal.opened_store() as store:
        trainer = AdapterTrainer(train.load_trainable(options.llm), spec, settings[""])
        if options.dry_run:
            _report_plan(store, trainer, examples)
            return
        bank = AdapterBank(store)
        if one_pass and given is not None:
            _write_users(bank, trainer, examples, given, list(store.user_ids()) if options.everybody else None)
            return
        prior = _prior(bank, trainer, examples, settings["users"], given)
        with terminal.progress_bars("users") as progress:
            bar = progress.add_task("train users", total=None)
            done = train_users(
                trainer,
                bank,
                examples,
                prior=prior,
                user_ids=store.user_ids() if options.everybody else None,
                progress=lambda users, seconds: progress.update(bar, completed=users),
            )
        lent = _lent(bank, trainer, examples, prior, settings["users"].neighbours, given)
        terminal.report_facts({"family": trainer.family.over(prior).key, **asdict(done), "lent": lent and asdict(lent)})


def _prior(
    bank: AdapterBank, trainer: AdapterTrainer, examples: ExampleMaker, users: UserSettings, given: TaskAdapter | None
) -> Tensor | None:
    """The shared adapter: that of a task adapter, the one in the store, or a new one."""
    from persona.adapters.training.users import prior_examples

    if given is not None:
        given.trainer(trainer.llm)  # refuses another model
        return given.row
    if not users.prior:
        return None
    known = [each for each in bank.families() if each.prior and each.over(None) == trainer.family]
    if known and not users.new_prior:
        return bank.prior(known[-1])
    taught = islice(bank.store.user_ids(), users.prior_users)
    return trainer.train_prior(prior_examples(trainer, bank.store, examples, taught)).row


def _lent(
    bank: AdapterBank,
    trainer: AdapterTrainer,
    examples: ExampleMaker,
    prior: Tensor | None,
    neighbours: int,
    given: TaskAdapter | None,
) -> AdapterReport | None:
    """Adapters for users with few records: of neighbours, or of a task adapter's router; None if there is neither."""
    if neighbours:
        from persona.adapters.few_records.neighbours import Neighbours, trained_rows

        rows = trained_rows(bank, trainer.family.over(prior))
        return Neighbours(trainer, rows, prior=prior, k=neighbours).publish(bank, examples)
    if given is not None and given.router is not None:
        from persona.adapters.generated.one_pass import OnePass

        return OnePass(given.router, trainer, examples, prior=prior).publish(bank)
    return None


def _report_plan(store: ProfileStore, trainer: AdapterTrainer, examples: ExampleMaker) -> None:
    """What a training of all users in the store costs."""
    from persona.adapters.training.planning import plan

    tokens = (trainer.tokens(examples(store.profile(user_id))) for user_id in islice(store.user_ids(), _SAMPLED))
    lessons = sorted(
        (lesson for own in tokens if (lesson := trainer.lesson("typical", own)) is not None),
        key=lambda lesson: lesson.steps(trainer.options) * lesson.longest,
    )
    if not lessons:
        raise InvalidOptionError("there is nothing to plan: no user in the store has records to train on")
    users = store.counts().users
    terminal.report_facts({"users": users, **asdict(plan(trainer, users, lessons[len(lessons) // 2]))})


def _write_users(
    bank: AdapterBank, trainer: AdapterTrainer, examples: ExampleMaker, given: TaskAdapter, user_ids: list[str] | None
) -> None:
    """Publish what the task adapter's generator writes for users."""
    from persona.adapters.generated.generator import load_generator
    from persona.adapters.generated.one_pass import OnePass

    folder = given.generator_folder()
    assert folder is not None
    generator = load_generator(folder)
    done = OnePass(generator, trainer, examples, prior=given.row).publish(bank, user_ids=user_ids)
    terminal.report_facts({"family": generator.family.key, "generator": generator.fingerprint, **asdict(done)})


def _train_shared(data: Path, options: TrainAdapters, settings: Mapping[str, Any]) -> None:
    """What is trained from DATA for all users: a task adapter, or a generator over one."""
    given = {"--all": options.everybody, "--dry-run": options.dry_run, "--store": terminal.EVERYWHERE.get().store}
    unread = [name for name, value in given.items() if value]
    if unread:
        raise InvalidOptionError(f"nothing of DATA goes into a store; {', '.join(unread)}: leave it out")
    if options.out is not None and options.task_adapter is None:
        _train_task_adapter(data, options.out, options, settings)
    elif options.task_adapter is not None and options.out is None:
        _train_generator(data, options.task_adapter, options, settings)
    else:
        raise InvalidOptionError(
            "from DATA a task adapter is trained into --out FOLDER, or a generator over --task-adapter FOLDER: name one"
        )


def _train_generator(data: Path, folder: Path, options: TrainAdapters, settings: Mapping[str, Any]) -> None:
    from persona.adapters.generated.training import train_generator
    from persona.adapters.task_adapter import GENERATOR, GENERATOR_WITHOUT_USER, TaskAdapter
    from persona.adapters.training.task import split_examples
    from persona.readers import read_split

    training = settings["generator"]
    task = TaskAdapter.load(folder)
    out = folder / (GENERATOR if training.with_user else GENERATOR_WITHOUT_USER)
    terminal.check_folder(out)
    trainer = task.trainer(train.load_trainable(options.llm, overlong="truncate"))
    split = read_split(data, "train", task=options.task or task.task)
    users = [trainer.tokens(own) for own in split_examples(split)[: settings["task"].users]]
    with terminal.progress_bars("steps") as progress:
        bar = progress.add_task("generator", total=training.steps)
        done = train_generator(
            trainer,
            users,
            training,
            prior=task.row,
            folder=folder,
            progress=lambda steps, seconds: progress.update(bar, completed=steps),
        )
    done.generator.save(out)
    numbers = {name: getattr(done, name) for name in ("loss", "loss_before", "steps", "seconds")}
    terminal.report_facts({"out": str(out), "fingerprint": done.generator.fingerprint, **numbers})


def _train_task_adapter(data: Path, out: Path, options: TrainAdapters, settings: Mapping[str, Any]) -> None:
    from persona.adapters.family import find_modules
    from persona.adapters.training.task import train_task_adapter
    from persona.readers import read_split

    terminal.check_folder(out)
    llm = train.load_trainable(options.llm, overlong="truncate")
    find_modules(llm.model, settings["lora"])  # a layer that is not there is reported before the records are read
    split = read_split(data, "train", task=options.task)
    with terminal.progress_bars("steps") as progress:
        trained = train_task_adapter(
            split, llm, settings["lora"], settings[""], settings["task"], progress=terminal.stage_bars(progress)
        )
    trained.save(out)
    terminal.report_facts({"out": str(out), "fingerprint": trained.fingerprint, **trained.report})
