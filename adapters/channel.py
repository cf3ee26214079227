"""The channel of adapters: each request is answered with its user's own.

>>> with AdapterPool(bank, llm) as pool:
...     personalizer = Personalizer(llm, store, channels=(LoraChannel(pool, missing="prior"),))
...     personalizer.batch([("ana", "..."), ("bo", "...")])

What happens to a user without an adapter is said by name:

=========  ==============================================================
``error``  `UnknownAdapterError`; the default
``prior``  the shared prior alone, the plain model where there is none
``base``   the plain model
=========  ==============================================================

A user for whom the bank says that the prior does better gets the prior, whatever the policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from persona.adapters.bank import PUBLISHED, AdapterBank
from persona.adapters.family import Family
from persona.channels import Ask, Channel, Contribution
from persona.errors import InvalidOptionError, UnknownAdapterError
from persona.protocols import ADAPTER, PRIOR_ADAPTER

POLICIES = ("error", "prior", "base")


class BankedAdapters(Protocol):
    """Adapters of one family, open on the LLM that is to answer."""

    bank: AdapterBank
    family: Family


class LoraChannel(Channel):
    """See the module.

    Args:
        pool: the adapters: an `AdapterPool`, or `ServedAdapters` where a vLLM server is to answer.
        missing: what to do with a user without an adapter, of `POLICIES`.

    Raises:
        InvalidOptionError: if there is no such policy.
    """

    name = "adapter"
    requires = ADAPTER

    def __init__(self, pool: BankedAdapters, *, missing: str = "error") -> None:
        if missing not in POLICIES:
            raise InvalidOptionError(f"`missing` must be one of {', '.join(POLICIES)}, was: {missing!r}")
        self.pool = pool
        self.missing = missing

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """The name of the adapter of each user.

        Raises:
            UnknownAdapterError: if a user has none and the policy is ``"error"``.
        """
        chosen = {user_id: self.adapter_of(user_id) for user_id in {ask.profile.user_id for ask in asks}}
        adapters = [chosen[ask.profile.user_id] for ask in asks]
        return [Contribution(adapter=adapter, personal=adapter != PRIOR_ADAPTER) for adapter in adapters]

    def adapter_of(self, user_id: str) -> str | None:
        """The name of the user's adapter, `PRIOR_ADAPTER`, or None for the plain model; errors as in a call."""
        prior = None if self.pool.family.prior is None else PRIOR_ADAPTER
        current = self.pool.bank.current(user_id, self.pool.family)
        if current is not None:
            return current.name if current.state == PUBLISHED else prior
        if self.missing == "error":
            raise UnknownAdapterError(
                f"{user_id!r} has no adapter: train one (`persona train adapters`), or say what to use instead with "
                "missing='prior' or missing='base' (--missing-adapter)"
            )
        return prior if self.missing == "prior" else None
