"""The channel of steering vectors: each request is answered with its user's own.

::

    bank = AdapterBank(store)
    personalizer = Personalizer(llm, store, [SteeringChannel(bank, bank.family(llm.fingerprint, steers=True))])
    personalizer.batch([("ana", "..."), ("bo", "...")])

A user without a vector, or who does better without, gets the plain model. The bank is read with each request, so what
was erased is used no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from persona.adapters.bank import AdapterBank
from persona.adapters.family import Family
from persona.adapters.versions import PUBLISHED
from persona.channels import Ask, Channel, Contribution
from persona.errors import InvalidOptionError
from persona.protocols import STEERING
from persona.steering.options import as_steering


class SteeringChannel(Channel):
    """Adds the vectors that the bank has for each request's user.

    Args:
        bank: where they are.
        family: which of them (`persona.steering.options.steering_family`).
        strength: what they are multiplied by; 0 is the plain model, a negative number leads away from the user.

    Raises:
        InvalidOptionError: if it is no family of steering vectors, or the strength is not finite.
    """

    name = "steering"
    requires = STEERING
    reads_profile = False

    def __init__(self, bank: AdapterBank, family: Family, *, strength: float = 1.0) -> None:
        if not family.steers:
            raise InvalidOptionError(f"the family {family.key} is of adapters, not of steering vectors")
        if not math.isfinite(strength):
            raise InvalidOptionError(f"`strength` must be finite, was: {strength}")
        self.bank, self.family, self.strength = bank, family, strength

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """The vectors of each user."""
        chosen = {user_id: self.of(user_id) for user_id in {ask.profile.user_id for ask in asks}}
        return [chosen[ask.profile.user_id] for ask in asks]

    def of(self, user_id: str) -> Contribution:
        """What a user's requests get."""
        current = self.bank.current(user_id, self.family)
        if current is None or current.state != PUBLISHED or not self.strength:
            return Contribution(personal=False)
        vectors = as_steering(self.family, self.bank.row(current))
        return Contribution(steering={block: self.strength * vector for block, vector in vectors.items()})
