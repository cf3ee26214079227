"""Adapters made on demand from the profiles of requests: how an evaluation answers each question with its own.

A method says how a profile becomes an adapter. All but the first lie over the *task adapter*, which other users taught:

================  ===================================================================================
``lora``          trained on the profile, over the plain model
``lora+task``     the same, over the task adapter: OPPU (arXiv 2402.04401), with a gate
``neighbours``    the mean of the training users' adapters that fit the profile best; nothing is trained
``routed``        n shared meta-adapters, n numbers from the profile (RecLoRA, arXiv 2408.03533)
``one-pass``      what a generator writes of the profile (`persona.adapters.generated`), without a gate
``task adapter``  the task adapter alone, for everybody: the control
================  ===================================================================================

What a method adds to the task adapter alone is personalization, if another user's adapter does not add it too. Where
the gate says that the user's part does no better, what lies under it answers. Profiles of one user that differ have
different adapters; equal profiles share one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from persona.adapters.bank import AdapterBank
from persona.adapters.channel import contribution_of
from persona.adapters.examples import ExampleMaker
from persona.adapters.few_records.neighbours import Neighbours
from persona.adapters.generated.generator import load_generator
from persona.adapters.generated.one_pass import OnePass
from persona.adapters.serving.pool import AdapterPool
from persona.adapters.task_adapter import TaskAdapter
from persona.adapters.training.users import train_users
from persona.channels import Ask, Channel, Contribution
from persona.errors import InvalidOptionError, UnsupportedChannelError, check_one_of
from persona.llm.transformers import TransformersLM
from persona.protocols import ADAPTER, LanguageModel
from persona.records import Profile
from persona.store.profile_store import ProfileStore

LORA, LORA_TASK, NEIGHBOURS, ROUTED, TASK = "lora", "lora+task", "neighbours", "routed", "task adapter"
ONE_PASS, ONE_PASS_WITHOUT_USER = "one-pass", "one-pass without user"
METHODS = (LORA, LORA_TASK, NEIGHBOURS, ROUTED, ONE_PASS, ONE_PASS_WITHOUT_USER, TASK)


class ProfileAdapters(Channel):
    """Answers each request with an adapter that is made from the profile in it.

    They are kept in a database of the folder, one for each method and task adapter: a run that was stopped goes on. To
    train many at once, contribute to many requests at once.

    Args:
        method: one of `METHODS`.
        task: the task adapter; ``lora`` takes only the shape and the training options from it.
        llm: the frozen LLM.
        examples: makes a profile's examples (`persona.adapters.examples.history_examples`, with the task).
        folder: where the adapters are kept.
        neighbours: how many adapters ``neighbours`` takes the mean of.
        profile_of: the profile that a request's adapter is made from; None takes the request's own.
        progress: called with the number of adapters that are there, and how many there will be.

    Raises:
        UnsupportedChannelError: if the LLM is no transformers model.
        FingerprintMismatchError: if the task adapter was trained on another LLM.
        InvalidOptionError: if there is no such method, or the task adapter lacks what it needs.
    """

    name = "adapter"
    requires = ADAPTER

    def __init__(
        self,
        method: str,
        task: TaskAdapter,
        llm: LanguageModel,
        examples: ExampleMaker,
        folder: Path,
        *,
        neighbours: int = 4,
        profile_of: Callable[[Ask], Profile] | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        check_one_of(METHODS, method=method)
        for needing, given, option in (
            (NEIGHBOURS, task.candidates is not None, "candidates"),
            (ROUTED, task.router is not None, "routed"),
            (ONE_PASS, task.generator_folder() is not None, "generator"),
            (ONE_PASS_WITHOUT_USER, task.generator_folder(with_user=False) is not None, "generator.with_user=false"),
        ):
            if method == needing and not given:
                raise InvalidOptionError(f"the method {method!r} needs a task adapter that was trained with `{option}`")
        if not isinstance(llm, TransformersLM):
            raise UnsupportedChannelError(
                f"adapters need a transformers model (folder, hub id or (model, tokenizer)), was: {llm.fingerprint}"
            )
        self.method, self.task, self._llm, self._examples = method, task, llm, examples
        self._neighbours, self._profile_of, self._progress = neighbours, profile_of, progress
        self._trainer, self._prior = task.trainer(llm), None if method == LORA else task.row
        self.family = self._trainer.family.over(self._prior)
        generator = task.router if method == ROUTED else None
        if method in (ONE_PASS, ONE_PASS_WITHOUT_USER) and (at := task.generator_folder(with_user=method == ONE_PASS)):
            generator = load_generator(at)
        self._one_pass: OnePass | None = None
        if generator is not None:
            self._one_pass = OnePass(generator, self._trainer, examples, prior=self._prior)
        identity: list[str | int] = [method, task.fingerprint, neighbours if method == NEIGHBOURS else 0]
        identity += [] if self._one_pass is None else [self._one_pass.generator.fingerprint]
        digest = hashlib.blake2b(json.dumps(identity).encode(), digest_size=8).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{method.replace('+', '_').replace(' ', '_')}-{digest}.db"
        self._url = f"sqlite:///{folder / name}"
        self._contributions: dict[str, Contribution] = {}
        with self._bank() as bank:
            bank.add_family(self.family, self._prior)

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """The name of each profile's adapter, which is made if it is not there yet."""
        if self.method == TASK:
            return [contribution_of(self.family, None)] * len(asks)
        profiles = [ask.profile if self._profile_of is None else self._profile_of(ask) for ask in asks]
        owners = [owner_of(profile) for profile in profiles]
        missing = dict(zip(owners, profiles, strict=True))
        for owner in self._contributions.keys() & missing.keys():
            del missing[owner]
        if missing:
            self._make(missing)
        return [self._contributions[owner] for owner in owners]

    @contextmanager
    def serving(self) -> Iterator[None]:
        """While this is open, the LLM answers with these adapters."""
        with self._bank() as bank, AdapterPool(bank, self._llm, self.family):
            yield

    def _make(self, profiles: Mapping[str, Profile]) -> None:
        """Make the adapters of profiles by owner."""
        with self._bank() as bank:
            bank.store.upsert((owner, record) for owner, profile in profiles.items() for record in profile)
            stale = set(bank.stale_users(self.family))
            wanted = [owner for owner in profiles if owner in stale]
            there, total = len(profiles) - len(wanted), len(profiles)
            self._report(there, total)
            if self.method in (LORA, LORA_TASK):
                train_users(
                    self._trainer,
                    bank,
                    self._examples,
                    prior=self._prior,
                    user_ids=wanted,
                    progress=lambda users, seconds: self._report(there + users, total),
                )
            elif self._one_pass is not None:
                self._one_pass.publish(bank, user_ids=wanted, gate=self.method == ROUTED)
            else:
                assert self.task.candidates is not None
                means = Neighbours(self._trainer, self.task.candidates, prior=self._prior, k=self._neighbours)
                means.publish(bank, self._examples, user_ids=wanted)
            self._report(total, total)
            for owner in profiles:
                self._contributions[owner] = contribution_of(self.family, bank.current(owner, self.family))

    @contextmanager
    def _bank(self) -> Iterator[AdapterBank]:
        with ProfileStore(self._url) as store:
            yield AdapterBank(store)

    def _report(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total)


def owner_of(profile: Profile) -> str:
    """A name for a profile: what it holds, so that two profiles of one user do not share an adapter."""
    content = [profile.user_id, *([one.text, one.target, one.time, one.id] for one in profile)]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
