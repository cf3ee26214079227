"""The ledger of an adapter: which records each part of it was made from, so that they can be taken back.

An adapter of kind ``activations`` is the sum of what its chunks add, ``sum_c B_c A_c``: their rows of A and columns of
B side by side along the rank, chunk `c` always in the same places. Records are dealt into chunks by a hash of their ids
(`persona.store.derived.chunk_of`), so

- one record touches one chunk: adding it writes that chunk, deleting it drops that chunk alone, and what is left of
  the chunk is written anew when the adapter is next asked for;
- who is in a chunk follows from the set of the record ids, whatever came and went before.

A chunk is computed alone, its records in the order of their ids, in float32 on one thread; chunks are put side by side,
never averaged and never decomposed. So an adapter has, byte for byte, the numbers that it would have had if a deleted
record had never been there.

Chunks lie among the store's indexes, one row each: a line of JSON with the ids and hashes of their records, and the
numbers at rest. `ProfileStore.delete_records` drops those of the records, `forget` all of them with their bytes, and
its receipt counts them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from persona.adapters.examples import ExampleMaker
from persona.adapters.family import Family
from persona.adapters.generated.generator import ACTIVATIONS, AdapterGenerator
from persona.adapters.generated.reading import ActivationReader, one_thread
from persona.adapters.training.trainer import AdapterTrainer
from persona.errors import InvalidOptionError
from persona.records import Profile, Record
from persona.store.derived import StoredIndex, chunk_head, chunk_kind, chunk_of
from persona.store.profile_store import ProfileStore


class Ledger:
    """Makes adapters as sums of chunks, and keeps the chunks.

    Args:
        generator: of kind ``activations``.
        trainer: with the frozen LLM and the adapters' shape.
        examples: makes the examples of a chunk's records.
        prior: the shared adapter under what is written; None for none.  # (size,)

    Raises:
        InvalidOptionError: if the generator is of another kind.
        FingerprintMismatchError: if it was trained for another LLM or prior.
    """

    def __init__(
        self,
        generator: AdapterGenerator,
        trainer: AdapterTrainer,
        examples: ExampleMaker,
        *,
        prior: Tensor | None = None,
    ) -> None:
        if generator.config.kind != ACTIVATIONS:
            raise InvalidOptionError(
                f"a ledger needs a generator of kind {ACTIVATIONS!r}, was: {generator.config.kind!r}"
            )
        self.generator, self._trainer, self._examples = generator, trainer, examples
        generator.check_fits(trainer.family.over(prior))
        self._reader = ActivationReader(trainer, generator.config.tokens, prior=prior)
        self._maker = generator.fingerprint

    def row(self, profile: Profile, store: ProfileStore | None = None) -> Tensor:
        """The user's adapter.  # (size,)

        Args:
            profile: the user's records.
            store: where chunks are found and kept, if it holds this profile; None makes them all and keeps none.
        """
        generator, size = self.generator, self.generator.chunks
        rows: dict[int, Tensor] = {}
        made: list[StoredIndex] = []
        for chunk, records in self.members(profile).items():
            kind, head = chunk_kind(self._maker, chunk, size), chunk_head(records)
            kept = None if store is None else store.index(profile.user_id, kind)
            if kept is not None and kept.data.startswith(head):
                numbers = kept.data[len(head) :]
            else:
                numbers = self._numbers(Profile(profile.user_id, records))
                made.append(StoredIndex(profile.user_id, kind, profile.revision, head + numbers))
            if numbers:
                rows[chunk] = generator.chunk_family.decode(numbers)
        if store is not None:
            store.put_indexes(made)
        if not rows:
            return torch.zeros(generator.family.size)
        owners = [0] * len(rows)
        return side_by_side(generator.family, torch.stack(list(rows.values())), owners, list(rows))[0]

    def members(self, profile: Profile) -> Mapping[int, tuple[Record, ...]]:
        """The records of each chunk that has any, in the order of their ids."""
        dealt: defaultdict[int, list[Record]] = defaultdict(list)
        for record in sorted(profile, key=lambda record: record.id):
            dealt[chunk_of(record.id, self.generator.chunks)].append(record)
        return {chunk: tuple(dealt[chunk]) for chunk in sorted(dealt)}

    @torch.no_grad()
    def _numbers(self, chunk: Profile) -> bytes:
        """What a chunk adds, at rest; empty where no record of it is an example."""
        tokens = self._trainer.tokens(self._examples(chunk))
        if not tokens:
            return b""
        with one_thread():
            read, count = self._reader(tokens), torch.tensor([float(len(tokens))])
            states, surprise = read.states.transpose(0, 1)[None], read.surprises.mean(0)[None]
            rows = self.generator.of_chunks(states, read.marks[None], surprise, count)
        return self.generator.chunk_family.encode(rows[0])


def side_by_side(family: Family, rows: Tensor, owners: Sequence[int], chunks: Sequence[int]) -> Tensor:
    """Adapters whose products are the sums of their chunks' products; gradients reach `rows`.  # (users, size)

    Args:
        family: of the adapters.
        rows: of the chunks, in the same layout at a rank that divides the family's.  # (n, size of a chunk)
        owners: which user each chunk belongs to, from 0; each user has one.
        chunks: each chunk's place along the rank, from 0.
    """
    ranks = family.spec.r * rows.shape[1] // family.size
    places, users = family.spec.r // ranks, max(owners) + 1
    index = tuple(torch.tensor(each, device=rows.device) for each in (owners, chunks))
    sizes = [ranks * size for module in family.modules for size in (module.n_in, module.n_out)]
    parts: list[Tensor] = []
    for number, piece in enumerate(torch.split(rows, sizes, dim=1)):
        whole = rows.new_zeros(users, places, piece.shape[1]).index_put(index, piece)
        if number % 2:  # B, where the rank is the last dimension
            whole = whole.reshape(users, places, -1, ranks).transpose(1, 2)
        parts.append(whole.flatten(1))
    return torch.cat(parts, dim=1)
