"""Useful records instead of similar ones: queries and records are compared across two spaces.

    score(q, r) = IN(q) . OUT(r) = (U q) . (V r)

The words that surround a word are not those that resemble it, and skip-gram models tell them apart by two vectors for
each, IN and OUT. "Two Is Better Than One" (Kvernadze et al., arXiv 2211.14982) finds complements to a product in that
way: what goes with it, not what could replace it. Here what goes with a question are the records that make the user's
answer likelier (`persona.retrievers.usefulness.training`). With U = V = 1 the order is that of `dense`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from persona.errors import InvalidOptionError, check_made_for
from persona.files import learned, save_learned
from persona.protocols import RecordEncoder
from persona.records import Profile
from persona.store.vectors import HasVectors, vector_fingerprint

from ..base import Ranking, best_first
from ..vectors.record_vectors import EmbeddedProfile, VectorRetriever

NAME = "usefulness"
"""Of their two files, ``usefulness.safetensors`` and ``usefulness.json``."""
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
        given, fix = vector_fingerprint(encoder, spaces.view), "name that encoder, or learn them for this one"
        check_made_for("what `useful` learned", spaces.fingerprint, given, fix)
        return spaces

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``usefulness.safetensors`` and ``usefulness.json`` into `folder`, which is made if it is not there."""
        config = {"format": _FORMAT, "encoder": self.fingerprint, "view": self.view, "training": self.notes}
        save_learned(Path(folder), NAME, self.weights, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DualSpaces:
        """Read what `save_pretrained` wrote.

        Raises:
            ModelLoadError: if `folder` does not hold it.
        """
        hint = "spaces of usefulness: learn them with `persona train filter --set usefulness.llm=LLM`"
        with learned(Path(folder), NAME, _FORMAT, hint) as (weights, config):
            return cls(weights, config["encoder"], config["view"], config["training"])


class UsefulRetriever(VectorRetriever):
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

    def __init__(self, encoder: RecordEncoder, model: DualSpaces | str | Path, store: HasVectors | None = None) -> None:
        self.spaces = DualSpaces.of(model, encoder)
        super().__init__(encoder, store, self.spaces.view)

    def choose(self, profile: Profile, embedded: EmbeddedProfile, k: int) -> Ranking:
        """The `k` records that are most useful to the query."""
        return best_first(profile, self.spaces.scores(embedded.query, embedded.wide), k)
