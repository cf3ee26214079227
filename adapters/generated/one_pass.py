"""Users' adapters in one pass: what a trained generator writes of a profile, published like adapters that were trained.

::

    one_pass = OnePass(load_generator("adapters/film/generator"), task.trainer(llm), examples, prior=task.row)
    one_pass.publish(AdapterBank(store))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from persona.adapters.bank import AdapterBank
from persona.adapters.examples import ExampleMaker
from persona.adapters.few_records.routed import record_vectors
from persona.adapters.generated.generator import ACTIVATIONS, ROUTED, AdapterGenerator
from persona.adapters.generated.ledger import Ledger
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.training.users import publish_untrained
from persona.adapters.versions import AdapterReport
from persona.records import Profile
from persona.store.profile_store import ProfileStore


class OnePass:
    """Writes adapters of profiles.

    Args:
        generator: of any kind.
        trainer: with the frozen LLM and the adapters' shape.
        examples: makes a profile's examples.
        prior: the shared adapter under all of them; None for none.  # (size,)
        vectors: of a profile's records, or one row for the user, not for kind ``activations``; None takes what the LLM
            did not expect of each record, as in training.  # (records or 1, dim)

    Raises:
        FingerprintMismatchError: if the generator was trained for another LLM, prior or shape.
    """

    def __init__(
        self,
        generator: AdapterGenerator,
        trainer: AdapterTrainer,
        examples: ExampleMaker,
        *,
        prior: Tensor | None = None,
        vectors: Callable[[Profile], Tensor] | None = None,
    ) -> None:
        generator.check_fits(trainer.family.over(prior))
        self.generator, self._trainer, self._examples, self._prior = generator, trainer, examples, prior
        self._vectors = vectors
        self._ledger = None
        if generator.config.kind == ACTIVATIONS:
            self._ledger = Ledger(generator, trainer, examples, prior=prior)

    @torch.no_grad()
    def row(self, profile: Profile, store: ProfileStore | None = None) -> Tensor:
        """The adapter of a profile; zeros where nothing of it can be read.  # (size,)

        Args:
            profile: whose.
            store: where the chunks of kind ``activations`` are found and kept (`Ledger.row`).
        """
        if self._ledger is not None:
            return self._ledger.row(profile, store)
        if self._vectors is not None:
            vectors = self._vectors(profile)
        else:
            tokens = self._trainer.tokens(self._examples(profile))[-self.generator.config.records :]
            vectors = record_vectors(self._trainer, tokens, prior=self._prior) if tokens else torch.empty(0)
        if not len(vectors):
            return torch.zeros(self.generator.family.size)
        # One row for the user says nothing of their number; records without an example are none.
        known = len(vectors) if self._vectors is None else max(1, len(profile))
        counts = torch.tensor([float(min(known, self.generator.config.records))])
        return self.generator.of_vectors(vectors.float().mean(0)[None], counts)[0]

    def publish(self, bank: AdapterBank, *, user_ids: Iterable[str] | None = None, gate: bool = True) -> AdapterReport:
        """Publish adapters for users.

        Args:
            bank: where profiles are read, and chunks and versions are put.
            user_ids: whose; None for the users with records that no version of theirs has seen.
            gate: only where what is written of the older records does better than the prior on the newest; a router's
                few numbers do so on the records that they come from (`publish_untrained`).
        """
        return publish_untrained(
            self._trainer,
            bank,
            self._examples,
            lambda profile, tokens: self.row(profile, bank.store),
            prior=self._prior,
            user_ids=user_ids,
            judged=None if gate else 0,
            older=None if self.generator.config.kind == ROUTED else self.row,
        )
