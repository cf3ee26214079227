"""Ideas: what the bench compares, each a file of settings.

::

    [idea]
    source = "RecSys 2023, 'Semantic IDs'"
    [embedder]
    state = "residual_codes(levels=4)"
"""

from __future__ import annotations

from dataclasses import dataclass, field

from persona.errors import InvalidOptionError
from persona.eval.options import NONE, USER_EMBEDDER, EvaluationOptions
from persona.retrievers.registry import RETRIEVERS
from persona.soft_prompts.training.options import UserEmbedderShape, UserEmbedderTraining


@dataclass(frozen=True, slots=True)
class IdeaOptions:
    """What is tried.

    Attributes:
        method: user-embedder, or the name of a retriever, of which nothing is trained.
        k: how many retrieved records stand in the prompt; 0 for none.
        query_free: make soft prompts without the question, as they are stored.
        source: where the idea is from.

    Raises:
        InvalidOptionError: if there is no such method, or a retriever is to retrieve nothing.
    """

    method: str = USER_EMBEDDER
    k: int = 0
    query_free: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        if self.method != USER_EMBEDDER and self.method not in RETRIEVERS:
            raise InvalidOptionError(f"`method` must be {USER_EMBEDDER}, {', '.join(RETRIEVERS)}, was: {self.method!r}")
        if self.k < int(self.method != USER_EMBEDDER):
            raise InvalidOptionError(f"`k` must be at least 0, of a retriever at least 1, was: {self.k}")


@dataclass(frozen=True, slots=True)
class Idea:
    """One setting of the bench.

    Attributes:
        name: of its file, without ending; names its row.
        options: what is tried.
        shape: of its user embedder.
        training: of its user embedder; the seed is the bench's.

    Raises:
        InvalidOptionError: if the name is empty or `none`.
    """

    name: str
    options: IdeaOptions = field(default_factory=IdeaOptions)
    shape: UserEmbedderShape = field(default_factory=UserEmbedderShape)
    training: UserEmbedderTraining = field(default_factory=UserEmbedderTraining)

    def __post_init__(self) -> None:
        if not self.name or self.name == NONE:
            raise InvalidOptionError(f"an idea needs a name other than {NONE!r}, was: {self.name!r}")

    @property
    def trained(self) -> bool:
        """Whether it has a user embedder."""
        return self.options.method == USER_EMBEDDER


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """On what ideas are compared.

    Attributes:
        baseline: the name of the idea that all others are compared with; the first one if there is none of that name.
        seeds: of the trainings.
        users: only the first training users.
        limit: only the first questions of the split that is reported.
        split: which one that is.
        records: only the newest records of each history that is reported on; unset, all.
        resamples: bootstrap resamples over users.

    Raises:
        InvalidOptionError: if a number is out of range.
    """

    baseline: str = "default"
    seeds: tuple[int, ...] = (0,)
    users: int | None = None
    limit: int | None = None
    split: str = "dev"
    records: int | None = None
    resamples: int = 2000

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise InvalidOptionError(f"`seeds` must be different numbers of at least 0, were: {self.seeds}")
        for name, least in (("users", 2), ("limit", 1), ("records", 0), ("resamples", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidOptionError(f"`{name}` must be at least {least}, was: {value}")

    @property
    def evaluation(self) -> EvaluationOptions:
        """How the evaluation is run."""
        return EvaluationOptions(limit=self.limit, resamples=self.resamples)
