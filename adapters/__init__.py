"""Adapters: one LoRA per user on a frozen LLM (docs/lora.md).

The names below are loaded when they are first used: reading this package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bank import AdapterBank as AdapterBank
    from .bank import AdapterDraft as AdapterDraft
    from .bank import StoredAdapter as StoredAdapter
    from .channel import LoraChannel as LoraChannel
    from .examples import Example as Example
    from .examples import history_examples as history_examples
    from .family import Family as Family
    from .family import LoraSpec as LoraSpec
    from .neighbours import Neighbours as Neighbours
    from .peft_format import export_adapter as export_adapter
    from .peft_format import import_adapter as import_adapter
    from .planning import plan_training as plan_training
    from .pool import AdapterPool as AdapterPool
    from .routed import Router as Router
    from .routed import train_router as train_router
    from .served import ServedAdapters as ServedAdapters
    from .stacked import StackedLoRA as StackedLoRA
    from .task_adapter import TaskAdapter as TaskAdapter
    from .training import AdapterTrainer as AdapterTrainer
    from .training import TrainingOptions as TrainingOptions

_PLACES = {
    "AdapterBank": "bank",
    "AdapterDraft": "bank",
    "AdapterPool": "pool",
    "AdapterTrainer": "training",
    "Example": "examples",
    "Family": "family",
    "LoraChannel": "channel",
    "LoraSpec": "family",
    "Neighbours": "neighbours",
    "Router": "routed",
    "ServedAdapters": "served",
    "StackedLoRA": "stacked",
    "StoredAdapter": "bank",
    "TaskAdapter": "task_adapter",
    "TrainingOptions": "training",
    "export_adapter": "peft_format",
    "history_examples": "examples",
    "import_adapter": "peft_format",
    "plan_training": "planning",
    "train_router": "routed",
}

__all__ = [
    "AdapterBank",
    "AdapterDraft",
    "AdapterPool",
    "AdapterTrainer",
    "Example",
    "Family",
    "LoraChannel",
    "LoraSpec",
    "Neighbours",
    "Router",
    "ServedAdapters",
    "StackedLoRA",
    "StoredAdapter",
    "TaskAdapter",
    "TrainingOptions",
    "export_adapter",
    "history_examples",
    "import_adapter",
    "plan_training",
    "train_router",
]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{place}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
