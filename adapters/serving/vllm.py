"""Adapters on a vLLM server: what they are called there, and the plug-in that finds them in the bank.

::

    served = ServedAdapters(bank, family)
    llm = load_llm("vllm:Qwen/Qwen2.5-0.5B@http://127.0.0.1:8000/v1", adapter_name=served.name)
    personalizer = Personalizer(llm, store, [AdapterChannel(served)])

A request names the adapter as its model, and vLLM keeps what it has loaded and computed under that name for ever. So a
name holds the user, the version and a digest of the numbers::

    ana@3-9a07f1c2b6d4            ana%20lee@1-0b51a96c22f0            @prior-4f2d8c01ab37

No two adapters ever share one: not after a roll-back, not over another prior, and not if a user was forgotten and a new
user has the same id. `key` adds a signature, which a client without the key cannot make; without one, whoever reaches
the server and knows a name may use that adapter, as vLLM itself asks for no more.

**The server** calls `register_resolver` (entry point ``persona_lora_resolver``) when it starts, and from then on asks
the resolver for every model that it does not know. A name is resolved to the current, published adapter of the user
whom it names, or to nothing: the server then answers that there is no such model::

    pip install persona-llm                                  # where vLLM is
    export VLLM_ALLOW_RUNTIME_LORA_UPDATING=1
    export VLLM_PLUGINS=persona_lora_resolver                # only if it is set at all: it then lists what is loaded
    export PERSONA_STORE=postgresql://... PERSONA_LORA_FOLDER=/var/lib/persona/adapters
    vllm serve Qwen/Qwen2.5-0.5B --enable-lora --max-lora-rank 16

Without the plug-in, adapters are loaded one by one: ``llm.load_adapter(name, str(served.export(name, folder, ...)))``.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from persona.adapters.bank import AdapterBank
from persona.adapters.family import Family
from persona.adapters.peft_format import export_adapter, export_prior
from persona.adapters.versions import PUBLISHED, StoredAdapter, split_name
from persona.errors import InvalidOptionError, MissingDependencyError, PersonaError, UnknownAdapterError
from persona.protocols import PRIOR_ADAPTER
from persona.settings import open_store

FOLDER, FAMILY, KEY, BASE = "PERSONA_LORA_FOLDER", "PERSONA_LORA_FAMILY", "PERSONA_LORA_KEY", "PERSONA_LORA_BASE"
"""The plug-in's settings in the environment, beside `PERSONA_STORE`."""

_DIGITS = 12
_NAME = re.compile(
    r"(?P<user>[^@]*)@(?P<version>[1-9][0-9]{0,17}|prior)-(?P<digest>[0-9a-f]{12})(?:-(?P<sign>[0-9a-f]{32}))?"
)


class ServedAdapters:
    """The adapters of one family under their names on a server.

    Args:
        bank: where the adapters are.
        family: which of them are served.
        key: signs names; at least 16 bytes, the same for the clients and the server. None signs none.

    Raises:
        InvalidOptionError: if `key` is too short.
    """

    def __init__(self, bank: AdapterBank, family: Family, *, key: bytes | None = None) -> None:
        if key is not None and len(key) < 16:
            raise InvalidOptionError(f"`key` must have at least 16 bytes, had: {len(key)}")
        self.bank, self.family, self._key = bank, family, key

    def serving(self) -> AbstractContextManager[object]:
        """Nothing has to be open: the server serves them."""
        return nullcontext()

    def name(self, adapter: str) -> str:
        """What the server calls an adapter.

        Args:
            adapter: ``user@version`` (`StoredAdapter.name`), or `PRIOR_ADAPTER`.

        Raises:
            UnknownAdapterError: if the bank has no adapter of that name, or no more.
        """
        if adapter == PRIOR_ADAPTER:
            if self.family.prior is None:
                raise UnknownAdapterError(f"the family {self.family.key} has no prior to serve")
            return self._signed(f"{PRIOR_ADAPTER}-{self.family.key}")
        user_id, version = split_name(adapter)
        return self._named(self.bank.version(user_id, self.family, version))

    def find(self, name: str) -> StoredAdapter | None:
        """The adapter that the server's name `name` means; None for the prior.

        Raises:
            UnknownAdapterError: if it means none that is published now: an unknown user or version, one that was rolled
                back or withdrawn, other numbers, another spelling, or a signature that is missing or wrong.
        """
        parts = _NAME.fullmatch(name)
        unknown = UnknownAdapterError(f"there is no adapter {name!r} to serve")
        if parts is None:
            raise unknown
        if parts["version"] == "prior":
            if parts["user"] or self.family.prior is None or not _equal(name, self.name(PRIOR_ADAPTER)):
                raise unknown
            return None
        try:
            adapter = self.bank.current(unquote(parts["user"], errors="strict"), self.family)
        except (PersonaError, UnicodeError):
            raise unknown from None
        if adapter is None or adapter.state != PUBLISHED or not _equal(name, self._named(adapter)):
            raise unknown
        return adapter

    def export(self, name: str, folder: Path, *, base_name: str) -> Path:
        """Write the adapter that `name` means as a PEFT folder in `folder`; errors as in `find`.

        The folder's name holds the digest too, ``ana@3-9a07f1c2b6d4``: what a server reads there is never replaced by
        another adapter. One that is there already is left as it is.
        """
        adapter = self.find(name)
        if adapter is None:
            return export_prior(self.bank, self.family, folder, base_name=base_name)
        return export_adapter(self.bank, adapter, folder, base_name=base_name, digest=self._digest(adapter))

    def _named(self, adapter: StoredAdapter) -> str:
        return self._signed(f"{quote(adapter.user_id, safe='')}@{adapter.version}-{self._digest(adapter)}")

    def _digest(self, adapter: StoredAdapter) -> str:
        if adapter.sha256 is None:
            raise UnknownAdapterError(f"the bank has no numbers of the adapter {adapter.name}")
        return hashlib.sha256(f"{self.family.name}\n{adapter.sha256}".encode()).hexdigest()[:_DIGITS]

    def _signed(self, name: str) -> str:
        if self._key is None:
            return name
        return f"{name}-{hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()[:32]}"


def _equal(name: str, other: str) -> bool:
    return hmac.compare_digest(name.encode(), other.encode())


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
