"""The plug-in that a vLLM server loads by itself, so that it finds users' adapters in the bank.

    pip install persona-llm                                  # where vLLM is
    export VLLM_ALLOW_RUNTIME_LORA_UPDATING=1
    export VLLM_PLUGINS=persona_lora_resolver                # only if it is set at all: it then lists what is loaded
    export PERSONA_STORE=postgresql://... PERSONA_LORA_FOLDER=/var/lib/persona/adapters
    vllm serve Qwen/Qwen2.5-0.5B --enable-lora --max-lora-rank 16

vLLM calls `register_resolver` (entry point of the group ``vllm.general_plugins``) when it starts, and from then on asks
the resolver for every model that it does not know (`persona.adapters.served`).
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from persona.adapters.bank import AdapterBank
from persona.adapters.served import ServedAdapters, bank_resolver
from persona.errors import InvalidOptionError, UnknownAdapterError
from persona.settings import open_store

FOLDER, FAMILY, KEY, BASE = "PERSONA_LORA_FOLDER", "PERSONA_LORA_FAMILY", "PERSONA_LORA_KEY", "PERSONA_LORA_BASE"
"""The plug-in's settings in the environment, beside `PERSONA_STORE`."""


def register_resolver() -> None:
    """What vLLM calls when it starts (entry point ``persona_lora_resolver``): does nothing without `FOLDER`.

    Raises:
        StoreError: if the store cannot be opened.
        UnknownAdapterError: if it has no adapters.
        InvalidOptionError: if there are several families and `FAMILY` names none, or it names one that is not there.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    bank = AdapterBank(open_store(None))
    chosen = os.environ.get(FAMILY) or ""
    families = [family for family in bank.families() if family.key.startswith(chosen)]
    if not families and (others := bank.families()):
        keys = ", ".join(family.key for family in others)
        raise InvalidOptionError(f"{FAMILY} must be how a family's key begins, was: {chosen!r}; there are: {keys}")
    if not families:
        raise UnknownAdapterError("the store has no adapters to serve: train some with `persona train adapters`")
    if len(families) > 1:
        keys = ", ".join(family.key for family in families)
        raise InvalidOptionError(f"there are {len(families)} families of adapters, name one in {FAMILY}: {keys}")
    key = os.environ.get(KEY)
    served = ServedAdapters(bank, families[0], key=key.encode() if key else None)
    resolver = bank_resolver(served, Path(folder), base_name=os.environ.get(BASE))
    import_module("vllm.lora.resolver").LoRAResolverRegistry.register_resolver("persona", resolver)
