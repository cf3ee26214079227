"""The names of parts: here a text becomes the parts of a user embedder, and here a new name is added.

>>> parsed("heads + difference(weight=0.5)")
[('heads', {}), ('difference', {'weight': 0.5})]
>>> [type(view).__name__ for view in made("view", "time")]
['TimeView']

A part's options are the keyword arguments of its class.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from persona.errors import InvalidOptionError

HEADS = "heads"
"""The pooling that is always there: attention heads and a mean head (`persona.soft_prompts.network`)."""

_ROOM = "persona.soft_prompts"
PARTS: Mapping[str, Mapping[str, str]] = {
    "view": {
        "concepts": f"{_ROOM}.parts.views.concepts:ConceptsView",
        "label": f"{_ROOM}.parts.views.label:LabelView",
        "metadata": f"{_ROOM}.parts.views.metadata:MetadataView",
        "time": f"{_ROOM}.parts.views.time:TimeView",
    },
    "pooling": {
        "aspects": f"{_ROOM}.parts.poolings.aspects:AspectsPooling",
        "clusters": f"{_ROOM}.parts.poolings.clusters:ClustersPooling",
        "concepts": f"{_ROOM}.parts.poolings.concepts:ConceptsPooling",
        "difference": f"{_ROOM}.parts.poolings.difference:DifferencePooling",
        "queries": f"{_ROOM}.parts.poolings.queries:QueriesPooling",
        "sequence": f"{_ROOM}.parts.poolings.sequence:SequencePooling",
    },
    "state": {
        "pruned": f"{_ROOM}.parts.states.pruned:PrunedState",
        "residual_codes": f"{_ROOM}.parts.states.residual:ResidualCodes",
        "scalar_codes": f"{_ROOM}.parts.states.scalar:ScalarCodes",
    },
    "tokens": {
        "nested": f"{_ROOM}.parts.tokens.nested:NestedTokens",
        "interests": f"{_ROOM}.parts.tokens.interests:InterestTokens",
        "bands": f"{_ROOM}.parts.tokens.bands:BandTokens",
        "records": f"{_ROOM}.parts.tokens.records:RecordTokens",
        "set": f"{_ROOM}.parts.tokens.unordered:SetTokens",
        "pieces": f"{_ROOM}.parts.tokens.pieces:PieceTokens",
    },
    "objective": {
        "alignment": f"{_ROOM}.training.objectives.alignment:AlignmentObjective",
        "auxiliary": f"{_ROOM}.training.objectives.auxiliary:AuxiliaryObjective",
        "context": f"{_ROOM}.training.objectives.context:ContextObjective",
        "hard_negatives": f"{_ROOM}.training.objectives.hard_negatives:HardNegativesObjective",
        "masked": f"{_ROOM}.training.objectives.masked:MaskedObjective",
        "metric": f"{_ROOM}.training.objectives.metric:MetricObjective",
        "noise": f"{_ROOM}.training.objectives.noise:NoiseObjective",
        "preference": f"{_ROOM}.training.objectives.preference:PreferenceObjective",
        "templates": f"{_ROOM}.training.objectives.templates:TemplatesObjective",
        "uniformity": f"{_ROOM}.training.objectives.uniformity:UniformityObjective",
    },
}
"""All parts by kind and name."""


def parsed(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and options in a text like ``"time + metadata(fields=8)"``; of an empty text none.

    Raises:
        InvalidOptionError: if it is no such text.
    """
    if not text.strip():
        return []
    try:
        node, found = ast.parse(text.strip(), mode="eval").body, []
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            found.append(node.right)
            node = node.left
        return [_named(each) for each in (node, *reversed(found))]
    except (SyntaxError, ValueError, AttributeError) as error:
        raise InvalidOptionError(
            f"parts are given as `name + name(option=1)`, with names of letters and underscores, were: {text!r}"
        ) from error


def _named(node: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(node, ast.Name):
        return node.id, {}
    if node.args:
        raise ValueError
    return node.func.id, {each.arg: ast.literal_eval(each.value) for each in node.keywords}


def made(kind: str, text: str, *given: Any) -> list[Any]:
    """The parts of a kind that a text names.

    Args:
        kind: one of `PARTS`.
        text: names and options; `HEADS` is passed over.
        *given: what their constructors take before the options.

    Raises:
        InvalidOptionError: if there is no such part, or it has no such option.
    """
    found = []
    for name, options in parsed(text):
        if kind == "pooling" and name == HEADS:
            continue
        part = _class(kind, name)
        legal = [each.name for each in inspect.signature(part).parameters.values() if each.kind is each.KEYWORD_ONLY]
        if wrong := set(options) - set(legal):
            raise InvalidOptionError(
                f"the {kind} {name!r} has the options {', '.join(legal) or 'none'}, was given: {min(wrong)!r}"
            )
        found.append(part(*given, **options))
    return found


def fitted(text: str, split: Any) -> str:
    """The text of views, with what they take from a training split (`View.fitted`).

    Raises:
        InvalidOptionError: if there is no such view.
    """
    views = []
    for name, options in parsed(text):
        given = _class("view", name).fitted(split, **options)
        described = ", ".join(f"{option}={value!r}" for option, value in given.items())
        views.append(f"{name}({described})" if given else name)
    return " + ".join(views)


def _class(kind: str, name: str) -> Any:
    if name not in PARTS[kind]:
        known = ", ".join([*([HEADS] if kind == "pooling" else []), *PARTS[kind]])
        raise InvalidOptionError(f"a user embedder's {kind} must be one of {known}, was: {name!r}")
    module, _, attribute = PARTS[kind][name].partition(":")
    return getattr(import_module(module), attribute)
