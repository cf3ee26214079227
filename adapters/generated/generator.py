"""A generator of adapters: trained once on other users, it writes a user's adapter in one pass, without training.

::

    generator = load_generator("adapters/film/generator")
    Ledger(generator, trainer, examples).row(profile, store)      # (size,): an adapter like any other

The frozen LLM is read and never changed. What is written is a row of `AdapterGenerator.family`: the bank, mixed
batches, PEFT folders and vLLM take it as they take a trained one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from persona.adapters.family import Family
from persona.adapters.few_records.routed import Router
from persona.adapters.generated.network import Reader, VectorReader, Writer, layers_of
from persona.errors import FingerprintMismatchError, InvalidOptionError, check_least, check_one_of
from persona.files import learned, save_learned
from persona.llm.checkpoint import hash_parameters

_NAME, _FORMAT = "generator", 1
VECTOR, ACTIVATIONS, ROUTED = KINDS = ("vector", "activations", "routed")


@dataclass(frozen=True)
class GeneratorConfig:
    """The shape of a generator, and what it belongs to.

    Attributes:
        kind: what it reads, one of `KINDS`.
        family: `Family.name` of the adapters that it writes; it names the LLM and the prior.
        dim: length of a vector; of kind ``activations`` that of what a layer reads.
        surprise: length of what was not expected of a record; kind ``activations``.
        width: of the states within, a multiple of `heads`; of kind ``routed`` the units of the network.
        blocks: of the trunk, and of the reader's attentions.
        heads: of an attention.
        chunk_rank: rank of a chunk's adapter, or of a meta-adapter of kind ``routed``; a divisor of the family's.
        tokens: how many of a record's last tokens are read; kind ``activations``.
        records: the most records whose vectors are averaged, the newest; not of kind ``activations``.
        with_user: False for the control that reads the same of every user: zeros.

    Raises:
        InvalidOptionError: if a value is out of its range.
    """

    kind: str
    family: str
    dim: int
    surprise: int = 1
    width: int = 64
    blocks: int = 2
    heads: int = 4
    chunk_rank: int = 1
    tokens: int = 16
    records: int = 48
    with_user: bool = True

    def __post_init__(self) -> None:
        check_one_of(KINDS, kind=self.kind)
        check_least(1, dim=self.dim, surprise=self.surprise, width=self.width, blocks=self.blocks, heads=self.heads)
        check_least(1, chunk_rank=self.chunk_rank, tokens=self.tokens, records=self.records)
        if self.width % self.heads:
            raise InvalidOptionError(f"`width` must be a multiple of `heads`, {self.heads}, was: {self.width}")
        rank = Family.from_name(self.family).spec.r
        if rank % self.chunk_rank:
            raise InvalidOptionError(f"`chunk_rank` must divide the adapters' rank, {rank}, was: {self.chunk_rank}")


class AdapterGenerator(nn.Module):
    """A network that writes adapters. It is all that is trained.

    Args:
        config: the shape.
        seed: of the starting values.
    """

    vectors: Router | VectorReader

    def __init__(self, config: GeneratorConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        rank, layers = self.family.spec.r, len(layers_of(self.family.modules))
        width, blocks = config.width, config.blocks
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if config.kind == ROUTED:
                self.vectors = Router(self.family, config.dim, n=self.chunks, width=width, seed=seed)
            elif config.kind == VECTOR:
                self.vectors = VectorReader(rank, config.dim, width=width)
                self.writer = Writer(self.family, width=width, blocks=blocks)
            else:
                sizes = (layers, config.chunk_rank, config.dim, config.surprise, config.tokens)
                self.reader = Reader(*sizes, width=width, blocks=blocks, heads=config.heads)
                self.writer = Writer(self.chunk_family, width=width, blocks=blocks)

    @cached_property
    def family(self) -> Family:
        """Of the adapters."""
        return Family.from_name(self.config.family)

    @property
    def chunks(self) -> int:
        """The most chunks, or the meta-adapters, that an adapter is the sum of."""
        return self.family.spec.r // self.config.chunk_rank

    @cached_property
    def chunk_family(self) -> Family:
        """The layout of one chunk's numbers."""
        return replace(self.family, spec=replace(self.family.spec, r=self.config.chunk_rank))

    @property
    def fingerprint(self) -> str:
        """Names the weights and the shape: 12 hexadecimal digits."""
        content = json.dumps([asdict(self.config), hash_parameters(self)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def of_vectors(self, vectors: Tensor, counts: Tensor) -> Tensor:
        """Adapters of users with these vectors and numbers of records.  # (users, dim), (users,) -> (users, size)"""
        known = float(self.config.with_user)
        rows: Tensor = self.vectors(vectors * known, 1 + (counts - 1) * known)
        return rows if self.config.kind == ROUTED else self.writer(rows)

    def of_chunks(self, states: Tensor, marks: Tensor, surprises: Tensor, counts: Tensor) -> Tensor:
        """What chunks of records add to their user's adapter, in the layout of `chunk_family`.  # (chunks, size)

        Args:
            states: see `persona.adapters.generated.network.Reader.forward`, as are the others.
        """
        known = float(self.config.with_user)
        rows: Tensor = self.writer(self.reader(states * known, marks, surprises * known, 1 + (counts - 1) * known))
        return rows

    def check_fits(self, family: Family) -> None:
        """Refuse an LLM, a prior or a shape that it was not trained with; how numbers lie at rest does not matter.

        Args:
            family: of the adapters that are wanted.

        Raises:
            FingerprintMismatchError: if it writes those of another family.
        """
        if self.family != replace(family, spec=replace(family.spec, dtype=self.family.spec.dtype)):
            raise FingerprintMismatchError(
                f"the generator writes adapters of the family {self.family.key} for {self.family.base}, wanted were "
                f"those of {family.key} for {family.base}: load that LLM and task adapter, or train another generator"
            )

    def save(self, folder: Path) -> None:
        """Write the generator into a folder, for `load_generator`."""
        arrays = {name: tensor.cpu().contiguous().numpy() for name, tensor in self.state_dict().items()}
        save_learned(folder, _NAME, arrays, {"format": _FORMAT, "shape": asdict(self.config)})


def load_generator(folder: str | Path) -> AdapterGenerator:
    """The generator in a folder, on the CPU.

    Raises:
        ModelLoadError: if there is none, or its files do not fit together.
    """
    hint = "generator of adapters: train one with `persona train adapters DATA --task-adapter FOLDER`"
    with learned(Path(folder), _NAME, _FORMAT, hint) as (arrays, config):
        made = AdapterGenerator(GeneratorConfig(**config["shape"]))
        made.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return made.eval()
