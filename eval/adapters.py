"""Adapters in an evaluation: every question answered with the LoRA that was made from its own profile.

A method says how a profile becomes an adapter. All but the first lie over the *task adapter*, which other users taught:

==============  =====================================================================================
``lora``        trained on the profile, over the plain model
``lora+task``   the same, over the task adapter: OPPU (arXiv 2402.04401), with a gate
``neighbours``  the mean of the training users' adapters that fit the profile best; nothing is trained
``routed``      n shared meta-adapters, n numbers from the profile (RecLoRA, arXiv 2408.03533)
==============  =====================================================================================

The control is the *task adapter alone*: what a method adds to it is personalization, if another user's adapter does not
add it too. A profile holds only what is older than its question, so questions of one user have different adapters;
`LampConfig.lora_once` makes one of the earliest profile for all of them, at a fraction of the cost.
Where the gate says that the user's part does no better, the row answers with what lies under it.

Adapters are kept in the run's folder, a database for each method and seed: a run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from persona.errors import InvalidOptionError
from persona.lamp.tasks import LampSplit
from persona.protocols import PRIOR_ADAPTER, LanguageModel, Request
from persona.records import Profile
from persona.store.profile_store import ProfileStore

if TYPE_CHECKING:
    from persona.adapters.task_adapter import TaskAdapter
    from persona.llm.transformers import TransformersLM

LORA, LORA_TASK, NEIGHBOURS, ROUTED = "lora", "lora+task", "neighbours", "routed"
LORA_METHODS = (LORA, LORA_TASK, NEIGHBOURS, ROUTED)
"""The methods with an adapter made from each profile."""
TASK_ADAPTER = "task adapter"
"""The control in which every user has the task adapter, and nothing of their own."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Adapters:
    """What the methods of an evaluation start from.

    Attributes:
        tasks: task adapters that differ in their seed, at least one; each makes all adapters anew.
        neighbours: how many adapters the method ``neighbours`` takes the mean of.

    Raises:
        InvalidOptionError: if there is none, or they are of different shapes.
    """

    tasks: tuple[TaskAdapter, ...]
    neighbours: int = 4

    def __post_init__(self) -> None:
        if not self.tasks:
            raise InvalidOptionError("adapters need a task adapter: name its folder")
        if len({task.family for task in self.tasks}) > 1:
            raise InvalidOptionError("task adapters of one row must differ in their seed only: model and shape differ")

    @classmethod
    def load(cls, folders: Sequence[str | Path], *, neighbours: int = 4) -> Adapters:
        """The task adapters in these folders.

        Raises:
            ModelLoadError: if there is none in one of them.
        """
        from persona.adapters.task_adapter import TaskAdapter

        return cls(tuple(map(TaskAdapter.load, folders)), neighbours)

    def check(self, methods: Sequence[str], split: LampSplit) -> None:
        """Refuse what cannot be run.

        Raises:
            InvalidOptionError: if a task adapter is of another task, or lacks what a method needs.
        """
        for task in self.tasks:
            if task.task != split.task.name:
                raise InvalidOptionError(
                    f"the task adapter was trained for {task.task}, the questions are {split.task.name}"
                )
            for method, given, option in (
                (NEIGHBOURS, task.candidates is not None, "--candidates"),
                (ROUTED, bool(task.router), "--routed"),
            ):
                if method in methods and not given:
                    raise InvalidOptionError(
                        f"the method {method!r} needs a task adapter that was trained with {option} "
                        "(persona train adapters DATA)"
                    )


@dataclass(frozen=True, slots=True)
class AdapterRequest(Request):
    """A request with an adapter, and what tells its numbers from those of any other.

    Attributes:
        identity: goes into the key under which the answer is kept.
    """

    identity: str = ""


class UserAdapters:
    """The adapters of one method and one seed, made from the profiles of a split's questions.

    Args:
        method: one of `LORA_METHODS`, or `TASK_ADAPTER`, which makes nothing of the profiles.
        adapters: where to start from.
        task: the task adapter of this seed, one of ``adapters.tasks``.
        llm: the frozen LLM.
        split: whose questions.
        profiles: those of the questions; equal ones share an adapter.
        folder: where the adapters are kept.
        progress: told how far it is.

    Raises:
        FingerprintMismatchError: if the task adapter was trained on another LLM.
    """

    def __init__(
        self,
        method: str,
        adapters: Adapters,
        task: TaskAdapter,
        llm: TransformersLM,
        split: LampSplit,
        profiles: Sequence[Profile],
        folder: Path,
        progress: Progress,
    ) -> None:
        from persona.adapters.bank import AdapterBank
        from persona.adapters.examples import history_examples
        from persona.adapters.training.users import train_users
        from persona.adapters.versions import PUBLISHED

        self.method, self._llm = method, llm
        trainer, prior = task.trainer(llm), None if method == LORA else task.row
        self.family = trainer.family.over(prior)
        identity = [method, task.fingerprint, adapters.neighbours if method == NEIGHBOURS else 0]
        self._identity = hashlib.blake2b(json.dumps(identity).encode(), digest_size=8).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        name = method.replace("+", "_").replace(" ", "_")
        self._url = f"sqlite:///{folder / f'{name}-{self._identity}.db'}"
        different = {_owner(profile): profile for profile in profiles}
        examples = partial(history_examples, task=split.task, labels=split.labels)

        def told(done: int, total: int) -> None:
            progress(f"{method} adapters", done, total)

        with ProfileStore(self._url) as store:
            store.upsert((owner, record) for owner, profile in different.items() for record in profile)
            bank = AdapterBank(store)
            bank.add_family(self.family, prior)
            wanted = set(different) & set(bank.stale_users(self.family))
            made = len(different) - len(wanted)
            told(made, len(different))
            in_order = [owner for owner in different if owner in wanted]
            if method in (LORA, LORA_TASK):
                train_users(
                    trainer,
                    bank,
                    examples,
                    prior=prior,
                    user_ids=in_order,
                    progress=lambda users, seconds: told(made + users, len(different)),
                )
            elif method == NEIGHBOURS:
                from persona.adapters.few_records.neighbours import Neighbours

                assert task.candidates is not None
                means = Neighbours(trainer, task.candidates, prior=prior, k=adapters.neighbours)
                means.publish(bank, examples, user_ids=in_order)
            elif method == ROUTED:
                from persona.adapters.few_records.routed import Router

                Router.restored(task.router, trainer, prior=task.row).publish(bank, examples, user_ids=in_order)
            told(len(different), len(different))
            current = {owner: bank.current(owner, self.family) for owner in different}
            self._names = {
                owner: None if one is None or one.state != PUBLISHED else one.name for owner, one in current.items()
            }

    def requests(self, texts: Sequence[str], profiles: Sequence[Profile]) -> tuple[Request, ...]:
        """`texts`, each to be answered with the adapter of its profile."""
        prior = None if self.family.prior is None else PRIOR_ADAPTER
        return tuple(
            self._request(text, self._names[_owner(profile)] or prior)
            for text, profile in zip(texts, profiles, strict=True)
        )

    def alone(self, texts: Sequence[str]) -> tuple[Request, ...]:
        """`texts`, to be answered with the task adapter alone."""
        return tuple(self._request(text, PRIOR_ADAPTER) for text in texts)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """While this is open, the LLM takes these requests."""
        from persona.adapters.bank import AdapterBank
        from persona.adapters.serving.pool import AdapterPool

        with (
            ProfileStore(self._url) as store,
            AdapterPool(AdapterBank(store), self._llm, self.family),
        ):
            yield

    def _request(self, text: str, adapter: str | None) -> Request:
        if adapter is None:
            return Request(text)
        # The task adapter's answers are the same whatever the method.
        identity = str(self.family.prior) if adapter == PRIOR_ADAPTER else self._identity
        return AdapterRequest(text, adapter=adapter, identity=identity)


def check_llm(llm: LanguageModel) -> TransformersLM:
    """`llm`, if it can take adapters.

    Raises:
        InvalidOptionError: if it is no transformers model.
    """
    from persona.llm.transformers import TransformersLM

    if not isinstance(llm, TransformersLM):
        raise InvalidOptionError(
            "adapters need a transformers model (folder, hub id or (model, tokenizer)), was: " + llm.fingerprint
        )
    return llm


def _owner(profile: Profile) -> str:
    """A name for a profile: what it holds, so that two profiles of one user do not share an adapter."""
    content = [profile.user_id, *([one.text, one.target, one.time, one.id] for one in profile)]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
