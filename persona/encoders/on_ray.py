"""Embeds the records of all users on a Ray cluster: `persona embed-users --ray`.

::

    store, encoder = ProfileStore("postgresql+psycopg://user@host/database"), load_encoder("minilm")
    embed_users_on_ray(store, encoder, "minilm", address="ray://head:10001")

Ray Data (docs.ray.io, "Batch inference") reads the parts of the store side by side, each as chunks of users. Actors,
one for each core or GPU, have the encoder loaded; each embeds a chunk and writes it in one transaction. The store
ends as after a run in one process. (A chunk here ends with its part of the store. Encoders whose numbers depend on what
else is in a batch may differ in the last place of a number: by 1e-7 in float32, before it is rounded to 16 bits.)

**Nothing is lost.** What a chunk writes does not depend on how often it is tried: a worker that dies has its chunk done
by another, and what a driver that was killed had not done, the next run finds stale.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from functools import cached_property
from typing import Any

from persona.encoders.embedding import (
    CHUNK_RECORDS,
    EmbeddedChunk,
    EmbedReport,
    check_embedding,
    chunks,
    embed_report,
    embedded_chunk,
)
from persona.encoders.load import load_encoder
from persona.errors import FingerprintMismatchError, InvalidOptionError, PersonaError, StoreError, needed, reason
from persona.protocols import RecordEncoder
from persona.store.profile_store import ProfileStore
from persona.store.schema import PARTS
from persona.store.vectors import vector_fingerprint

LOCAL = "local"
"""The address of a cluster that is started on this machine, and ends with the run."""


def embed_users_on_ray(
    store: ProfileStore,
    encoder: RecordEncoder,
    name: str,
    *,
    address: str = LOCAL,
    view: str = "text",
    chunk_records: int = CHUNK_RECORDS,
    progress: Callable[[int, int, int], object] | None = None,
) -> EmbedReport:
    """`persona.encoders.embedding.embed_users` on a cluster.

    Args:
        store: as there; every node must reach its database under the same URL.
        encoder: as there; decides model and dtype.
        name: its name, by which every node loads it (`load_encoder`).
        address: of the cluster, as `ray.init` takes it (``"auto"``, ``"ray://head:10001"``), or `LOCAL`.
        view: as there.
        chunk_records: as there.
        progress: as there.

    Raises:
        InvalidOptionError: as there, and for an SQLite file and a cluster of several machines.
        MissingDependencyError: if Ray is not installed.
        StoreError: if the cluster cannot be reached, a node has another model by that name, or a chunk fails there.
    """
    check_embedding(encoder, view, chunk_records)
    fingerprint, url = vector_fingerprint(encoder, view), store.database.url
    # Ray prints what its nodes report, to stdout, where results go.
    with redirect_stdout(sys.stderr), _cluster(address) as ray:
        if store.database.is_sqlite and len({node["NodeManagerHostname"] for node in ray.nodes()}) > 1:
            raise InvalidOptionError(
                f"{store.database.name} is a file on one machine, and the cluster has several: move the store to "
                "PostgreSQL (`persona export`, `persona import`)"
            )
        work = {"url": url, "name": name, "like": encoder.fingerprint, "view": view}
        return embed_report(store, fingerprint, _done(ray, work, fingerprint, chunk_records), progress)


def _done(ray: Any, work: dict[str, str], fingerprint: str, size: int) -> Iterator[EmbeddedChunk]:
    """What was done of each chunk, in the order in which they are done."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    actors = gpus or max(1, int(resources.get("CPU", 1)))
    parts = ray.data.from_items([{"part": part} for part in range(PARTS)], override_num_blocks=PARTS)
    # A block is what an actor takes, and what is done again if it dies: one chunk. Reading takes no core, so that a
    # cluster of one core has one for its actor.
    parts.context.target_max_block_size = 1
    found = parts.flat_map(_chunks_of_part, fn_args=(work["url"], fingerprint, size), num_cpus=0, concurrency=actors)
    done = found.map(
        _ChunkEmbedder, fn_constructor_kwargs=work, concurrency=(1, actors), num_cpus=1, num_gpus=1 if gpus else 0
    )
    try:
        for row in done.iter_rows():
            if failed := row.pop("failed"):
                raise StoreError(f"a chunk of users could not be embedded on the cluster: {failed}")
            yield EmbeddedChunk(**row)
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise StoreError(f"the users could not be embedded on the cluster: {last}") from error


def _chunks_of_part(row: dict[str, Any], url: str, fingerprint: str, size: int) -> Iterator[dict[str, Any]]:
    with ProfileStore(url, create=False) as store:
        for chunk in chunks(store, fingerprint, store.stale_users(fingerprint, int(row["part"])), size):
            yield {"users": chunk}


class _ChunkEmbedder:
    """Embeds the users of a chunk and writes their vectors; what persona raises is handed over as a text.

    Store and encoder are opened with the first chunk: what fails when an actor is made, Ray would try for ever.
    """

    def __init__(self, url: str, name: str, like: str, view: str) -> None:
        self._url, self._name, self._like, self._view = url, name, like, view

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        done, failed = EmbeddedChunk(0, 0, 0, 0, 0), ""
        try:
            done = embedded_chunk(self._store, self._encoder, self._view, [str(user) for user in row["users"]])
        except PersonaError as error:
            failed = str(error)
        return {**asdict(done), "failed": failed}

    @cached_property
    def _store(self) -> ProfileStore:
        return ProfileStore(self._url, create=False)

    @cached_property
    def _encoder(self) -> RecordEncoder:
        encoder = load_encoder(self._name, like=self._like)
        if encoder.fingerprint != self._like:
            raise FingerprintMismatchError(
                f"a node has {encoder.fingerprint} by the name of {self._name!r}, this machine {self._like}: install "
                "the same model on all"
            )
        return encoder


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster; where it is already, it stays so."""
    with needed("ray"):
        import ray
        import ray.data
    connected = ray.is_initialized()
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not connected:
        try:
            ray.init(
                address=None if address == LOCAL else address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                include_dashboard=False if address == LOCAL else None,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise StoreError(f"the Ray cluster {address!r} cannot be reached: {reason(error)}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    before, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield ray
    finally:
        context.enable_progress_bars = before
        if not connected:
            ray.shutdown()
