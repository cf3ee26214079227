"""Adapters on a vLLM server: what they are called there, and how they are loaded.

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

A server that was started with ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1`` gets adapters in one of two ways:
`ServedAdapters.load` exports one and posts it to ``/v1/load_lora_adapter``; or the plug-in of
`persona.adapters.serving.vllm` reads the bank when a request names an adapter that the server does not know.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

from persona.adapters.bank import AdapterBank
from persona.adapters.family import Family
from persona.adapters.peft_format import export_adapter, export_prior
from persona.adapters.versions import PUBLISHED, StoredAdapter, split_name
from persona.errors import InvalidOptionError, PersonaError, UnknownAdapterError
from persona.protocols import PRIOR_ADAPTER

_DIGITS = 12
_NAME = re.compile(
    r"(?P<user>[^@]*)@(?P<version>[1-9][0-9]{0,17}|prior)-(?P<digest>[0-9a-f]{12})(?:-(?P<sign>[0-9a-f]{32}))?"
)


class AdapterServer(Protocol):
    """An endpoint that adapters can be put on: `persona.llm.endpoint.OpenAILM`."""

    def load_adapter(self, name: str, path: str) -> None:
        """Have the server read an adapter."""
        ...

    def unload_adapter(self, name: str) -> None:
        """Have the server forget an adapter."""
        ...


class ServedAdapters:
    """The adapters of one family under their names on a server.

    Args:
        bank: where the adapters are.
        family: which of them are served.
        key: signs names; at least 16 bytes, the same for the clients and the server. None signs none.

    Attributes:
        bank: where the adapters are.
        family: which of them are served.

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

    def load(self, server: AdapterServer, adapter: str, folder: Path, *, base_name: str) -> str:
        """Export an adapter and have the server read it.

        Args:
            server: the endpoint.
            adapter: ``user@version``, or `PRIOR_ADAPTER`.
            folder: where its files go; the server must see it by the same path.
            base_name: what the server calls its base model.

        Returns:
            The server's name of it.

        Raises:
            UnknownAdapterError: if it is not published.
            GenerationError: if the server refuses it.
        """
        name = self.name(adapter)
        server.load_adapter(name, str(self.export(name, folder, base_name=base_name).resolve()))
        return name

    def unload(self, server: AdapterServer, adapter: str) -> None:
        """Have the server forget an adapter.

        Args:
            server: the endpoint.
            adapter: the server's name of it, which `load` returned; or ``user@version`` or `PRIOR_ADAPTER`, as long as
                the bank has it: not after `AdapterBank.forget`.

        Raises:
            UnknownAdapterError: if the bank has no adapter of the name ``user@version``, or no more.
            GenerationError: if the server refuses.
        """
        # No name has both forms: the digest of a server's name is no version.
        server.unload_adapter(adapter if _NAME.fullmatch(adapter) else self.name(adapter))

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
