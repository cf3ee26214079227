"""The channel of adapters: each request is answered with its user's own.

::

    with AdapterPool(bank, llm) as pool:
        personalizer = Personalizer(llm, store, [AdapterChannel(pool, missing="prior")])
        personalizer.batch([("ana", "..."), ("bo", "...")])

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
from contextlib import AbstractContextManager
from typing import Protocol

from persona.adapters.bank import AdapterBank
from persona.adapters.family import Family
from persona.adapters.versions import PUBLISHED, StoredAdapter
from persona.channels import Ask, Channel, Contribution
from persona.errors import UnknownAdapterError, check_one_of
from persona.protocols import ADAPTER, PRIOR_ADAPTER

POLICIES = ("error", "prior", "base")


class BankedAdapters(Protocol):
    """Adapters of one family for the LLM that is to answer: an `AdapterPool`, or `ServedAdapters` on a vLLM server."""

    bank: AdapterBank
    family: Family

    def serving(self) -> AbstractContextManager[object]:
        """Open while the LLM answers with them."""
        ...


class AdapterChannel(Channel):
    """Answers each request with the adapter that the bank has for its user.

    Args:
        adapters: where they are; an `AdapterPool` that is not open is opened for the time of each answer.
        missing: what to do with a user without an adapter, of `POLICIES`.

    Raises:
        InvalidOptionError: if there is no such policy.
    """

    name = "adapter"
    requires = ADAPTER
    reads_profile = False

    def __init__(self, adapters: BankedAdapters, *, missing: str = "error") -> None:
        check_one_of(POLICIES, missing=missing)
        self.adapters = adapters
        self.missing = missing

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """The name of each user's adapter.

        Raises:
            UnknownAdapterError: if a user has none and the policy is ``"error"``.
        """
        chosen = {user_id: self._chosen(user_id) for user_id in {ask.profile.user_id for ask in asks}}
        return [chosen[ask.profile.user_id] for ask in asks]

    def serving(self) -> AbstractContextManager[object]:
        """The adapters, attached to the LLM."""
        return self.adapters.serving()

    def _chosen(self, user_id: str) -> Contribution:
        family = self.adapters.family
        current = self.adapters.bank.current(user_id, family)
        if current is not None or self.missing == "prior":
            return contribution_of(family, current)
        if self.missing == "error":
            raise UnknownAdapterError(
                f"{user_id!r} has no adapter: train one (`persona train adapters`), or say what to use instead with "
                "missing='prior' or missing='base' (`missing_adapter`)"
            )
        return Contribution(personal=False)


def contribution_of(family: Family, current: StoredAdapter | None) -> Contribution:
    """A user's current adapter as a contribution: its name, the prior's, or neither where there is no prior.

    The identity of an adapter is its numbers and what they lie over; the prior's is the same for every user.
    """
    if current is not None and current.state == PUBLISHED:
        return Contribution(adapter=current.name, identity=f"{family.key}-{current.sha256}")
    if family.prior is None:
        return Contribution(personal=False)
    return Contribution(adapter=PRIOR_ADAPTER, personal=False, identity=family.prior)
