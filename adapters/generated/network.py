r"""The networks that write adapters: what they read of a user becomes states, and these rows of A and columns of B.

Two kinds share the writing; the third is `persona.adapters.few_records.routed`. For layer l, module m of it and rank ρ
a *state* z_lρ, the layer's embedding and that of the module's type go through a residual trunk; a head for each type
makes a row of A of it and one a column of B::

    s = Trunk([z_lρ ; e_l ; e_m])      A_ρ = a_m Head_A(s) / sqrt(n_in)      B_ρ = b_m Head_B(s) / sqrt(width)

The heads of B start at zero, so an untrained generator changes nothing; the scales a and b are learned for each module.

``vector`` (Profile-to-PEFT's shape, arXiv 2510.16282)
    z_ρ = LayerNorm(W [v ; log n]) + e_ρ for any vector v of a user with n records.
``activations`` (Doc-to-LoRA's shape, arXiv 2602.15902)
    z_lρ = LayerNorm(u_lρ) + e_lρ for a latent u_lρ that attends to what layer l of the frozen LLM reads over a chunk of
    records: their last tokens, with an embedding of the place and of what they are, prompt or answer. It begins as W g,
    where g is what the LLM did not expect of the chunk's records (`record_vectors`).

What is read is taken as it differs from the usual, in units of how records differ; what all users share would drown the
rest. The shared adapter under all of them, Doc-to-LoRA's
bias, is the prior that the family lies over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.adapters.family import AdaptedModule, Family
from persona.errors import InvalidOptionError

PADDING, PROMPT, ANSWER = range(3)
"""What a token of a record is."""


def layers_of(modules: Sequence[AdaptedModule]) -> list[list[int]]:
    """Which modules belong to each layer of the model, by the first number in their names, in the model's order.

    Raises:
        InvalidOptionError: if the first modules of the layers read vectors of several lengths.
    """
    layers: dict[str, list[int]] = {}
    for index, module in enumerate(modules):
        match = re.match(r".*?\d+(?=\.|$)", module.name)
        layers.setdefault(match[0] if match else module.name, []).append(index)
    lengths = sorted({modules[own[0]].n_in for own in layers.values()})
    if len(lengths) > 1:
        raise InvalidOptionError(
            f"the first adapted modules of the layers must read vectors of one length, were: {lengths}; "
            "choose other `targets`"
        )
    return list(layers.values())


class Reader(nn.Module):
    """States of layers from what the LLM's layers read over a chunk of records, as it differs from the usual.

    Args:
        layers: of the model.
        ranks: of a chunk's adapter.
        dim: length of what a layer reads.
        surprise: length of what was not expected of a record.
        tokens: of a record.
        width: of a state, a multiple of `heads`.
        blocks: how often a latent attends.
        heads: of each attention.
    """

    def __init__(
        self, layers: int, ranks: int, dim: int, surprise: int, tokens: int, *, width: int, blocks: int, heads: int
    ) -> None:
        super().__init__()
        self.heads = heads
        self.states, self.surprises = Usual(layers, dim), Usual(surprise)
        self.latents = nn.Parameter(torch.randn(layers, ranks, width) / width**0.5)
        self.keys = nn.Parameter(torch.randn(layers, dim, width) / dim**0.5)
        self.values = nn.Parameter(torch.randn(layers, dim, width) / dim**0.5)
        self.places = nn.Embedding(tokens, width)
        self.marks = nn.Embedding(3, width)
        self.count = nn.Linear(1, width, bias=False)
        nn.init.zeros_(self.count.weight)
        self.begin = nn.Linear(surprise, width, bias=False)
        self.asks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.answers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(blocks))
        self.trunk = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, states: Tensor, marks: Tensor, surprises: Tensor, counts: Tensor) -> Tensor:
        """One state for each layer and rank.  # (chunks, layers, ranks, width)

        Args:
            states: what the layers read.  # (chunks, layers, records, tokens, dim)
            marks: `PADDING`, `PROMPT` or `ANSWER`.  # (chunks, records, tokens)
            surprises: what was not expected of the records, their mean.  # (chunks, surprise)
            counts: records of each chunk, at least 1.  # (chunks,)
        """
        read = self.states(states.flatten(2, 3))  # (chunks, layers, T, dim)
        told = (self.places.weight + self.marks(marks)).flatten(1, 2)[:, None]  # (chunks, 1, T, width)
        keys = torch.einsum("nltd,ldw->nltw", read, self.keys) + told
        values = torch.einsum("nltd,ldw->nltw", read, self.values)
        seen = (marks != PADDING).flatten(1)[:, None, None, None]  # (chunks, 1, 1, 1, T)
        z = (self.begin(self.surprises(surprises)) + self.count(counts.log()[:, None]))[:, None, None]
        for ask, answer, block in zip(self.asks, self.answers, self.trunk, strict=True):
            q, k, v = (self._by_head(each) for each in (ask(self.latents + z), keys, values))
            found = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            z = block(z + answer(found.transpose(-3, -2).flatten(-2)))
        written: Tensor = self.norm(z) + self.latents
        return written

    def _by_head(self, x: Tensor) -> Tensor:
        """Cut into heads.  # (chunks, layers, heads, length, width / heads)"""
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(-3, -2)


class VectorReader(nn.Module):
    """States of all layers from a user's vector.

    Args:
        ranks: of an adapter.
        dim: length of a vector.
        width: of a state.
    """

    def __init__(self, ranks: int, dim: int, *, width: int) -> None:
        super().__init__()
        self.usual = Usual(dim)
        self.read = nn.Sequential(nn.Linear(dim + 1, width), nn.LayerNorm(width))
        self.ranks = nn.Parameter(torch.randn(ranks, width) / width**0.5)

    def forward(self, vectors: Tensor, counts: Tensor) -> Tensor:
        """One state for each rank.  # (users, 1, ranks, width)

        Args:
            vectors: of the users.  # (users, dim)
            counts: of their records, at least 1.  # (users,)
        """
        states: Tensor = self.read(torch.cat((self.usual(vectors), counts.log()[:, None]), dim=1))
        return states[:, None, None] + self.ranks


class Usual(nn.Module):
    """What is usual of something that is read, and how much records differ in it; `fit` learns it."""

    mean: Tensor
    spread: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(shape))

    def fit(self, records: Tensor) -> None:
        """Learn from some records, or users.  # (records, *shape)"""
        records = records.double()
        self.mean.copy_(records.mean(0))
        self.spread.copy_(records.std(0).clamp_min(1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """How `x` differs from the usual; of layers what lies between layer and number is its tokens."""
        mean, spread = (each[:, None] if each.ndim == 2 else each for each in (self.mean, self.spread))
        return (x - mean) / spread


class Writer(nn.Module):
    """Rows of adapters from states.

    Args:
        family: of the rows; its rank is that of the states.
        width: of a state.
        blocks: of the trunk.
    """

    layer: Tensor
    kind: Tensor

    def __init__(self, family: Family, *, width: int, blocks: int) -> None:
        super().__init__()
        self.family, self.width = family, width
        modules, layers = family.modules, layers_of(family.modules)
        kinds = [(re.sub(r"\d+", "*", module.name), module.n_in, module.n_out) for module in modules]
        known = list(dict.fromkeys(kinds))
        self._of_kind = [[index for index, kind in enumerate(kinds) if kind == each] for each in known]
        layer = {index: number for number, own in enumerate(layers) for index in own}
        self.register_buffer("layer", torch.tensor([layer[index] for index in range(len(modules))]), persistent=False)
        self.register_buffer("kind", torch.tensor([known.index(kind) for kind in kinds]), persistent=False)
        self.layers = nn.Sequential(nn.Embedding(len(layers), width), nn.LayerNorm(width))
        self.kinds = nn.Sequential(nn.Embedding(len(known), width), nn.LayerNorm(width))
        self.mix = nn.Linear(3 * width, width)
        self.trunk = nn.Sequential(*(Block(width) for _ in range(blocks)), nn.LayerNorm(width))
        self.heads_a = nn.ModuleList(nn.Linear(width, n_in) for _, n_in, _ in known)
        self.heads_b = nn.ModuleList(nn.Linear(width, n_out, bias=False) for _, _, n_out in known)
        for head in self.heads_b:
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]
        self.scale_a, self.scale_b = (nn.Parameter(torch.ones(len(modules), 1, 1)) for _ in range(2))

    def forward(self, z: Tensor) -> Tensor:
        """The rows of adapters.  # z: (n, layers or 1, ranks, width) -> (n, size)"""
        n, layers, ranks, _ = z.shape
        z = z[:, self.layer] if layers > 1 else z.expand(-1, len(self.layer), -1, -1)
        known = (self.layers(self.layer), self.kinds(self.kind))
        s = torch.cat((z, *(each[None, :, None].expand(n, -1, ranks, -1) for each in known)), dim=3)
        s = self.trunk(self.mix(s))  # (n, modules, ranks, width)
        pieces: dict[int, tuple[Tensor, Tensor]] = {}
        for own, head_a, head_b in zip(self._of_kind, self.heads_a, self.heads_b, strict=True):
            some = s[:, own]
            a, b = head_a(some) * self.scale_a[own], head_b(some) * self.scale_b[own]
            a, b = a / a.shape[3] ** 0.5, b.transpose(2, 3) / self.width**0.5
            pieces |= {index: (a[:, place], b[:, place]) for place, index in enumerate(own)}
        return torch.cat([part.flatten(1) for index in range(len(pieces)) for part in pieces[index]], dim=1)


class Block(nn.Module):
    """A residual block: LayerNorm, four times as wide, SiLU, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        y: Tensor = x + self.inner(x)
        return y
