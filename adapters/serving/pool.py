"""The adapters that are in use on a model: those that were needed last stay in its slots.

::

    with AdapterPool(bank, llm):
        llm.generate([Request("...", adapter="ana@3"), Request("...")], options)

The bank has all adapters, in the database; the model has slots for some, on its device, and the least recently used
adapter makes room.

**The bank is the truth.** Each batch asks the bank whether its adapters still stand there, with the same numbers, so
what was erased is answered with no more, whoever erased it, also when its name was given anew; `drop` overwrites what
is held here at once, and `AdapterBank.forget` calls it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import RLock
from typing import Self
from weakref import WeakSet

from persona.adapters.bank import AdapterBank
from persona.adapters.family import Family
from persona.adapters.stacked import PRIOR_SLOT, Gathered, StackedLoRA
from persona.adapters.versions import StoredAdapter, split_name
from persona.caches import register
from persona.errors import (
    FingerprintMismatchError,
    InvalidOptionError,
    UnknownAdapterError,
    UnsupportedChannelError,
    check_least,
    check_made_for,
)
from persona.llm.transformers import TransformersLM
from persona.protocols import PRIOR_ADAPTER, LanguageModel

_SLOT_BYTES, _FEWEST_SLOTS = 256 << 20, 64


class AdapterPool:
    """Adapters of one family on a transformers model, which takes requests with adapters while this is open (`with`).

    Args:
        bank: where the adapters are.
        llm: the frozen LLM that they were made for.
        family: which of them; None takes the one family that the bank has for `llm`.
        slots: most different adapters in one batch, at least 1; None takes as many as have room in 256 MiB, and 64
            where fewer have.

    Raises:
        FingerprintMismatchError: if the family was made for another model; names both.
        UnknownAdapterError: if the bank has no family.
        UnsupportedChannelError: if `llm` is no transformers model.
        InvalidOptionError: if the bank has several families for `llm` and none was named, or `slots` is below 1.
    """

    def __init__(
        self, bank: AdapterBank, llm: LanguageModel, family: Family | None = None, *, slots: int | None = None
    ) -> None:
        check_least(1, slots=slots)
        if not isinstance(llm, TransformersLM):
            raise UnsupportedChannelError("adapters need a transformers model (folder, hub id or (model, tokenizer))")
        if not isinstance(bank, AdapterBank):
            raise InvalidOptionError(f"adapters are read from an AdapterBank, was: {bank!r:.80}: AdapterBank(store)")
        self.bank = bank
        self.family = family or bank.family(llm.fingerprint)
        fix = "load that model, or train adapters for this one"
        check_made_for(f"the family {self.family.key}", self.family.base, llm.fingerprint, fix)
        fitting = _SLOT_BYTES // (self.family.size * llm.model.dtype.itemsize)
        self.slots = slots or max(_FEWEST_SLOTS, fitting)
        self._llm = llm
        self._stack: StackedLoRA | None = None
        self._free: list[int] = []
        # By name, the least recently used first: SHA-256 of the bytes at rest, and slot.
        self._used: OrderedDict[str, tuple[str | None, int]] = OrderedDict()
        self._named: WeakSet[_Named] = WeakSet()
        # A user may be forgotten in one thread while another answers.
        self._lock = RLock()
        register(self, "adapters in slots")

    def serving(self) -> AbstractContextManager[object]:
        """Open while the LLM answers: the pool itself where it is not open already."""
        return self if self._stack is None else nullcontext()

    def __enter__(self) -> Self:
        prior = self.bank.prior(self.family)
        self._stack = StackedLoRA(self._llm.model, self.family.spec, self.slots, prior=prior, base=self.family.base)
        if self._stack.family.modules != self.family.modules:
            self._stack.remove()
            self._stack = None
            raise FingerprintMismatchError(
                f"the adapters of the family {self.family.key} change other layers than this version of persona would: "
                "train them anew"
            )
        self._free = list(range(self.slots, 0, -1))
        self._llm.attach_adapters(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._llm.attach_adapters(None)
        self._opened.remove()
        for named in list(self._named):
            named.lost = "the AdapterPool was closed"
        self._stack = None
        self._used.clear()

    def named(self, names: Sequence[str | None]) -> AbstractContextManager[None]:
        """While this is open, row `i` of a batch is computed with the adapter ``names[i]``.

        The bank is asked and the adapters are gathered here, once. What is returned may be opened again and again, for
        each step of an answer. Where a user was dropped meanwhile it raises UnknownAdapterError when it is opened, and
        when it is closed, so nothing is made of half an adapter.

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
        slots: dict[str | None, int | None] = {None: None, PRIOR_ADAPTER: PRIOR_SLOT}
        with self._lock:
            # All are compared with the bank before any gets its slot, as that may give back a user's slots.
            adapters = [self._known(name) for name in sorted(different)]
            # Those that have a slot first, so that none of them makes room for another.
            for adapter in sorted(adapters, key=lambda adapter: adapter.name not in self._used):
                slots[adapter.name] = self._slot(adapter)
            named = _Named(self._opened, self._opened.gather([slots[name] for name in names]), names)
            self._named.add(named)
        return named

    def load(self, name: str) -> int:
        """Put the adapter ``user@version`` into a slot, if it is in none; returns its slot.

        Raises:
            UnknownAdapterError: if the bank has no adapter of that name, or no more.
        """
        with self._lock:
            return self._slot(self._known(name))

    def drop(self, user_id: str) -> int:
        """Overwrite with zeros what is held of a user here; returns how many adapters there were."""
        with self._lock:
            for named in list(self._named):
                named.drop(user_id)
            names = [name for name in self._used if split_name(name)[0] == user_id]
            for name in names:
                _, slot = self._used.pop(name)
                self._opened.clear(slot)
                self._free.append(slot)
        return len(names)

    @property
    def _opened(self) -> StackedLoRA:
        if self._stack is None:
            raise InvalidOptionError("an AdapterPool holds adapters while it is open: open it with `with pool:`")
        return self._stack

    def _known(self, name: str) -> StoredAdapter:
        """What the bank has by that name now; nothing else of that name is held here afterwards."""
        user_id, version = split_name(name)
        try:
            adapter = self.bank.version(user_id, self.family, version)
        except UnknownAdapterError:
            self.drop(user_id)
            raise
        if name in self._used and self._used[name][0] != adapter.sha256:
            self.drop(user_id)  # the numbers of a user who was forgotten and had the same id
        return adapter

    def _slot(self, adapter: StoredAdapter) -> int:
        """The adapter's slot, into which it is written if it is in none."""
        if adapter.name not in self._used:
            stack, row = self._opened, self.bank.row(adapter)
            slot = self._free.pop() if self._free else self._used.popitem(last=False)[1][1]
            stack.write(slot, row)
            self._used[adapter.name] = adapter.sha256, slot
        self._used.move_to_end(adapter.name)
        return self._used[adapter.name][1]


class _Named(AbstractContextManager[None]):
    """The adapters of the rows of a batch, while it is open.

    Attributes:
        lost: why they can be computed with no more; None if they can.
    """

    def __init__(self, stack: StackedLoRA, gathered: Gathered | None, names: Sequence[str | None]) -> None:
        self.lost: str | None = None
        self._stack, self._gathered = stack, gathered
        self._users = [None if name in (None, PRIOR_ADAPTER) else split_name(str(name))[0] for name in names]
        self._open: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self._check()
        self._open.append(self._stack.announced(self._gathered))
        self._open[-1].__enter__()

    def __exit__(self, *error: object) -> None:
        self._open.pop().__exit__(None, None, None)
        if error[0] is None:
            self._check()

    def drop(self, user_id: str) -> None:
        """Overwrite what is held of a user here."""
        for row, user in enumerate(self._users):
            if user == user_id and self._gathered is not None:
                self._gathered.clear(row)
                self.lost = f"the adapter of user {user_id!r} was dropped"

    def _check(self) -> None:
        if self.lost is not None:
            raise UnknownAdapterError(f"{self.lost} while a request was being answered with it: ask again")
