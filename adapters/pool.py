"""The adapters that are in use: a memory-mapped file in front of the bank, and a stack on the model in front of that.

>>> with AdapterPool(bank, llm, slots=64) as pool:
...     llm.generate([Request("...", adapter="ana@3"), Request("...")], options)

Three places, each faster and smaller than the one before: the bank (all adapters, in the database); a file of `rows`
equal rows (some thousand adapters at rest, read without a system call); the stack's slots (as many as a batch may mix,
on the model's device). In the last two the least recently used one makes room. Finding, loading and dropping an adapter
takes the same time however many there are.

**The bank is the truth.** The file has no name and is gone with the process, however that ends. Each batch asks the
bank whether its adapters still stand there, with the same numbers, so what was erased is answered with no more, whoever
erased it, also when its name was given anew; `drop` overwrites what is held here at once, and `AdapterBank.forget`
calls it.
"""

from __future__ import annotations

import mmap
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import RLock
from types import TracebackType
from typing import Self

from persona.adapters.bank import PUBLISHED, AdapterBank, StoredAdapter
from persona.adapters.family import Family
from persona.adapters.stacked import PRIOR_SLOT, StackedLoRA
from persona.errors import FingerprintMismatchError, InvalidOptionError, UnknownAdapterError, UnsupportedChannelError
from persona.llm.transformers import TransformersLM
from persona.protocols import PRIOR_ADAPTER, LanguageModel


class AdapterPool:
    """See the module. While it is open, `llm` takes requests with adapters.

    Args:
        bank: where the adapters are.
        llm: the frozen LLM that they were made for.
        family: which of them; None takes the one family that the bank has for `llm`.
        slots: most different adapters in one batch, at least 1.
        rows: how many adapters the file holds, at least 1.

    Attributes:
        bank: where the adapters are.
        family: which of them are served.
        slots: most different adapters in one batch.

    Raises:
        FingerprintMismatchError: if the family was made for another model; names both.
        UnknownAdapterError: if the bank has no family.
        UnsupportedChannelError: if `llm` is no transformers model.
        InvalidOptionError: if the bank has several families for `llm` and none was named, or a number is below 1.
    """

    def __init__(
        self,
        bank: AdapterBank,
        llm: LanguageModel,
        family: Family | None = None,
        *,
        slots: int = 64,
        rows: int = 1024,
    ) -> None:
        if rows < 1:
            raise InvalidOptionError(f"`rows` must be at least 1, was: {rows}")
        if not isinstance(llm, TransformersLM):
            raise UnsupportedChannelError("adapters need a transformers model (folder, hub id or (model, tokenizer))")
        if not isinstance(bank, AdapterBank):
            raise InvalidOptionError(f"adapters are read from an AdapterBank, was: {bank!r:.80}: AdapterBank(store)")
        self.bank = bank
        self.family = family or bank.family(llm.fingerprint)
        if self.family.base != llm.fingerprint:
            raise FingerprintMismatchError(
                f"the adapters were made for {self.family.base}, this model is {llm.fingerprint}: load that model, or "
                "train adapters for this one"
            )
        self._llm = llm
        prior = bank.prior(self.family)
        self._stack = StackedLoRA(llm.model, self.family.spec, slots, prior=prior, base=llm.fingerprint)
        self.slots = slots
        self._stride = self.family.nbytes
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the pool
        self._file.truncate(rows * self._stride)
        self._map = mmap.mmap(self._file.fileno(), rows * self._stride)
        self._free_rows, self._free_slots = list(range(rows))[::-1], list(range(1, slots + 1))[::-1]
        # name -> row of the file and SHA-256 of what lies there, least recently used first
        self._rows: OrderedDict[str, tuple[int, str | None]] = OrderedDict()
        self._slots: OrderedDict[str, tuple[int, str | None]] = OrderedDict()
        # A user may be forgotten in one thread while another answers.
        self._lock = RLock()
        llm.attach_adapters(self)
        bank.watch(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """How many adapters the file holds."""
        return len(self._rows)

    def close(self) -> None:
        """Give everything back: the model is as it was before."""
        self._llm.attach_adapters(None)
        self._stack.remove()
        self._map.close()
        self._file.close()

    @contextmanager
    def named(self, names: Sequence[str | None]) -> Iterator[None]:
        """While this is open, row `i` of a batch is computed with the adapter ``names[i]``.

        Args:
            names: ``user@version`` (`StoredAdapter.name`), `PRIOR_ADAPTER` for the shared prior alone, or None for the
                plain model.

        Raises:
            UnknownAdapterError: if the bank has no adapter of that name, or no more.
            InvalidOptionError: if there are more different adapters than slots.
        """
        different = {name for name in names if name is not None and name != PRIOR_ADAPTER}
        if len(different) > self.slots:
            raise InvalidOptionError(f"a batch can mix {self.slots} adapters here, had: {len(different)}")
        found: dict[str | None, int | None] = {None: None, PRIOR_ADAPTER: PRIOR_SLOT}
        with ExitStack() as opened:
            with self._lock:
                # All are compared with the bank before any gets its slot, as that may give back a user's slots.
                adapters = [self._known(name) for name in sorted(different)]
                # Those that are in the stack first, so that none of them makes room for another.
                for adapter in sorted(adapters, key=lambda adapter: adapter.name not in self._slots):
                    found[adapter.name] = self._slot(adapter)
                opened.enter_context(self._stack.rows([found[name] for name in names]))
            yield

    def load(self, name: str) -> int:
        """Put the adapter ``user@version`` into the stack, if it is not there yet; returns its slot.

        Raises:
            UnknownAdapterError: if the bank has no adapter of that name, or no more.
        """
        with self._lock:
            return self._slot(self._known(name))

    def fill(self) -> int:
        """Read published adapters into the file until it is full; returns how many were read."""
        count = 0
        for adapter in self.bank.current_adapters(self.family):
            if not self._free_rows:
                break
            if adapter.state != PUBLISHED:
                continue
            with self._lock:
                self._drop_others(adapter)
                if adapter.name not in self._rows:
                    self._at_rest(adapter)
                    count += 1
        return count

    def drop(self, user_id: str) -> int:
        """Overwrite with zeros what is held of a user here; returns how many places there were."""
        places = 0
        with self._lock:
            for held, free in ((self._rows, self._free_rows), (self._slots, self._free_slots)):
                for name in [name for name in held if name.rpartition("@")[0] == user_id]:
                    place, _ = held.pop(name)
                    if held is self._rows:
                        self._map[place * self._stride : (place + 1) * self._stride] = bytes(self._stride)
                    else:
                        self._stack.clear(place)
                    free.append(place)
                    places += 1
        return places

    def _known(self, name: str) -> StoredAdapter:
        """What the bank has by that name now; nothing else of that name is held here afterwards."""
        user_id, _, version = name.rpartition("@")
        if not user_id or not version.isdecimal():
            raise UnknownAdapterError(f"an adapter's name must have the form user@version, was: {name!r}")
        try:
            adapter = self.bank.version(user_id, self.family, int(version))
        except UnknownAdapterError:
            self.drop(user_id)
            raise
        self._drop_others(adapter)
        return adapter

    def _drop_others(self, adapter: StoredAdapter) -> None:
        """Drop the user if other numbers are held by the adapter's name: of one who was forgotten and had the id."""
        held = (self._rows.get(adapter.name), self._slots.get(adapter.name))
        if any(one is not None and one[1] != adapter.sha256 for one in held):
            self.drop(adapter.user_id)

    def _slot(self, adapter: StoredAdapter) -> int:
        """The adapter's slot, into which it is written if it is in none."""
        if adapter.name not in self._slots:
            row = self.family.decode(self._at_rest(adapter))
            slot = self._free_slots.pop() if self._free_slots else self._slots.popitem(last=False)[1][0]
            self._stack.write(slot, row)
            self._slots[adapter.name] = slot, adapter.sha256
        self._slots.move_to_end(adapter.name)
        return self._slots[adapter.name][0]

    def _at_rest(self, adapter: StoredAdapter) -> bytes:
        """The adapter's bytes, from the file if they are there."""
        held = self._rows.get(adapter.name)
        if held is not None:
            self._rows.move_to_end(adapter.name)
            return self._map[held[0] * self._stride : (held[0] + 1) * self._stride]
        payload = self.bank.payload(adapter)
        row = self._free_rows.pop() if self._free_rows else self._rows.popitem(last=False)[1][0]
        self._map[row * self._stride : (row + 1) * self._stride] = payload
        self._rows[adapter.name] = row, adapter.sha256
        return payload
