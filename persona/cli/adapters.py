"""The command line of adapters: `persona lora train | plan | list | export | import | rollback`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.cli.terminal import (
    AsJson,
    FamilyKey,
    Llm,
    Store,
    TaskName,
    check_folder,
    names,
    print_json,
    progress_bars,
    say,
    stage_bars,
)

if TYPE_CHECKING:
    from persona.adapters.bank import AdapterBank, StoredAdapter
    from persona.adapters.examples import Example
    from persona.adapters.family import Family, LoraSpec
    from persona.llm.transformers import TransformersLM
    from persona.protocols import LanguageModel

lora_app = typer.Typer(
    name="lora",
    help="Adapters: one LoRA per user on a frozen LLM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Rank = Annotated[int, typer.Option("--r", help="Rank.", min=1)]
Alpha = Annotated[float, typer.Option(help="Scale times rank.")]
Targets = Annotated[str, typer.Option(help="Comma list of layers by the ends of their names, or all-linear.")]
RsLora = Annotated[bool, typer.Option("--rslora", help="Divide alpha by the root of the rank.")]
Dtype = Annotated[str, typer.Option(help="At rest: float32, float16, bfloat16, float64 or int8.")]
Epochs = Annotated[int, typer.Option(help="How often each record is seen.", min=1)]
MinSteps = Annotated[int, typer.Option(help="Fewest steps of a user: with few records, more epochs.", min=0)]
Refit = Annotated[
    bool, typer.Option("--refit/--no-refit", help="Train who is published anew on all records, the held-out ones too.")
]
BatchSize = Annotated[int, typer.Option(help="Records of one user in a step.", min=1)]
LearningRate = Annotated[float, typer.Option(help="Peak of AdamW's for a user's own part.")]
Patience = Annotated[
    int | None, typer.Option(help="Epochs without a better held-out loss before a user's training ends.", min=1)
]
MinRecords = Annotated[int, typer.Option(help="Fewest records of a user who is trained.", min=1)]
Seed = Annotated[int, typer.Option(help="Of everything random.", min=0)]
Halves = Annotated[
    bool,
    typer.Option("--halves", help="Half of the rank for the shared adapter, half for the user's: they add up to one."),
]

_MOST_AUX = 1000


@lora_app.command()
def train(
    store: Store = None,
    llm: Llm = None,
    task: TaskName = None,
    r: Rank = 8,
    alpha: Alpha = 16.0,
    targets: Targets = "all-linear",
    rslora: RsLora = False,
    dtype: Dtype = "float32",
    prior: Annotated[
        bool, typer.Option("--prior/--no-prior", help="Train users over an adapter that they all share.")
    ] = True,
    prior_users: Annotated[int, typer.Option(help="Users that the shared adapter learns from.", min=1)] = 1000,
    new_prior: Annotated[
        bool, typer.Option("--new-prior", help="Train the shared adapter anew, and all users over it.")
    ] = False,
    dirty: Annotated[
        bool, typer.Option("--dirty/--all", help="Only users with records that no version of theirs has seen.")
    ] = True,
    epochs: Epochs = 3,
    min_steps: MinSteps = 12,
    batch_size: BatchSize = 4,
    learning_rate: LearningRate = 2e-3,
    patience: Patience = None,
    min_records: MinRecords = 5,
    refit: Refit = True,
    margin: Annotated[float, typer.Option(help="Share by which a version must beat the shared adapter.")] = 0.0,
    task_adapter: Annotated[
        Path | None,
        typer.Option(
            help="Take the shared adapter of this folder (persona lora train-task), its shape, and its router, which "
            "lends adapters to users with fewer records."
        ),
    ] = None,
    neighbours: Annotated[
        int,
        typer.Option(help="Lend users with fewer records the mean of so many adapters that fit.", min=0),
    ] = 0,
    warm_up: Annotated[
        int, typer.Option(help="Epochs over the user's own texts, which need no answers, before the records.", min=0)
    ] = 0,
    aux_ratio: Annotated[
        float, typer.Option(help="Examples of the users of the shared adapter mixed in, for each of the user's own.")
    ] = 0.0,
    halves: Halves = False,
    chunk_tokens: Annotated[
        int, typer.Option(help="Tokens in a step of all users (persona lora plan finds the best).", min=1)
    ] = 512,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train an adapter for every user, many users at once.

    A version is published only if it beats the shared adapter on the user's newest records. Safe to stop at any moment:
    the next run goes on with the users that are left, to the same weights.
    """
    from persona.adapters.bank import AdapterBank
    from persona.adapters.examples import history_examples, text_examples
    from persona.adapters.training import AdapterTrainer, TrainingOptions
    from persona.lamp.tasks import lamp_task
    from persona.settings import open_store

    options = TrainingOptions(
        learning_rate=learning_rate,
        epochs=epochs,
        min_steps=min_steps,
        batch_size=batch_size,
        patience=patience,
        min_records=min_records,
        refit=refit,
        margin=margin,
        chunk_tokens=chunk_tokens,
        warm_up=warm_up,
        aux_ratio=aux_ratio,
        half="user" if halves else None,
        seed=seed,
    )
    given = None
    spec = _spec(r, alpha, targets, rslora, dtype)
    if task_adapter is not None:
        from persona.adapters.task_adapter import TaskAdapter

        given = TaskAdapter.load(task_adapter)
        spec = replace(given.family.spec, dtype=dtype)
    examples = partial(history_examples, task=None if task is None else lamp_task(task))
    with open_store(store) as opened:
        bank, trainer = AdapterBank(opened), AdapterTrainer(_load(llm), spec, options)
        shared = None
        if given is not None:
            given.check(trainer.llm)
            shared = given.row
        elif prior:
            known = [each for each in bank.families() if each.prior and each.over(None) == trainer.family]
            if known and not new_prior:
                shared = bank.prior(known[-1])
            else:
                taught = islice(opened.user_ids(), prior_users)
                shared = trainer.train_prior(trainer.prior_examples(opened, examples, taught)).row
        aux: list[Example] = []
        if aux_ratio:
            taught = islice(opened.user_ids(), prior_users)
            aux = list(islice(trainer.prior_examples(opened, examples, taught), _MOST_AUX))
        with progress_bars("users") as progress:
            bar = progress.add_task("train users", total=None)
            report = trainer.train_users(
                bank,
                examples,
                prior=shared,
                user_ids=None if dirty else opened.user_ids(),
                text=text_examples,
                aux=aux,
                progress=lambda users, seconds: progress.update(bar, completed=users),
            )
        lent = None
        if neighbours:
            from persona.adapters.neighbours import Neighbours

            lent = Neighbours(trainer, bank, prior=shared, k=neighbours).lend(examples)
        elif given is not None and given.router:
            from persona.adapters.routed import Router

            lent = Router.restored(given.router, trainer, prior=shared).lend(bank, examples)
        family = trainer.family.over(shared)
    if as_json:
        print_json({"family": family.key, **asdict(report), "lent": None if lent is None else asdict(lent)})
        return
    say(
        f"family {family.key}: {report.users} users trained on {report.examples} records in {report.seconds:.1f} s, "
        f"{report.published} adapters published, {report.kept_prior} users keep the shared one"
    )
    if lent is not None:
        say(f"{lent.published} of {lent.users} users with fewer records were lent an adapter")
    if report.too_few or report.too_long:
        say(
            f"left out: {report.too_few} users with fewer than {min_records} records, "
            f"{report.too_long} records that are too long"
        )


@lora_app.command("train-task")
def train_task(
    data: Annotated[Path, typer.Argument(help="A folder with train_questions.json and train_outputs.json.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the task adapter.")],
    llm: Llm = None,
    task: TaskName = None,
    r: Rank = 8,
    alpha: Alpha = 16.0,
    targets: Targets = "all-linear",
    rslora: RsLora = False,
    users: Annotated[int | None, typer.Option(help="Only the first N training users.", min=2)] = None,
    records: Annotated[
        bool, typer.Option("--records/--questions", help="Learn from the users' records too, or their questions only.")
    ] = True,
    task_epochs: Annotated[int, typer.Option(help="Epochs of the task adapter at most.", min=1)] = 2,
    task_learning_rate: Annotated[float, typer.Option(help="Peak of AdamW's for the task adapter.")] = 2e-3,
    task_examples: Annotated[int, typer.Option(help="Examples of the task adapter at most.", min=1)] = 20_000,
    aside: Annotated[float, typer.Option(help="Share of users kept aside to tell when to stop.", min=0)] = 0.1,
    epochs: Epochs = 3,
    min_steps: MinSteps = 12,
    batch_size: BatchSize = 4,
    learning_rate: LearningRate = 2e-3,
    patience: Patience = None,
    min_records: MinRecords = 5,
    refit: Refit = True,
    halves: Halves = False,
    max_tokens: Annotated[
        int | None, typer.Option(help="Leave longer records out (default: what the LLM takes).", min=1)
    ] = None,
    candidates: Annotated[
        int, typer.Option(help="Train so many training users' adapters, from which others may borrow.", min=0)
    ] = 0,
    routed: Annotated[
        int, typer.Option(help="Train so many meta-adapters and what weighs them for a user.", min=0)
    ] = 0,
    routed_steps: Annotated[int, typer.Option(help="Steps of that.", min=1)] = 400,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train a task adapter on the training users of a LaMP task: what `persona eval lamp --lora-task` starts from.

    The options of a user's own part are kept with it. Users in the dev or test split are never looked at.
    """
    from persona.adapters.family import find_modules
    from persona.adapters.task_training import TaskTraining, train_task_adapter
    from persona.adapters.training import TrainingOptions
    from persona.llm.load import load_llm
    from persona.readers import read_split
    from persona.settings import Settings

    options = TrainingOptions(
        learning_rate=learning_rate,
        epochs=epochs,
        min_steps=min_steps,
        batch_size=batch_size,
        patience=patience,
        min_records=min_records,
        refit=refit,
        max_tokens=max_tokens,
        half="user" if halves else None,
        seed=seed,
    )
    training = TaskTraining(
        users=users,
        records=records,
        epochs=task_epochs,
        learning_rate=task_learning_rate,
        examples=task_examples,
        aside=aside,
        candidates=candidates,
        routed=routed,
        routed_steps=routed_steps,
    )
    spec = _spec(r, alpha, targets, rslora, "float32")
    check_folder(out)
    model = _checked(load_llm(llm or Settings().llm, overlong="truncate"))
    find_modules(model.model, spec)  # A layer that is not there is told before the records are read.
    split = read_split(data, "train", task=task)
    with progress_bars("steps") as progress:
        made = train_task_adapter(split, model, spec, options, training, progress=stage_bars(progress))
    made.save(out)
    if as_json:
        print_json({"out": str(out), "fingerprint": made.fingerprint, **made.report})
        return
    told = made.report
    say(f"{out}: task adapter from {told['examples']:.0f} examples of {told['users']:.0f} users")
    if "loss" in told:
        say(f"loss on users kept aside {told['loss']:.4f} nats per token, {told['loss_before']:.4f} without")
    if routed:
        say(
            f"{routed} meta-adapters: loss on users kept aside {told['loss_routed']:.4f}, "
            f"{told['loss_unrouted']:.4f} with the task adapter alone"
        )
    if candidates:
        say(f"{told['candidates']:.0f} training users' adapters to borrow from")


@lora_app.command()
def plan(
    users: Annotated[int, typer.Option(help="How many users.", min=1)],
    llm: Llm = None,
    r: Rank = 8,
    alpha: Alpha = 16.0,
    targets: Targets = "all-linear",
    rslora: RsLora = False,
    dtype: Dtype = "float32",
    records: Annotated[int, typer.Option(help="Records of a user.", min=1)] = 50,
    tokens: Annotated[int, typer.Option(help="Tokens of a record with its answer.", min=8)] = 128,
    epochs: Epochs = 3,
    min_steps: MinSteps = 12,
    batch_size: BatchSize = 4,
    as_json: AsJson = False,
) -> None:
    """Tell what adapters for so many users cost: bytes, memory, time. Measures some steps on this machine."""
    from persona.adapters.planning import plan_training
    from persona.adapters.training import AdapterTrainer, TrainingOptions

    options = TrainingOptions(epochs=epochs, min_steps=min_steps, batch_size=batch_size)
    trainer = AdapterTrainer(_load(llm), _spec(r, alpha, targets, rslora, dtype), options)
    found = plan_training(trainer, users, records=records, tokens=tokens)
    if as_json:
        print_json(asdict(found))
        return
    say(f"{users} users, {found.numbers} numbers each")
    say(f"at rest   {_size(found.bytes_per_adapter)} each, {_size(found.bytes_at_rest)} for all")
    say(f"in use    {_size(found.bytes_per_slot)} for each adapter of a batch")
    say(f"training  {_size(found.bytes_in_training)} beside the model, {found.users_at_once} users at once")
    say(
        f"time      {_duration(found.seconds)} at {found.users_per_second:.2f} users/s, "
        f"with --chunk-tokens {found.chunk_tokens}"
    )


@lora_app.command("list")
def list_adapters(
    user_id: Annotated[str | None, typer.Argument(help="Whose versions to list.")] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """List the kinds of adapters in the store, or all versions of one user."""
    from persona.adapters.bank import AdapterBank
    from persona.errors import UnknownUserError
    from persona.settings import open_store

    with open_store(store) as opened:
        bank = AdapterBank(opened)
        if user_id is not None:
            if user_id not in opened:
                raise UnknownUserError(f"the store holds nothing on {user_id!r}")
            found = [(family, bank.versions(user_id, family)) for family in bank.families()]
            versions = [_version(family, one) for family, some in found for one in some]
            _print(versions, as_json, f"there are no adapters of {user_id!r}")
            return
        kinds = [_kind(family, bank.counts(family)) for family in bank.families()]
    _print(kinds, as_json, "there are no adapters: make some with `persona lora train`")


@lora_app.command()
def export(
    out: Annotated[Path, typer.Argument(help="Folder for the adapters' folders.")],
    store: Store = None,
    user: Annotated[str | None, typer.Option("--user", help="Only this user's.")] = None,
    base_name: Annotated[
        str | None, typer.Option(help="What the model is called where they will be loaded (default: by fingerprint).")
    ] = None,
    family: FamilyKey = None,
    as_json: AsJson = False,
) -> None:
    """Write current adapters as PEFT folders, USER@VERSION each, for PEFT, vLLM or SGLang."""
    from persona.adapters.bank import PUBLISHED, AdapterBank
    from persona.adapters.peft_format import export_adapter
    from persona.errors import UnknownAdapterError
    from persona.settings import open_store

    with open_store(store) as opened:
        bank = AdapterBank(opened)
        chosen = _family(bank, family)
        name = base_name or chosen.base.split("@")[0]
        adapters: Iterable[StoredAdapter]
        if user is None:
            adapters = (each for each in bank.current_adapters(chosen) if each.state == PUBLISHED)
        else:
            current = bank.current(user, chosen)
            if current is None or current.state != PUBLISHED:
                raise UnknownAdapterError(f"{user!r} has no adapter of the family {chosen.key}: nothing was exported")
            adapters = (current,)
        with progress_bars("adapters") as progress:
            written = [export_adapter(bank, each, out, base_name=name) for each in progress.track(adapters)]
    if as_json:
        print_json({"family": chosen.key, "adapters": [str(path) for path in written]})
    else:
        say(f"{len(written)} adapters written to {out}")


@lora_app.command("import")
def import_folders(
    folders: Annotated[list[Path], typer.Argument(help="PEFT folders of one kind.")],
    store: Store = None,
    llm: Llm = None,
    user: Annotated[str | None, typer.Option("--user", help="Whose it is (default: as export noted it).")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="At rest, for a family that is not there yet: float32 (the default), float16, bfloat16 ..."),
    ] = None,
    family: FamilyKey = None,
    as_json: AsJson = False,
) -> None:
    """Publish adapters from PEFT folders as new versions."""
    from persona.adapters.bank import AdapterBank
    from persona.adapters.family import Family, find_modules
    from persona.adapters.peft_format import import_adapters, noted_family, read_spec
    from persona.errors import InvalidOptionError
    from persona.settings import open_store

    if family is not None and dtype is not None:
        raise InvalidOptionError("--dtype is for a family that is not there yet: leave it out, or --family")
    with open_store(store) as opened:
        bank = AdapterBank(opened)
        known = {each.key: each.spec.dtype for each in bank.families()}
        noted = sorted({noted_family(folder) for folder in folders})
        if family is None and len(noted) > 1:
            keys = ", ".join(key or "none" for key in noted)
            raise InvalidOptionError(
                f"folders of one family can be imported together, these are of {keys}: import those of each by "
                "themselves, or name the one they are to go to with --family"
            )
        if family is None and noted[0] in known and dtype in (None, known[noted[0]]):
            family = noted[0]
        if family is None:
            model, spec = _load(llm), read_spec(folders[0], dtype=dtype or "float32")
            chosen, prior = Family(model.fingerprint, spec, find_modules(model.model, spec)), None
        else:
            chosen = _family(bank, family)
            prior = bank.prior(chosen)
        published = import_adapters(bank, folders, chosen, prior=prior, user_id=user)
    if as_json:
        print_json([_version(chosen, each) for each in published])
    else:
        say(f"{len(published)} adapters published in the family {chosen.key}")


@lora_app.command()
def rollback(
    user_id: Annotated[str, typer.Argument(help="Whose.")],
    store: Store = None,
    family: FamilyKey = None,
    as_json: AsJson = False,
) -> None:
    """Withdraw a user's current version; the one before it is current again."""
    from persona.adapters.bank import AdapterBank
    from persona.settings import open_store

    with open_store(store) as opened:
        bank = AdapterBank(opened)
        chosen = _family(bank, family)
        current = bank.roll_back(user_id, chosen)
    if as_json:
        print_json(_version(chosen, current))
    else:
        say(f"{current.name} is current again ({current.state})")


def _load(llm: str | None) -> TransformersLM:
    from persona.llm.load import load_llm
    from persona.settings import Settings

    return _checked(load_llm(llm or Settings().llm))


def _checked(loaded: LanguageModel) -> TransformersLM:
    from persona.errors import UnsupportedChannelError
    from persona.llm.transformers import TransformersLM

    if not isinstance(loaded, TransformersLM):
        raise UnsupportedChannelError("adapters need a transformers model: give a folder, a hub id or tiny with --llm")
    return loaded


def _spec(r: int, alpha: float, targets: str, rslora: bool, dtype: str) -> LoraSpec:
    from persona.adapters.family import LoraSpec

    return LoraSpec(r, alpha, names(targets, "--targets"), rslora, dtype)


def _family(bank: AdapterBank, key: str | None) -> Family:
    from persona.errors import InvalidOptionError, UnknownAdapterError

    found = [family for family in bank.families() if family.key.startswith(key or "")]
    if not found:
        wanted = f"no family {key}" if key else "no adapters"
        raise UnknownAdapterError(f"the store has {wanted}: `persona lora list` shows what is there")
    if len(found) > 1:
        found = [family for family in found if any(bank.counts(family).values())] or found
    if len(found) > 1:
        keys = ", ".join(family.key for family in found)
        raise InvalidOptionError(f"there are {len(found)} families, name one with --family: {keys}")
    return found[0]


def _kind(family: Family, counts: dict[str, int]) -> dict[str, Any]:
    spec = family.spec
    return {
        "family": family.key,
        "base": family.base,
        "r": spec.r,
        "alpha": spec.alpha,
        "rslora": spec.rslora,
        "targets": ",".join(spec.targets),
        "dtype": spec.dtype,
        "bytes": family.nbytes,
        "prior": family.prior and family.prior[:12],
        "users": counts,
    }


def _version(family: Family, adapter: StoredAdapter) -> dict[str, Any]:
    return {
        "adapter": adapter.name,
        "family": family.key,
        "state": adapter.state,
        "revision": adapter.revision,
        "created": adapter.created,
        "metrics": dict(adapter.metrics),
    }


def _print(rows: list[dict[str, Any]], as_json: bool, nothing: str) -> None:
    if as_json:
        print_json(rows)
    elif not rows:
        say(nothing)
    for row in [] if as_json else rows:
        say("  ".join(f"{name} {value}" for name, value in row.items()))


def _size(count: int) -> str:
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.1f} {units[0]}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
