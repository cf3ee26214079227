"""The first phase of a Q-Former: users and what is said of them find one another before the LLM reads anything.

What is said of a user is the sentence of statistics on the whole history (`persona.summaries.statistics`), t_u its
vector less the mean of all training users, of length 1. With z_u the user's state from what the step shows, U and C
linear maps, s_uv = cos(U z_u, t_v) / tau, and M(u, v) a small network on the products of their numbers,

    contrast = -log softmax_v(s_uv)[u]        which sentence is this user's
    match    = -log M(u, u) - log(1 - M(u, v))        whether it is, v being the other with the highest s_uv
    caption  = 1 - cos(C z_u, t_u)        the sentence, as its vector, from the state

L is their sum. Users with equal sentences are not set against each other. Only the warm-up has this term, unless
`always`: then the frozen LLM's loss has the lead. A pooling `queries` makes it the first phase of a Q-Former; it works
with any.

Source: ILM, Item-Language Model for Conversational Recommendation (arXiv 2406.02844), after BLIP-2 (arXiv 2301.12597);
the caption is a vector, so that no LLM computes. As a text,
written by the frozen LLM, it is a family of `TemplatesObjective`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from persona.records import Profile
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.training.examples import Examples
from persona.soft_prompts.training.objectives.base import Objective, Step
from persona.soft_prompts.training.objectives.contrast import contrast
from persona.summaries.statistics import profile_stats

_EQUAL = 0.999
_HIDDEN = 64


class AlignmentObjective(Objective):
    """The three losses of the module's docstring; `temperature` is tau."""

    def __init__(
        self,
        config: UserEmbedderConfig,
        state_size: int,
        *,
        weight: float = 0.3,
        temperature: float = 0.1,
        always: bool = False,
    ) -> None:
        super().__init__()
        self.weight, self.temperature, self.always = weight, temperature, always
        self.user, self.caption = nn.Linear(state_size, config.encoder_dim), nn.Linear(state_size, config.encoder_dim)
        self.match = nn.Sequential(nn.Linear(config.encoder_dim, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, 1))
        self._said: dict[str, Tensor] = {}

    def term(self, step: Step) -> Tensor:
        """See the module.  # ()"""
        if not (step.warm_up or self.always):
            return torch.zeros((), device=step.loss.device)
        if not self._said:
            self._said = sentences(step.examples)
        states = step.states(step.histories)
        said = torch.stack([self._said[example.user_id] for example in step.shown]).to(states)
        users = F.normalize(self.user(states), dim=1)
        caption = 1 - F.cosine_similarity(self.caption(states), said, dim=1).mean()
        return aligned(users, said, self.match, self.temperature) + caption


def aligned(users: Tensor, said: Tensor, match: nn.Module, temperature: float) -> Tensor:
    """Contrast and match of vectors of length 1; `match` reads their products.  # ()"""
    others = said @ said.T < _EQUAL
    hardest = (users @ said.T).masked_fill(~others, -torch.inf).argmax(1)
    found = match(users * said * said.shape[1])[:, 0]  # brought to the order of 1
    against = match(users * said[hardest] * said.shape[1])[:, 0]
    has = others.any(1)
    wrong = F.softplus(against)[has].mean() if bool(has.any()) else 0.0
    return contrast(users, said, temperature, others) + F.softplus(-found).mean() + wrong


def sentences(examples: Examples) -> dict[str, Tensor]:
    """Vectors of the statistics of all users to train on, less their mean, of length 1.  # user id -> (encoder_dim,)"""
    profiles: dict[str, Profile] = {}
    for example in examples.train:
        if len(example.profile) >= len(profiles.get(example.user_id, Profile(example.user_id))):
            profiles[example.user_id] = example.profile
    texts = [profile_stats(profile, examples.task.name).text for profile in profiles.values()]
    vectors = torch.from_numpy(examples.reader.questions(texts))
    return dict(zip(profiles, F.normalize(vectors - vectors.mean(0), dim=1), strict=True))
