"""Versions of a user's adapter: what they hold, what they are called, and what a run that publishes them reports."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from torch import Tensor

from persona.adapters.family import Family
from persona.errors import UnknownAdapterError
from persona.records import check_user_id

PUBLISHED, PRIOR, OLD, WITHDRAWN = "published", "prior", "old", "withdrawn"
CURRENT = (PUBLISHED, PRIOR)
"""The states of which a user has at most one version."""


@dataclass(frozen=True, slots=True, eq=False)
class AdapterDraft:
    """A version to publish.

    Attributes:
        user_id: whose it is.
        row: the adapter; None to say that the prior does better.  # (size,)
        revision: of the profile that it was made from.
        metrics: numbers to keep with it.
    """

    user_id: str
    row: Tensor | None
    revision: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """A version of a user's adapter, without its numbers.

    Attributes:
        user_id: whose it is.
        family: which adapters it can stand beside.
        version: from 1 on.
        state: ``published`` is what the user is answered with; ``prior`` says that the shared prior does better for
            this user, and there are no numbers; ``old`` was published before; ``withdrawn`` was rolled back.
        revision: of the profile that it was made from.
        sha256: of the bytes at rest; None where there are none.
        created: when, ISO 8601.
        metrics: what was kept with it.
    """

    user_id: str
    family: Family = field(repr=False)
    version: int
    state: str
    revision: int
    sha256: str | None = field(repr=False)
    created: str
    metrics: Mapping[str, float]

    @property
    def name(self) -> str:
        """``user@version``: what a request calls it. No two versions share it."""
        return f"{self.user_id}@{self.version}"


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """What a run that published adapters did.

    Attributes:
        users: users for whom an adapter was computed.
        published: those whose adapter beat the prior.
        kept_prior: those for whom it did not.
        too_few: users with too few examples.
        too_long: examples that were left out because they are longer than the model can take.
        passed_over: users who were forgotten, or whose records were deleted, meanwhile.
        examples: examples that were learnt from.
        seconds: how long it took.
    """

    users: int = 0
    published: int = 0
    kept_prior: int = 0
    too_few: int = 0
    too_long: int = 0
    passed_over: int = 0
    examples: int = 0
    seconds: float = 0.0

    def plus(self, drafts: Sequence[AdapterDraft], stored: Sequence[StoredAdapter]) -> AdapterReport:
        """The report after `drafts` were published as `stored`."""
        published = sum(adapter.state == PUBLISHED for adapter in stored)
        return replace(
            self,
            users=self.users + len(drafts),
            published=self.published + published,
            kept_prior=self.kept_prior + len(stored) - published,
            passed_over=self.passed_over + len(drafts) - len(stored),
        )


def split_name(name: str) -> tuple[str, int]:
    """User and version of ``user@version``.

    Raises:
        UnknownAdapterError: if `name` is not of that form.
    """
    user_id, _, version = name.rpartition("@")
    if not user_id or not version.isdecimal():
        raise UnknownAdapterError(f"an adapter's name must have the form user@version, was: {name!r}")
    return user_id, int(version)


def safe_name(user_id: str) -> str:
    """`user_id` as a part of a file name: all but letters, digits, ``_.-~`` as ``%`` and two hexadecimal digits; a long
    one is cut and ends in its hash. Two ids never have one name, and none leads out of its folder.
    """
    quoted = quote(user_id, safe="")
    if quoted.startswith("."):
        quoted = f"%2E{quoted[1:]}"
    return quoted if len(quoted) <= 120 else f"{quoted[:80]}%{hashlib.sha256(user_id.encode()).hexdigest()[:32]}"


def erase_exports(user_id: str, exports: Path) -> int:
    """Remove the user's adapters from a folder into which adapters were exported; how many there were."""
    exported = list(exports.glob(f"{safe_name(check_user_id(user_id))}@*"))
    for place in exported:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()
    return len(exported)
