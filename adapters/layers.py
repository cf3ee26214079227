"""What the linear layers of a model see of a batch, and so which of them an adapter can change.

PEFT adapts the layers that are named. Where a batch mixes adapters that is not enough: the stack has to know which part
of a layer's input is whose. So the layers are watched while the model reads three requests, and once more with another
third one. A layer

=================  =================================================================================================
can be adapted     if its input has a part for each request and only the third part changed; the requests lie along
                   its first dimension or its second
is not computed    if it does nothing for a text (a vision tower)
cannot be adapted  otherwise: an expert sees the tokens that are sent to it, positions are the same for all requests, a
                   router answers with more than one tensor
=================  =================================================================================================
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.pytorch_utils import Conv1D

from persona.errors import InvalidOptionError, reason
from persona.llm.checkpoint import frozen
from persona.llm.frozen.model import rounding

Linear: TypeAlias = nn.Linear | Conv1D

_REQUESTS, _READ, _WRITTEN = 3, 11, 5
NOT_COMPUTED = "it is not computed when the model reads text"
_EXPERT = "it is an expert and sees the tokens that are sent to it, whosever they are"
_MIXED = "it does not see one row for each request"
_OUTPUT = "it does not answer one tensor for one tensor"
_FUSED = "PEFT takes its name for that of experts, which are one tensor"
_KERNELS = "Mamba's kernels read its weight and pass it by, so PEFT refuses it as well"
_OF_KERNELS = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
"""Types of models whose ``out_proj`` PEFT refuses."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a layer sees of a batch.

    Attributes:
        axis: the dimension of its input that the requests lie along, 0 or 1; None if it cannot be adapted.
        why: why not.
    """

    axis: int | None
    why: str = ""


def linear_layers(model: nn.Module) -> dict[str, Linear]:
    """The linear layers of a model by name, in its order; GPT-2's are called Conv1D."""
    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}


def sizes(layer: Linear) -> tuple[int, int]:
    """How many numbers a layer reads for each token, and how many it answers."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return int(layer.weight.shape[0]), int(layer.weight.shape[1])


@contextmanager
def inputs_of(model: nn.Module, layers: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[dict[str, Tensor]]:
    """While this is open, what a function makes of each layer's last input is kept, by the layer's name."""
    read: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, given: tuple[Any, ...]) -> None:
        read[name] = layers[name](given[0].detach())

    with ExitStack() as stack:
        for name in layers:
            hook = model.get_submodule(name).register_forward_pre_hook(partial(keep, name))
            stack.callback(hook.remove)
        yield read


def sights(model: nn.Module) -> Mapping[str, Sight]:
    """What each linear layer of a model sees; computed once for a model.

    Raises:
        InvalidOptionError: if the model cannot read text alone.
    """
    layers = linear_layers(model)
    seen = _SEEN.get(model)
    if seen is None or seen.keys() != layers.keys():
        # A model that is none of transformers' is taken to see requests in front.
        watched = hasattr(model, "get_input_embeddings") and hasattr(model, "config")
        seen = _watched(model, layers) if watched else dict.fromkeys(layers, Sight(0))
        _SEEN[model] = seen
    return seen


_SEEN: WeakKeyDictionary[nn.Module, Mapping[str, Sight]] = WeakKeyDictionary()


def _watched(model: Any, layers: Mapping[str, Linear]) -> dict[str, Sight]:
    first, second = _read(model, layers, third=2), _read(model, layers, third=3)
    lengths = {_REQUESTS * n for n in (1, _READ, _WRITTEN)}
    lengths |= {x[..., 0].numel() for calls in first.values() for x in calls if x is not None and x.ndim > 2}
    found = {name: _sight(first[name], second[name], lengths, rounding(model)) for name in layers}
    if model.config.model_type in _OF_KERNELS:
        found |= {name: Sight(None, _KERNELS) for name in layers if name.endswith("out_proj")}
    found |= dict.fromkeys(_taken_for_experts(model, layers), Sight(None, _FUSED))
    # Of experts that are chosen token by token some may have seen all tokens by chance.
    groups: dict[str, list[str]] = defaultdict(list)
    for name in layers:
        if (group := re.sub(r"\bexperts\.(expert_)?\d+\b", "experts.*", name)) != name:
            groups[group].append(name)
    for experts in groups.values():
        if any(found[name].axis is None for name in experts):
            found |= dict.fromkeys(experts, Sight(None, _EXPERT))
    return found


def _taken_for_experts(model: Any, names: Iterable[str]) -> set[str]:
    """Layers that PEFT passes by: in models whose experts were linear layers once, it takes these names for theirs."""
    mapping: Any = get_checkpoint_conversion_mapping
    if mapping(model.config.model_type) is None:
        return set()
    from peft import LoraConfig  # here, as it takes seconds
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = LoraConfig(target_modules=list(names))
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # it has experts' names, and not all of them
        return set()
    return set(names) - set(config.target_modules or ())


_Calls: TypeAlias = dict[str, list[Tensor | None]]


def _read(model: Any, layers: Mapping[str, Linear], third: int) -> _Calls:
    """The input of each layer at each call, None where it did not answer one tensor for one."""
    calls: _Calls = {name: [] for name in layers}

    def note(name: str, n_out: int) -> Callable[..., None]:
        def noted(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            x = inputs[0] if inputs else None
            plain = isinstance(x, Tensor) and isinstance(output, Tensor) and output.shape == (*x.shape[:-1], n_out)
            calls[name].append(x if plain else None)

        return noted

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(note(name, sizes(layer)[1])).remove)
        stack.enter_context(frozen(model))
        stack.enter_context(torch.no_grad())
        try:
            model(**_batch(model, third), use_cache=False)
        except Exception as error:  # models raise whatever they like where text is not enough
            raise InvalidOptionError(f"a {type(model).__name__} cannot read text alone: {reason(error)}") from error
    return calls


def _batch(model: Any, third: int) -> dict[str, Tensor]:
    """Three requests of ordinary tokens; the first two are always the same."""
    embeddings = model.get_input_embeddings().weight
    special = _special_tokens(model.config)
    text = getattr(model.config.get_text_config(decoder=True), "vocab_size", None) or len(embeddings)
    ordinary = torch.tensor([token for token in range(min(text, len(embeddings))) if token not in special])

    def requests(length: int) -> Tensor:
        drawn = torch.randint(len(ordinary), (4, length), generator=torch.Generator().manual_seed(length))
        return ordinary[drawn[[0, 1, third]]].to(embeddings.device)

    ids = requests(_READ)
    written = {"decoder_input_ids": requests(_WRITTEN)} if model.config.is_encoder_decoder else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **written}


def _special_tokens(config: Any) -> set[int]:
    """Ids that a config, or one in it, has a name for: an end, an image."""
    special: set[int] = set()
    for name, value in vars(config).items():
        if hasattr(value, "to_diff_dict"):
            special |= _special_tokens(value)
        elif "token_i" in name:
            special |= {token for token in (value if isinstance(value, list) else [value]) if isinstance(token, int)}
    return special


def _sight(
    first: Sequence[Tensor | None], second: Sequence[Tensor | None], lengths: set[int], tolerance: float
) -> Sight:
    """What a layer sees, by its inputs when the third request was one and when it was another."""
    if not first and not second:
        return Sight(None, NOT_COMPUTED)
    pairs = [(a, b) for a, b in zip(first, second, strict=False) if a is not None and b is not None]
    if len(pairs) != len(first) or len(pairs) != len(second):
        odd = any(x is None for x in (*first, *second))
        return Sight(None, _OUTPUT if odd else _MIXED)
    for axis in (0, 1):
        if all(_has_parts(a, b, axis, lengths, tolerance) for a, b in pairs):
            return Sight(axis)
    return Sight(None, _MIXED)


def _has_parts(a: Tensor, b: Tensor, axis: int, lengths: set[int], tolerance: float) -> bool:
    """Whether an input has a part for each request, of which the third was another one in `b`."""
    if a.shape != b.shape or a.ndim <= 1 + axis or a.shape[axis] % _REQUESTS:
        return False
    if a.ndim == 2 and len(a) not in lengths:
        return False  # some tokens only
    parts = [x.movedim(axis, 0).reshape(_REQUESTS, -1).double().nan_to_num() for x in (a, b)]
    before, after = parts
    size = tolerance * before.norm(dim=1)
    if ((before - after).norm(dim=1) > size).tolist() == [False, False, True]:
        return True
    # A row for each request may be the same for all, in the first layer for instance.
    alike = a.ndim > 2 and a.shape[axis] == _REQUESTS and bool(((before - before[:1]).norm(dim=1) <= size).all())
    return alike and bool(((before - after).norm(dim=1) <= size).all())
