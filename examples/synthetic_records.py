"""Synthetic records for sparse histories: what an LLM writes in a user's place, never taken for the user's own.

Of each given text (a question, a film) the LLM writes what the user might answer. What it is shown is one of `FORMS`:

===========  ===============================================================
``basic``    nothing of the user
``tags``     the labels that the user gives most often
``context``  the user's own records
===========  ===============================================================

They are not records of the store but are kept beside them, as summaries are: so nothing counts them, retrieves them,
trains on them or evaluates by them; they go when a record is deleted and are erased with the user; an export has them
among what was made from the records. Each carries `SYNTHETIC` in its metadata with the LLM that wrote it, and no store
takes a record that does. `SyntheticChannel` shows them to an LLM as what they are.

Source: Sy-SE-PQA, answers of LLMs in the place of people's, in three such forms.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from persona.channels import Ask, Channel, Contribution
from persona.errors import GenerationError, check_one_of
from persona.llm.answers.modes import answers
from persona.prompts import PromptBuilder
from persona.protocols import GenerationOptions, LanguageModel, Request
from persona.records import SYNTHETIC, Profile, Record
from persona.store.derived import StoredIndex
from persona.store.profile_store import ProfileStore

FORMS = ("basic", "tags", "context")
KIND = "synthetic"
"""The kind (`StoredIndex.kind`) that they are stored as."""
_PROMPT = 'Write what this person would write in answer to the following, and nothing else.\n"{}"'
_TAGS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticOptions:
    """How synthetic records are written.

    Attributes:
        form: what the LLM is shown, one of `FORMS`.
        below: only for users with fewer records than this.
        max_new_tokens: longest answer.

    Raises:
        InvalidOptionError: if there is no such form.
    """

    form: str = "context"
    below: int = 5
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        check_one_of(FORMS, form=self.form)


def write_synthetic(
    llm: LanguageModel, profile: Profile, texts: Sequence[str], options: SyntheticOptions | None = None
) -> tuple[Record, ...]:
    """What an LLM writes in a user's place about some texts. Nothing is stored; blank and refused answers are left out.

    Args:
        llm: any.
        profile: the user's own records.
        texts: what is answered: not the user's own.
        options: how.

    Raises:
        GenerationError: if the LLM does not answer.
    """
    options = options or SyntheticOptions()
    builder = PromptBuilder.of(llm)
    labels = Counter(record.target for record in profile if record.target)
    common = ", ".join(label for label, _ in labels.most_common(_TAGS))
    notes = [f"often gives the labels: {common}"] if options.form == "tags" and common else []
    shown = profile.records[::-1] if options.form == "context" else ()
    requests = [Request(builder.build(_PROMPT.format(text), shown, notes).text) for text in texts]
    written: dict[int, str] = {}
    for index, answer in answers(llm, requests, GenerationOptions(options.max_new_tokens)):
        if isinstance(answer, GenerationError):
            raise answer
        written[index] = "" if answer.finish == "refusal" else " ".join(answer.text.split())
    metadata = {SYNTHETIC: f"{options.form}:{llm.fingerprint}"}
    return tuple(
        Record(text, target=written[index], metadata=metadata) for index, text in enumerate(texts) if written[index]
    )


def synthesize(
    store: ProfileStore,
    llm: LanguageModel,
    texts: Sequence[str],
    options: SyntheticOptions | None = None,
    *,
    user_ids: Iterable[str] | None = None,
) -> int:
    """Write and keep synthetic records of users with few records of their own; returns of how many users.

    Each user is kept when done; those whose records have not changed since are left out. Arguments as in
    `write_synthetic`; `user_ids` of None takes all users. Errors as there.
    """
    options, done = options or SyntheticOptions(), 0
    for user_id in store.user_ids() if user_ids is None else user_ids:
        profile = store.profile(user_id)
        if not 0 < len(profile) < options.below or synthetic_records(store, profile):
            continue
        records = write_synthetic(llm, profile, texts, options)
        data = json.dumps([[record.text, record.target, dict(record.metadata)] for record in records]).encode()
        done += store.put_indexes([StoredIndex(user_id, KIND, profile.revision, data)])
    return done


def synthetic_records(store: ProfileStore, profile: Profile) -> tuple[Record, ...]:
    """The synthetic records that were written from exactly these records; none where the user has others since."""
    stored = store.index(profile.user_id, KIND)
    if stored is None or stored.revision != profile.revision:
        return ()
    return tuple(Record(text, target=target, metadata=known) for text, target, known in json.loads(stored.data))


class SyntheticChannel(Channel):
    """Contributes a sparse user's synthetic records as notes that say what they are.

    Args:
        store: where they are.
        k: how many at most.
    """

    name = "synthetic"

    def __init__(self, store: ProfileStore, k: int = 2) -> None:
        self._store, self._k = store, k

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """Those of the users of `asks`."""
        notes = [
            tuple(
                f"Written by an LLM in this user's place, not by the user: '{each.text}' -> '{each.target}'"
                for each in synthetic_records(self._store, ask.profile)[: self._k]
            )
            for ask in asks
        ]
        return [Contribution(notes=own, source=KIND if own else None) for own in notes]
