"""The shape of adapters, and which of them can stand in one stack: same base model, layers, rank and scale.

The adapter of a linear layer ``y = W x`` adds ``s B A x``, with ``A (r, in)``, ``B (out, r)`` and a scale `s` of
``alpha / r`` (LoRA, arXiv 2106.09685) or ``alpha / sqrt(r)`` (rsLoRA, arXiv 2312.03732). All numbers of one adapter lie
in one row, layer after layer in the model's own order::

    A of layer 1 (r * in), B of layer 1 (out * r), A of layer 2, ...          `Family.size` numbers

So one adapter is a vector, and many are a matrix. At rest it is the same row in the family's `dtype`; with ``int8``
each row of A and each column of B has a scale (float32), and the scales come first.

With a *gate* a user's part adds ``s B sigmoid((A x - gate) / 0.1)``: a rank-one edit for each key, of which little is
there unless the input is like the key (`persona.adapters.training.keys`). The prior under it has no gate.

>>> Family("tiny@b00f:float32", LoraSpec(r=8), (AdaptedModule("q_proj", 32, 32),)).size
512
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from persona.adapters.layers import NOT_COMPUTED, linear_layers, sights, sizes
from persona.errors import DataFormatError, InvalidOptionError, check_least, check_one_of, check_positive

ALL_LINEAR = "all-linear"
"""As in PEFT: every linear layer but the one that makes the logits. What cannot be adapted is left out."""

GATE_WIDTH = 0.1
"""How wide a gate opens (Perfusion's temperature in training)."""

_LOG = logging.getLogger(__name__)
_TOLD: WeakSet[nn.Module] = WeakSet()

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int8": torch.int8,
}
"""What an adapter's numbers may be at rest."""


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """The shape of an adapter, whatever the model.

    Attributes:
        r: rank, at least 1.
        alpha: numerator of the scale, above 0.
        targets: ends of the names of the layers to adapt, each a whole name between dots (``("q_proj", "v_proj")``), as
            PEFT's `target_modules`; or ``("all-linear",)``.
        rslora: divide by ``sqrt(r)`` instead of `r`.
        dtype: of the numbers at rest, one of `DTYPES`.
        gate: the similarity at which a gate is half open; None for none. For value projections, named in `targets`:
            what is added to queries and keys would change where the model looks.

    Raises:
        InvalidOptionError: if a value is out of its range.
    """

    r: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = (ALL_LINEAR,)
    rslora: bool = False
    dtype: str = "float32"
    gate: float | None = None

    def __post_init__(self) -> None:
        check_least(1, r=self.r)
        check_positive(alpha=self.alpha)
        if isinstance(self.targets, str) or not self.targets:
            raise InvalidOptionError(f"`targets` must be a tuple of names such as ('q_proj',), was: {self.targets!r}")
        check_one_of(DTYPES, dtype=self.dtype)
        if self.gate is not None and ALL_LINEAR in self.targets:
            raise InvalidOptionError("a `gate` is for value projections: name them in `targets`, such as ('v_proj',)")
        object.__setattr__(self, "targets", tuple(sorted(set(self.targets))))  # their order means nothing

    @property
    def scale(self) -> float:
        """What ``B A x`` is multiplied by."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)


@dataclass(frozen=True, slots=True)
class AdaptedModule:
    """A linear layer that an adapter changes: its path in the model, and the lengths of its input and output."""

    name: str
    n_in: int
    n_out: int


def find_modules(model: nn.Module, spec: LoraSpec) -> tuple[AdaptedModule, ...]:
    """The layers of `model` that `spec` names, in the model's order, see `persona.adapters.layers`.

    Layers that are not computed when the model reads text are left out. So are, of ``all-linear``, those that cannot be
    adapted; a warning says which.

    Raises:
        InvalidOptionError: if a target names no linear layer of the model, or one that cannot be adapted.
    """
    linear, seen = linear_layers(model), sights(model)
    everything = ALL_LINEAR in spec.targets
    chosen = _all_linear(model, linear) if everything else _named(spec, linear)
    left_out = {name: seen[name].why for name in linear if name in chosen and seen[name].axis is None}
    for name, why in left_out.items():
        if why != NOT_COMPUTED and not everything:
            raise InvalidOptionError(f"the layer {name} cannot be adapted: {why}; take it out of `targets`")
    if left_out and model not in _TOLD:
        _TOLD.add(model)
        _LOG.warning("%s: adapters leave out %s", type(model).__name__, _summary(left_out))
    if len(left_out) == len(chosen):
        raise InvalidOptionError(
            f"a {type(model).__name__} has no linear layer to adapt: {_summary(left_out) or 'none'}"
        )
    return tuple(
        AdaptedModule(name, *sizes(module)) for name, module in linear.items() if name in chosen - left_out.keys()
    )


def _all_linear(model: Any, linear: Iterable[str]) -> set[str]:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {name for name in linear if model.get_submodule(name) is not head}


def _named(spec: LoraSpec, linear: Iterable[str]) -> set[str]:
    chosen: set[str] = set()
    for target in spec.targets:
        matching = {name for name in linear if name == target or name.endswith(f".{target}")}
        if not matching:
            ends = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise InvalidOptionError(f"`targets` must end names of linear layers ({ends}), was: {target!r}")
        chosen |= matching
    return chosen


def _summary(left_out: Mapping[str, str]) -> str:
    """Names of layers, those that differ by numbers as one, and the reasons."""
    names: dict[str, set[str]] = {}
    for name, why in left_out.items():
        names.setdefault(why, set()).add(re.sub(r"\d+", "*", name))
    return "; ".join(f"{', '.join(sorted(own))} ({why})" for why, own in names.items())


@dataclass(frozen=True)
class Family:
    """Adapters that can stand in one stack.

    Attributes:
        base: fingerprint of the frozen model.
        spec: rank, scale, targets and dtype at rest.
        modules: what the targets are in that model.
        prior: SHA-256 of the shared adapter that lies under these, as hexadecimal digits; None where there is none.
    """

    base: str
    spec: LoraSpec
    modules: tuple[AdaptedModule, ...]
    prior: str | None = None

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers each A and each B has, in the order of a row."""
        r = self.spec.r
        return tuple(size for module in self.modules for size in (r * module.n_in, r * module.n_out))

    @cached_property
    def size(self) -> int:
        """How many numbers an adapter has."""
        return sum(self.sizes)

    @property
    def steers(self) -> bool:
        """Whether they are steering vectors: without an input, what is added is the same for every token."""
        return not any(module.n_in for module in self.modules)

    @property
    def nbytes(self) -> int:
        """Bytes of an adapter at rest."""
        scales = 4 * self.spec.r * len(self.sizes) if self.spec.dtype == "int8" else 0
        return scales + self.size * DTYPES[self.spec.dtype].itemsize

    @cached_property
    def name(self) -> str:
        """The family as canonical JSON: equal families have equal names."""
        spec = self.spec
        content = {
            "base": self.base,
            "r": spec.r,
            "alpha": float(spec.alpha),
            "rslora": spec.rslora,
            "targets": spec.targets,
            "dtype": spec.dtype,
            "modules": [[module.name, module.n_in, module.n_out] for module in self.modules],
            "prior": self.prior,
            **({} if spec.gate is None else {"gate": spec.gate}),
        }
        return json.dumps(content, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_name(cls, name: str) -> Family:
        """The inverse of `name`."""
        content: dict[str, Any] = json.loads(name)
        shape = content["r"], content["alpha"], tuple(content["targets"]), content["rslora"], content["dtype"]
        spec = LoraSpec(*shape, content.get("gate"))
        modules = tuple(AdaptedModule(*module) for module in content["modules"])
        return cls(content["base"], spec, modules, content["prior"])

    @property
    def key(self) -> str:
        """The first 12 hexadecimal digits of the name's SHA-256, for people."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:12]

    def check_linear(self, wanted_by: str) -> None:
        """Refuse adapters with a gate where only ``B A`` is computed.

        Raises:
            InvalidOptionError: if they have one.
        """
        if self.spec.gate is not None:
            raise InvalidOptionError(f"{wanted_by} takes adapters without a gate: the family {self.key} has one")

    def over(self, prior: Tensor | None) -> Family:
        """The family of the adapters that lie over `prior`.  # (size,)"""
        return replace(self, prior=None if prior is None else fingerprint_of(prior))

    def pairs(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """A and B of every layer, as views of `rows` through which gradients flow.

        Args:
            rows: adapters.  # (n, size)

        Returns:
            For each layer A and B.  # (n, r, in), (n, out, r)
        """
        # One split, so that the gradient of all pieces is put together once.
        pieces = torch.split(rows, list(self.sizes), dim=1)
        n, r = len(rows), self.spec.r
        return [
            (a.view(n, r, module.n_in), b.view(n, module.n_out, r))
            for module, a, b in zip(self.modules, pieces[::2], pieces[1::2], strict=True)
        ]

    def initial(self, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """An adapter that changes nothing yet: A Kaiming uniform with ``a = sqrt(5)`` as in PEFT, B zero.  # (size,)"""
        generator = torch.Generator().manual_seed(seed)
        row = torch.zeros(1, self.size, dtype=dtype)
        for a, _ in self.pairs(row):
            bound = 1 / math.sqrt(a.shape[2])
            a.copy_(torch.empty(a.shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator))
        return row[0]

    def encode(self, row: Tensor) -> bytes:
        """The bytes of an adapter at rest.  # row: (size,)

        Raises:
            InvalidOptionError: if `row` is of another shape, or holds numbers that are not finite.
        """
        if row.shape != (self.size,):
            raise InvalidOptionError(f"an adapter must have the shape ({self.size},), was: {tuple(row.shape)}")
        row = row.detach().cpu()
        stored = _quantised(self, row) if self.spec.dtype == "int8" else row.to(DTYPES[self.spec.dtype])
        if not bool(row.isfinite().all() & stored.isfinite().all()):
            raise InvalidOptionError("an adapter must hold finite numbers only, also in its dtype at rest")
        return stored.contiguous().view(torch.uint8).numpy().tobytes()

    def decode(self, payload: bytes) -> Tensor:
        """The inverse of `encode`: float32, or float64 where that is the dtype at rest.  # (size,)

        Raises:
            DataFormatError: if `payload` is not of this family's length.
        """
        if len(payload) != self.nbytes:
            raise DataFormatError(f"an adapter of family {self.key} has {self.nbytes} bytes, was: {len(payload)}")
        numbers = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        if self.spec.dtype == "int8":
            return _dequantised(self, numbers)
        row = numbers.view(DTYPES[self.spec.dtype])
        return row if row.dtype == torch.float64 else row.float()


def fingerprint_of(row: Tensor) -> str:
    """SHA-256 of an adapter's numbers as float32, in hexadecimal digits."""
    numbers = row.detach().cpu().float().contiguous()
    return hashlib.sha256(numbers.view(torch.uint8).numpy().tobytes()).hexdigest()


def _by_rank(family: Family, row: Tensor) -> list[Tensor]:
    """Every A and every transposed B, views of `row`.  # (r, in or out) each"""
    return [part for a, b in family.pairs(row[None]) for part in (a[0], b[0].T)]


def _quantised(family: Family, row: Tensor) -> Tensor:
    row = row.float()
    codes, scales = torch.empty(family.size, dtype=torch.int8), []
    for part, coded in zip(_by_rank(family, row), _by_rank(family, codes), strict=True):
        scale = part.abs().amax(dim=1) / 127
        coded.copy_((part / scale.clamp_min(1e-30)[:, None]).round())
        scales.append(scale)
    return torch.cat((torch.cat(scales).view(torch.int8), codes))


def _dequantised(family: Family, numbers: Tensor) -> Tensor:
    n_scales = family.spec.r * len(family.sizes)
    scales = numbers[: 4 * n_scales].view(torch.float32).view(-1, family.spec.r)
    row = numbers[4 * n_scales :].view(torch.int8).float()
    for part, scale in zip(_by_rank(family, row), scales, strict=True):
        part.mul_(scale[:, None])
    return row
