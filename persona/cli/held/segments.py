"""Who is like whom: `persona segments`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from persona.cli.options import command
from persona.cli.store import embed_views
from persona.cli.terminal import Encoder, counted, group, load_encoder, opened_store, progress_bars, report
from persona.errors import InvalidOptionError

app = group()


@dataclass(frozen=True)
class SegmentUsers:
    """Options of `persona segments`.

    Attributes:
        k: how many segments at most, or lookalikes.
        least: least users of a segment and of each of its terms, or in the file of --lookalikes.
        out: write the segments to this .safetensors file.
        lookalikes: a file with a user id on each line; the users most like them are printed instead.
        view: what of a record is embedded: text, target, target+text, title+text or turn.
    """

    k: Annotated[int, typer.Option(min=1)] = 8
    least: Annotated[int, typer.Option(min=2)] = 10
    out: Path | None = None
    lookalikes: Path | None = None
    encoder: Encoder = None
    view: str = "text"


@command(app, "segments", SegmentUsers, store=True)
def segments(options: SegmentUsers) -> None:
    """Group like users, or find lookalikes.

    This reads all users at once. Of each segment its size and its top terms are shown, with how sure they are (z).
    Which segment a user is in is kept with the user. Missing vectors are made first.
    """
    from persona.population.lookalikes import lookalikes
    from persona.population.segments import Segments, store_memberships
    from persona.population.vectors import UserTable
    from persona.store.vectors import vector_fingerprint

    if options.out is not None and (options.lookalikes is not None or options.out.suffix != ".safetensors"):
        raise InvalidOptionError(f"--out is a .safetensors file of segments, was: {str(options.out)!r}")
    seeds = None if options.lookalikes is None else options.lookalikes.read_text(encoding="utf-8").splitlines()
    with opened_store() as store, progress_bars("users") as progress:
        encoder = load_encoder(options.encoder)
        embed_views(store, encoder, [options.view], progress)
        table = UserTable.from_store(store, vector_fingerprint(encoder, options.view))
        if seeds is not None:
            found = lookalikes(table, seeds, least=options.least)[: options.k]
            report(
                [{"user_id": user_id, "score": score} for user_id, score in found],
                *(f"{score:.3f}  {user_id}" for user_id, score in found),
            )
            return
        made = Segments.of(store, table, options.k, least=options.least)
        if options.out is not None:
            made.save(options.out, store)
        stored = store_memberships(store, made)
    rows = [{"segment": n, "users": size, "terms": dict(made.terms[n])} for n, size in enumerate(made.sizes)]
    report({"segments": rows, "memberships": stored, "fingerprint": made.fingerprint}, *map(_line, rows))


def _line(row: dict[str, Any]) -> str:
    terms = ", ".join(f"{term.removeprefix('word:')} {z:.1f}" for term, z in list(row["terms"].items())[:8])
    return f"segment {row['segment']}, {counted(row['users'], 'user')}: {terms or 'nothing that sets it apart'}"
