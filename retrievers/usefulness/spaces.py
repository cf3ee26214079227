"""Useful records instead of similar ones: queries and records are compared across two spaces.

    score(q, r) = IN(q) . OUT(r) = (U q) . (V r)

The words that surround a word are not those that resemble it, and skip-gram models tell them apart by two vectors for
each, IN and OUT. "Two Is Better Than One" (Kvernadze et al., arXiv 2211.14982) finds complements to a product in that
way: what goes with it, not what could replace it. Here what goes with a question are the records that make the user's
answer likelier (`persona.retrievers.usefulness.training`). With U = V = 1 the order is that of `dense`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from persona.errors import FingerprintMismatchError, InvalidOptionError, ModelLoadError
from persona.files import replacing, write_atomically
from persona.protocols import RecordEncoder
from persona.records import Profile
from persona.store.vectors import vector_fingerprint

from ..base import ProfileRetriever, Ranking, best_first
from ..vectors.record_vectors import RecordVectors

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore

WEIGHTS, CONFIG = "usefulness.safetensors", "usefulness.json"
_FORMAT = 1


class DualSpaces:
    """The spaces IN of queries and OUT of records.

    Args:
        weights: U as ``in.weight`` and V as ``out.weight``, each (width, dim); float32.
        fingerprint: of the vectors that they were learned on (`persona.store.vectors.vector_fingerprint`).
        view: the view of a record that they were learned on.
        notes: what else is known of the training, for `save_pretrained`.

    Raises:
        InvalidOptionError: if the weights do not fit together or are not finite.
    """

    def __init__(
        self,
        weights: Mapping[str, NDArray[np.float32]],
        fingerprint: str,
        view: str = "text",
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        shapes = {name: np.shape(array) for name, array in sorted(weights.items())}
        if (
            set(shapes) != {"in.weight", "out.weight"}
            or len(set(shapes.values())) != 1
            or len(shapes["in.weight"]) != 2
        ):
            raise InvalidOptionError(f"the weights of two spaces must fit together, was: {shapes}")
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise InvalidOptionError("the weights of two spaces must be finite")
        self.weights = {name: np.asarray(array, dtype=np.float32) for name, array in weights.items()}
        self.fingerprint = fingerprint
        self.view = view
        self.notes = dict(notes or {})

    def scores(self, query: NDArray[np.float32], records: NDArray[np.float32]) -> NDArray[np.float32]:
        """IN(query) . OUT(record).  # (dim,), (records, dim) -> (records,)"""
        wanted = self.weights["out.weight"].T @ (self.weights["in.weight"] @ query)
        # Not `@`, which may give equal vectors unequal sums.
        return np.asarray(np.einsum("rd,d->r", records, wanted), dtype=np.float32)

    def out(self, records: NDArray[np.float32]) -> NDArray[np.float32]:
        """OUT of records.  # (records, dim) -> (records, width)"""
        return np.asarray(np.einsum("rd,wd->rw", records, self.weights["out.weight"]), dtype=np.float32)

    @classmethod
    def of(cls, model: DualSpaces | str | Path, encoder: RecordEncoder) -> DualSpaces:
        """Spaces, or those in a folder, for the vectors of `encoder`.

        Raises:
            ModelLoadError: if the folder holds none.
            FingerprintMismatchError: if they were learned on vectors of another encoder.
        """
        spaces = model if isinstance(model, DualSpaces) else cls.from_pretrained(model)
        given = vector_fingerprint(encoder, spaces.view)
        if spaces.fingerprint != given:
            raise FingerprintMismatchError(
                f"the spaces of usefulness were learned on vectors of {spaces.fingerprint}, these are of {given}: "
                "name that encoder, or learn them for this one"
            )
        return spaces

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``usefulness.safetensors`` and ``usefulness.json`` into `folder`, which is made if it is not there."""
        from safetensors.numpy import save

        Path(folder).mkdir(parents=True, exist_ok=True)
        with replacing(Path(folder) / WEIGHTS) as path:
            path.write_bytes(save(self.weights))
        config = {"format": _FORMAT, "encoder": self.fingerprint, "view": self.view, "training": self.notes}
        write_atomically(Path(folder) / CONFIG, json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DualSpaces:
        """Read what `save_pretrained` wrote.

        Raises:
            ModelLoadError: if `folder` does not hold it.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
            if config["format"] != _FORMAT:
                raise ValueError(f"format {config['format']}, this persona reads {_FORMAT}")
            return cls(load_file(Path(folder) / WEIGHTS), config["encoder"], config["view"], config["training"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelLoadError(
                f"{folder} holds no spaces of usefulness: learn them with `persona train filter --set "
                f"usefulness.llm=LLM` ({error})"
            ) from error


class UsefulRetriever(ProfileRetriever):
    """Retrieves the records that help most with the query, by learned spaces.

    A score is IN(query) . OUT(record), of any size. Records with equal scores stand in profile order.

    Args:
        encoder: makes the vectors of queries, and of records that the store has none of.
        model: the spaces, or their folder.
        store: where vectors are read from; None encodes every record anew.

    Raises:
        ModelLoadError: if the folder holds none.
        FingerprintMismatchError: if they were learned on vectors of another encoder.
    """

    def __init__(
        self, encoder: RecordEncoder, model: DualSpaces | str | Path, store: ProfileStore | None = None
    ) -> None:
        self.spaces = DualSpaces.of(model, encoder)
        self.vectors = RecordVectors(encoder, store, self.spaces.view)

    def __repr__(self) -> str:
        return f"UsefulRetriever({self.vectors!r})"

    def rank_batch(self, profiles: Sequence[Profile], queries: Sequence[str], k: int) -> list[Ranking]:
        """The `k` records of each profile that are most useful to its query."""
        embedded = self.vectors.embed(profiles, queries)
        return [
            best_first(profile, self.spaces.scores(own.query, own.wide), k)
            for profile, own in zip(profiles, embedded, strict=True)
        ]
