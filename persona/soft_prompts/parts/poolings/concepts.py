"""A user as explicit concepts: one number for each, never negative, mostly zero, which `persona show --explain` prints.

With x_ic = 1 where record i is about concept c (`persona.soft_prompts.parts.views.concepts`), and a_c, b_c > 0 learned,

    u_c = max(0, a_c sqrt(sum_i x_ic / (n + m)) - b_c)

m is the weight of the null record, in records. b_c leaves out what is too rare to tell anything.

Source: SESA, Supervised Explicit Semantic Analysis (arXiv 1708.03246): dimensions are named, and what they weigh is
learned from the task.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.errors import InvalidOptionError
from persona.records import Profile
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Pooling, Records
from persona.soft_prompts.parts.registry import parsed
from persona.soft_prompts.parts.views.concepts import ConceptsView

_VIEW = "concepts"


class ConceptsPooling(Pooling):
    """The u_c of the module's docstring. The view `concepts` must be there.

    Attributes:
        names: of the concepts.
    """

    def __init__(self, config: UserEmbedderConfig) -> None:
        super().__init__()
        views = parsed(config.views)
        if _VIEW not in dict(views):
            raise InvalidOptionError(
                f"the pooling 'concepts' reads the view of that name, `views` was: {config.views!r}"
            )
        self.names: list[str] = list(dict(views)[_VIEW]["names"])
        self.size = len(self.names)
        start = sum(config.view_dims[: [name for name, _ in views].index(_VIEW) - len(views)])
        self.columns = slice(start, start + self.size)
        self.scale = nn.Parameter(torch.full((self.size,), 0.54))  # a_c = 1
        self.threshold = nn.Parameter(torch.full((self.size,), -4.0))  # b_c = 0.02

    def forward(self, records: Records) -> Tensor:
        """See the module.  # (batch, concepts)"""
        about = (records.values[..., self.columns] * records.mask[..., None]).sum(1).clamp_min(0)
        return self.strengths(about, records.mask.sum(1, keepdim=True) + records.null_records)

    def strengths(self, about: Tensor, count: Tensor) -> Tensor:
        """u_c from the number of records about each concept, and the number of records, null records among them."""
        return F.relu(F.softplus(self.scale) * about.sqrt() / count.sqrt() - F.softplus(self.threshold))

    @torch.no_grad()
    def explained(self, profile: Profile, null_records: Tensor) -> list[tuple[str, float, int]]:
        """The concepts of a user, the strongest first: name, u_c, and how many records are about it."""
        about = torch.from_numpy(ConceptsView(names=self.names).read(profile)).sum(0)
        strengths = self.strengths(about, len(profile) + null_records).tolist()
        found = zip(self.names, strengths, map(int, about.tolist()), strict=True)
        return sorted((each for each in found if each[1] > 0), key=lambda each: -each[1])
