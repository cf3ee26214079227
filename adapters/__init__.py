"""Adapters: one LoRA per user on a frozen LLM (docs/adapters.md).

The names below are loaded when they are first used: reading this package loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from persona.lazy import lazy

if TYPE_CHECKING:
    from .bank import AdapterBank as AdapterBank
    from .channel import AdapterChannel as AdapterChannel
    from .examples import history_examples as history_examples
    from .family import LoraSpec as LoraSpec
    from .from_profiles import ProfileAdapters as ProfileAdapters
    from .generated.generator import load_generator as load_generator
    from .generated.one_pass import OnePass as OnePass
    from .peft_format import export_adapter as export_adapter
    from .peft_format import import_adapters as import_adapters
    from .serving.pool import AdapterPool as AdapterPool
    from .serving.vllm import ServedAdapters as ServedAdapters
    from .stacked import StackedLoRA as StackedLoRA
    from .task_adapter import TaskAdapter as TaskAdapter
    from .training.options import TrainingOptions as TrainingOptions
    from .training.trainer import AdapterTrainer as AdapterTrainer
    from .training.users import prior_examples as prior_examples
    from .training.users import train_users as train_users

_MODULES = {
    "bank": ("AdapterBank",),
    "channel": ("AdapterChannel",),
    "examples": ("history_examples",),
    "family": ("LoraSpec",),
    "from_profiles": ("ProfileAdapters",),
    "generated.generator": ("load_generator",),
    "generated.one_pass": ("OnePass",),
    "peft_format": ("export_adapter", "import_adapters"),
    "serving.vllm": ("ServedAdapters",),
    "serving.pool": ("AdapterPool",),
    "stacked": ("StackedLoRA",),
    "task_adapter": ("TaskAdapter",),
    "training.options": ("TrainingOptions",),
    "training.trainer": ("AdapterTrainer",),
    "training.users": ("prior_examples", "train_users"),
}

__all__ = sorted(name for names in _MODULES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _MODULES)
