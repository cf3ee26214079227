"""The command line of user embedders: `persona user-embedder train | show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from persona.cli.retrieve import check_encoder_is_read
from persona.cli.terminal import (
    AsJson,
    Encoder,
    Llm,
    TaskName,
    UserVectors,
    check_folder,
    embed_views,
    numbers,
    print_json,
    progress_bars,
    say,
)
from persona.errors import DataFormatError, reason

_TRAINED = ("attention", "persona-plug")
"""The modes that are trained from histories."""
_VECTOR_TOKENS = 4
"""Soft tokens from users' own vectors, where nothing else is said."""
_HEADS, _WIDTH, _WARM_UP = 4, 256, 400

user_embedder_app = typer.Typer(
    name="user-embedder",
    help="User embedders: a history as a few soft tokens before a frozen LLM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@user_embedder_app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A folder with train_questions.json and train_outputs.json.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the user embedder.")],
    llm: Llm = None,
    encoder: Encoder = None,
    task: TaskName = None,
    mode: Annotated[
        str, typer.Option(help="attention, or persona-plug: the equations of the Persona-Plug paper.")
    ] = "attention",
    user_vectors: UserVectors = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Soft tokens, random ones at first. Left out, they start as a record in the task's own words.",
            min=1,
        ),
    ] = None,
    heads: Annotated[int | None, typer.Option(help=f"Sharp attention heads ({_HEADS}).", min=1)] = None,
    width: Annotated[int | None, typer.Option(help=f"Hidden size ({_WIDTH}).", min=1)] = None,
    warm_up: Annotated[
        int | None, typer.Option(help=f"Steps of the warm-up without the LLM at most ({_WARM_UP}).", min=0)
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps at most.", min=1)] = 600,
    batch: Annotated[int, typer.Option(help="Examples in a step.", min=1)] = 16,
    accumulate: Annotated[int, typer.Option(help="Parts in which a batch is computed.", min=1)] = 1,
    learning_rate: Annotated[float, typer.Option(help="Peak of AdamW's.")] = 1e-3,
    k: Annotated[
        str, typer.Option("--k", help="Comma list: retrieved records in training prompts, drawn equally often.")
    ] = "0,1",
    retriever: Annotated[str, typer.Option(help="Finds those records.")] = "bm25-lamp",
    leave_one_out: Annotated[
        int, typer.Option(help="Questions made from each user's own records; 0 makes none.", min=0)
    ] = 8,
    with_question: Annotated[
        bool,
        typer.Option(
            "--with-question", help="Let the soft prompt say what such a question is usually answered, whoever asks."
        ),
    ] = False,
    copies: Annotated[
        bool | None,
        typer.Option(
            "--copy/--no-copy",
            help="Learn how much likelier to make what stands in the question and in the user's own answers, token by "
            "token (yes; not with --mode persona-plug or --user-vectors).",
        ),
    ] = None,
    without_user: Annotated[
        bool, typer.Option("--without-user", help="Never show a record: the control of the same training.")
    ] = False,
    new_user_steps: Annotated[
        int | None,
        typer.Option(help="Steps at the end that tune what a user without records gets (half of --steps).", min=0),
    ] = None,
    evaluate_every: Annotated[int, typer.Option(help="Steps between looks at users kept aside.", min=1)] = 50,
    patience: Annotated[int, typer.Option(help="Looks without a better one before it ends.", min=1)] = 6,
    seed: Annotated[int, typer.Option(help="Of everything random.", min=0)] = 0,
    vectors: Annotated[
        Path | None, typer.Option(help="Keep the records' vectors in this SQLite file, for further trainings.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a user embedder on the training users of a LaMP task.

    The LLM stays as it is. Stopped at any moment, the same command goes on from the last look at the users kept aside.
    On several GPUs: torchrun --nproc-per-node N -m persona user-embedder train ...
    """
    import torch
    from accelerate import PartialState

    from persona.assembly import RetrieverOptions, check_retriever, make_retriever, needs_encoder
    from persona.encoders.load import load_encoder
    from persona.encoders.user_vectors import UserVectorFile
    from persona.errors import InvalidOptionError
    from persona.llm.load import load_llm
    from persona.llm.transformers import TransformersLM
    from persona.readers import read_split
    from persona.settings import Settings
    from persona.soft_prompts.embedder import UserEmbedder
    from persona.soft_prompts.examples import UserEmbedderTraining
    from persona.soft_prompts.histories import history_reader, history_views
    from persona.soft_prompts.instruction import InstructionWords
    from persona.soft_prompts.training import train_user_embedder
    from persona.store.profile_store import ProfileStore

    if user_vectors is not None or mode == "persona-plug":
        given = {"heads": heads, "width": width, "warm-up": warm_up, "new-user-steps": new_user_steps}
        given["tokens"] = tokens if mode == "persona-plug" else None
        unread = [f"--{name}" for name, value in given.items() if value is not None]
        unread += ["--with-question"] if with_question else []
        if unread:
            of = "--mode persona-plug" if user_vectors is None else "--user-vectors"
            raise InvalidOptionError(f"with {of} nothing reads {', '.join(unread)}: leave it out")
        warm_up = 0
    if without_user and new_user_steps is not None:
        raise InvalidOptionError(
            "with --without-user nobody has records, and nothing reads --new-user-steps: leave it out"
        )
    warm_up = _WARM_UP if warm_up is None else warm_up
    if copies is None:  # not for the paper's equations, nor where the vectors are all that is to be read of a user
        copies = mode == "attention" and user_vectors is None
    options = UserEmbedderTraining(
        warm_up=warm_up,
        steps=steps,
        batch=batch,
        accumulate=accumulate,
        learning_rate=learning_rate,
        ks=numbers(k, "--k", least=0),
        leave_one_out=leave_one_out,
        new_user_steps=new_user_steps,
        without_user=without_user,
        evaluate_every=evaluate_every,
        patience=patience,
        seed=seed,
    )
    if mode not in _TRAINED:
        raise InvalidOptionError(f"--mode must be one of {', '.join(_TRAINED)}, was: {mode!r}")
    if user_vectors is not None and mode != "attention":
        raise InvalidOptionError(f"--user-vectors takes the place of the records: leave --mode out, was: {mode!r}")
    check_retriever(retriever)
    reads = needs_encoder(retriever) and any(options.ks)
    check_encoder_is_read(encoder, user_vectors is None or reads, "--user-vectors")
    check_folder(out)
    split = read_split(data, "train", task=task)
    # Of several processes each has its own device, before anything is loaded onto one.
    state = PartialState(cpu=not torch.cuda.is_available())
    model = load_llm(llm or Settings().llm, overlong="truncate")
    if not isinstance(model, TransformersLM):
        raise InvalidOptionError(f"a user embedder is trained against a transformers model, was: {model.fingerprint}")
    file = None if user_vectors is None else UserVectorFile(user_vectors)
    loaded = load_encoder(encoder or Settings().encoder) if file is None or reads else None
    if file is not None:
        embedder = UserEmbedder.from_vectors(
            model, dim=file.dim, vectors=file.fingerprint, n_tokens=tokens or _VECTOR_TOKENS, seed=seed, copies=copies
        )
    else:
        assert loaded is not None
        embedder = UserEmbedder.for_llm(
            model,
            encoder_dim=loaded.dim,
            encoder=loaded.fingerprint,
            seed=seed,
            mode=mode,
            words=InstructionWords.of(split, model, loaded) if tokens is None and mode == "attention" else None,
            n_tokens=tokens or 2,
            heads=heads or _HEADS,
            with_question=with_question,
            copies=copies,
            width=width or _WIDTH,
            # The paper's histories are encoded as LaMP's retrievers see them.
            view=split.task.view if mode == "persona-plug" else "text",
        )
    out.mkdir(parents=True, exist_ok=True)
    kept = vectors or out / "vectors.db"
    shown = state.is_main_process
    with progress_bars("steps", shown=shown) as progress, ProfileStore(f"sqlite:///{kept}") as store:
        with state.main_process_first():  # what the first one puts in, the others find
            store.upsert((question.user_id, record) for question in split.questions for record in question.profile)
            if loaded is not None:
                embed_views(store, loaded, history_views(embedder.config), progress)
        warm_bar = progress.add_task(
            "warm-up", total=warm_up, visible=warm_up > 0 and embedder.config.mode == "attention"
        )
        bar = progress.add_task("train", total=steps)
        new_user_bar = progress.add_task("new users", total=None, visible=False)
        copy_bar = progress.add_task("copying, tokens read", total=None, visible=False)

        def advance(done: int, total: int, loss: float, best: float) -> None:
            told = f"train, loss {loss:.3f}, users kept aside {best:.3f}"
            progress.update(bar, completed=done, total=total, description=told)

        def warm(done: int, total: int, loss: float, best: float) -> None:
            progress.update(warm_bar, completed=done, total=total, description=f"warm-up, loss {loss:.3f}")

        def tune(done: int, total: int, loss: float, best: float) -> None:
            told = f"new users, loss {loss:.3f}, users kept aside {best:.3f}"
            progress.update(new_user_bar, completed=done, total=total, description=told, visible=True)

        def learn(done: int, total: int, loss: float, best: float) -> None:
            progress.update(copy_bar, completed=done, total=total, visible=True)

        found = None
        if any(options.ks):
            found = make_retriever(
                retriever,
                RetrieverOptions(view=split.task.view, seed=seed),
                encoder=loaded if reads else None,
                store=store,
            )
        source = file or loaded
        assert source is not None
        report = train_user_embedder(
            embedder,
            split,
            model,
            history_reader(embedder.config, source, store),
            options,
            out=out,
            retriever=found,
            progress=advance,
            warm_progress=warm,
            new_user_progress=tune,
            copy_progress=learn,
        )
    state.wait_for_everyone()
    if not state.is_main_process:
        return
    if vectors is None:  # The training users' vectors are no part of the embedder.
        for name in (kept.name, f"{kept.name}-wal", f"{kept.name}-shm"):
            kept.with_name(name).unlink(missing_ok=True)
    if as_json:
        from dataclasses import asdict

        print_json({**asdict(report), "out": str(out)})
        return
    new = ""
    if report.new_user_loss is not None:
        new = f"as new users {report.new_user_loss:.4f}, {report.new_user_loss_before:.4f} before their tuning; "
    if report.copy_loss is not None:
        new += f"copying {report.copy_loss:.4f}, {report.copy_loss_before:.4f} without; "
    say(
        f"{out}: step {report.best_step} of {report.steps} kept; loss on users kept aside {report.dev_loss:.4f} nats "
        f"per token, {report.dev_loss_before:.4f} before; {new}{report.users} users, {report.questions} questions and "
        f"{report.made} made from their records, in {report.seconds:.0f} s"
    )


@user_embedder_app.command()
def show(
    embedder: Annotated[str, typer.Argument(help="Folder or hub id of a user embedder.")],
    as_json: AsJson = False,
) -> None:
    """Show what a user embedder belongs to, and how it was trained."""
    from dataclasses import asdict

    from persona.soft_prompts.copying import FEATURES
    from persona.soft_prompts.embedder import load_user_embedder
    from persona.soft_prompts.training import NOTES

    loaded = load_user_embedder(embedder)
    told = {
        **asdict(loaded.config),
        "fingerprint": loaded.fingerprint,
        "parameters": sum(parameter.numel() for parameter in loaded.parameters()),
        "copies": None,
        "training": _notes(Path(embedder) / NOTES),
    }
    if loaded.copying is not None:
        weights = loaded.copying.weights.tolist()
        told["copies"] = {name: round(weight, 4) for name, weight in zip(FEATURES, weights, strict=True)}
    if as_json:
        print_json(told)
        return
    for name, value in told.items():
        if name != "training":
            say(f"{name:20} {value}")
    if told["training"]:
        for name, value in told["training"]["report"].items():
            if value is not None:  # a control has no tuning for new users
                say(f"{name:20} {value}")


def _notes(path: Path) -> dict[str, Any] | None:
    """How an embedder was trained; None if nobody says."""
    if not path.is_file():
        return None
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
        return {**notes, "report": dict(notes["report"])}
    except (ValueError, TypeError, KeyError) as error:
        raise DataFormatError(
            f"{path} is not what a training wrote, delete it or train again: {reason(error)}"
        ) from error
