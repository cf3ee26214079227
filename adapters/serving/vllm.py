"""The plug-in of a vLLM server: it finds users' adapters in the bank.

::

    pip install persona-llm                                  # where vLLM is
    export VLLM_ALLOW_RUNTIME_LORA_UPDATING=1
    export VLLM_PLUGINS=persona_lora_resolver                # only if it is set at all: it then lists what is loaded
    export PERSONA_STORE=postgresql://... PERSONA_LORA_FOLDER=/var/lib/persona/adapters
    vllm serve Qwen/Qwen2.5-0.5B --enable-lora --max-lora-rank 16

vLLM calls `register_resolver` (entry point of the group ``vllm.general_plugins``) when it starts, and from then on asks
the resolver for every model that it does not know. A name is resolved to the current, published adapter of the user
whom it names, or to nothing: the server then answers that there is no such model.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from persona.adapters.bank import AdapterBank
from persona.adapters.serving.names import ServedAdapters
from persona.errors import InvalidOptionError, MissingDependencyError, UnknownAdapterError
from persona.settings import open_store

FOLDER, FAMILY, KEY, BASE = "PERSONA_LORA_FOLDER", "PERSONA_LORA_FAMILY", "PERSONA_LORA_KEY", "PERSONA_LORA_BASE"
"""The plug-in's settings in the environment, beside `PERSONA_STORE`."""


def register_resolver() -> None:
    """What vLLM calls when it starts (entry point ``persona_lora_resolver``): does nothing without `FOLDER`.

    Raises:
        StoreError: if the store cannot be opened.
        UnknownAdapterError: if it has no adapters, or none of the family that `FAMILY` names.
        InvalidOptionError: if there are several families and `FAMILY` names none.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    bank = AdapterBank(open_store(None))
    try:
        family = bank.family(key=os.environ.get(FAMILY))
    except InvalidOptionError as error:
        raise InvalidOptionError(f"{error} in {FAMILY}") from None
    key = os.environ.get(KEY)
    served = ServedAdapters(bank, family, key=key.encode() if key else None)
    resolver = bank_resolver(served, Path(folder), base_name=os.environ.get(BASE))
    import_module("vllm.lora.resolver").LoRAResolverRegistry.register_resolver("persona", resolver)


def bank_resolver(served: ServedAdapters, folder: Path, *, base_name: str | None = None) -> Any:
    """A ``LoRAResolver`` for vLLM that finds adapters in the bank.

    Args:
        served: the adapters.
        folder: where the files go that vLLM reads.
        base_name: what the server calls its base model; None takes any that ends in the name of the model that the
            adapters were made for.

    Raises:
        MissingDependencyError: if vLLM is not installed.
    """
    try:
        make_request: Any = import_module("vllm.lora.request").LoRARequest
        base: Any = import_module("vllm.lora.resolver").LoRAResolver
    except ImportError as error:
        raise MissingDependencyError("the resolver runs inside a vLLM server: pip install vllm") from error
    made_for = served.family.base.split("@")[0]

    class BankResolver(base):  # type: ignore[misc]
        """Reads the bank when a request names an adapter that the server does not know."""

        async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
            """The adapter of that name; None if there is none, or for another base model."""
            fits = base_model_name == base_name if base_name else Path(base_model_name).name == made_for
            if not fits:
                return None
            try:
                path = await asyncio.to_thread(served.export, lora_name, folder, base_name=base_model_name)
            except UnknownAdapterError:
                return None
            number = int(hashlib.sha256(lora_name.encode()).hexdigest()[:15], 16) + 1
            return make_request(lora_name=lora_name, lora_int_id=number, lora_path=str(path))

    return BankResolver()
