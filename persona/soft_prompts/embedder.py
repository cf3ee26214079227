r"""The user embedder: a light plug-in that turns a whole history into a few soft tokens for a frozen LLM.

After Persona-Plug (Liu et al., arXiv 2409.11901). A record enters twice: as a *key*, its input side, by which it is
found relevant to the question, and as a *value*, which holds what the user did with it. Two modes:

``"persona-plug"``, the paper's equations. With h_i the unit vector of record i, q that of the question, and s the mean length
of the LLM's input embeddings,

    w_i = softmax_i(norm(W q) . h_i)        P = s * sum_i w_i Proj(h_i)        I = s / 7 * MLP(t)
    Proj(h) = W_2 GELU(W_1 h + b_1) + b_2   soft prompt = [I; P]

The paper trains a second sentence encoder for the question; here its place is taken by the map W, which starts as the
identity. The paper's s is 539.97, the length of Flan-T5-XXL's embeddings.

``"attention"``, the default. H sharp heads with learned projections and temperatures tau_h, and one mean head:

    a_hi = norm(Q_h q + c_h) . norm(K_h k_i) / tau_h - d_h * log(1 + months since record i)
    w_h  = softmax over the records and a learned null record
    z    = [sum_i w_1i g_i, ..., sum_i w_Hi g_i, (sum_i g_i + m g_0) / (n + m)]     g_i = GELU(W_1 v_i + b_1)
    soft prompt = s * (I + MLP(z) + E)

With `UserEmbedderConfig.with_question` z ends with the question, GELU(W_q sqrt(dim) q + b_q): the soft prompt can say
what such a question is usually answered, and bend that by what the heads found. The same training without the user has
it as well, so what the task alone can teach is in the control, and is not taken for personalization. In a prompt that
fits any question zeros stand there, and Q_h q is left out above.

E is the *echo* in the slot, those soft tokens that stand where an answer would (`persona.soft_prompts.instruction`): with t_i
the vector of the target of record i, t_0 that of a usual answer, and the same weights and null record as above,

    E = sum_h e_h A (t'_h - t_0)      t'_h = sum_i w_hi t_i + w_h0 t_0      t'_mean = (sum_i t_i + m t_0) / (n + m)

where A maps vectors of answers to the LLM's embeddings of these answers. It starts as their ridge regression, and the
gates e_h as 1 for the mean and 0 for the sharp heads: before any training the slot holds the LLM's own words for what
the user usually answers, and the more records there are, the more so.

The null record g_0 is there for every user, so an empty history has an answer, the neutral prompt; m says how many
records it takes to outweigh it. What is learned for users of whom something is known need not be best for one of whom
nothing is: to a soft prompt without any record N is added, one vector per token, tuned alone at the end
(`persona.soft_prompts.training`). Both modes pool before the last layer of the projector, which is then applied once
for a user instead of once for a record, with the same result, since weights sum to one.
"""

import math
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import torch
import torch.nn.functional as F  # noqa: N812
from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from persona.encoders.style import STYLE_DIM
from persona.errors import FingerprintMismatchError, InvalidOptionError, ModelLoadError
from persona.llm.logits import vocabulary_size
from persona.soft_prompts.copying import FEATURES, Copying, token_idf

if TYPE_CHECKING:
    from persona.llm.transformers import TransformersLM
    from persona.soft_prompts.instruction import InstructionWords

# No `from __future__ import annotations` here: the mixin reads the type of `config` from the signature.

Mode = Literal["attention", "persona-plug", "vectors"]
MODES: tuple[Mode, ...] = ("attention", "persona-plug", "vectors")

_PAPER_INSTRUCTION_SHARE = 1 / 7
_KEY_DIM = 64
_DAYS_IN_MONTH = 30.0
_NULL_RECORDS = 10.0
_EPSILON = 1e-5
_CARD_COPYING = (
    "It copies: tokens of the question and of the user's own answers are made likelier. For that it holds in how many "
    "answers of the training users each token stands.\n\n"
)
_FULL = 7 / 8
"""Share of records in a padded batch from which on its padding is computed, too."""


class SoftPromptedModel(Protocol):
    """What the user embedder asks of the LLM it is made for; `persona.llm.transformers.TransformersLM` has it."""

    model: Any
    hidden_size: int

    @property
    def fingerprint(self) -> str: ...


@torch.no_grad()
def input_embeddings(model: Any) -> Tensor:
    """What the LLM reads for each token: its embedding layer's outputs, which are not always the layer's weights.

    Gemma, for one, multiplies them by the root of their length within the layer.

    Args:
        model: a transformers model.

    Returns:
        float32, on the CPU.  # (tokens, llm_hidden)
    """
    layer = model.get_input_embeddings()
    table: Tensor = layer.weight.detach()
    read: Tensor = layer(torch.arange(len(table), device=table.device))
    return read.float().cpu()


@dataclass(frozen=True)
class UserEmbedderConfig:
    """The shape of a user embedder, and what it belongs to.

    Attributes:
        encoder_dim: length of the record encoder's vectors; in mode ``"vectors"`` that of the users' own vectors.
        llm_hidden: length of the LLM's input embeddings.
        mode: one of `MODES`.
        n_tokens: soft tokens of a user, at least 1; ``"persona-plug"`` always has 2, the instruction's and the user's.
        heads: sharp attention heads, at least 1. Only ``"attention"`` has them.
        width: hidden size, at least 1; ``"persona-plug"`` has `llm_hidden`, as the paper.
        embedding_scale: mean L2 norm of the LLM's input embeddings.
        encoder: fingerprint of the record encoder.
        llm: fingerprint of the LLM.
        view: the view of a record (`Record.view`) that keys are made of; in ``"persona-plug"`` values as well.
        slot: first and last but one of the soft tokens that start as the answer a user would probably give
            (`persona.soft_prompts.instruction`); two equal numbers if there are none.
        with_question: whether the layers behind the heads see the question, too. Only ``"attention"`` can.
        copy_tokens: how many tokens the LLM can write, if some are copied (`persona.soft_prompts.copying`); 0 if none are.
        task: name of the LaMP task it was trained on, whose prompts say around each question what is to be done with
            it; ``""`` for prompts that are nothing but the question.

    Raises:
        InvalidOptionError: if a number is out of range, there is no such mode, or it cannot be `with_question`.
    """

    encoder_dim: int
    llm_hidden: int
    mode: Mode = "attention"
    n_tokens: int = 8
    heads: int = 4
    width: int = 256
    embedding_scale: float = 1.0
    encoder: str = ""
    llm: str = ""
    view: str = "text"
    slot: tuple[int, int] = (0, 0)
    with_question: bool = False
    copy_tokens: int = 0
    task: str = ""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InvalidOptionError(f"a user embedder's mode must be one of {', '.join(MODES)}, was: {self.mode!r}")
        if self.with_question and self.mode != "attention":
            raise InvalidOptionError(
                f"only a user embedder of mode 'attention' can be `with_question`, was: {self.mode!r}"
            )
        for name in ("encoder_dim", "llm_hidden", "n_tokens", "heads", "width"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"`{name}` must be at least 1, was: {getattr(self, name)}")
        if not isinstance(self.task, str):
            raise InvalidOptionError(f"`task` must be a string, was: {self.task!r}")
        if self.copy_tokens < 0:
            raise InvalidOptionError(f"`copy_tokens` must be at least 0, was: {self.copy_tokens}")
        if not (math.isfinite(self.embedding_scale) and self.embedding_scale > 0):
            raise InvalidOptionError(f"`embedding_scale` must be above 0, was: {self.embedding_scale}")
        if self.mode == "persona-plug" and self.n_tokens != 2:
            object.__setattr__(self, "n_tokens", 2)
        object.__setattr__(self, "slot", tuple(self.slot))  # JSON has lists only
        if not 0 <= self.slot[0] <= self.slot[1] <= self.n_tokens:
            raise InvalidOptionError(f"`slot` must lie within the {self.n_tokens} soft tokens, was: {self.slot}")

    @property
    def value_dim(self) -> int:
        """Length of a record's value: text, target and style in ``"attention"``, else the key itself."""
        return 2 * self.encoder_dim + STYLE_DIM if self.mode == "attention" else self.encoder_dim


class UserEmbedder(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="persona",
    license="apache-2.0",
    tags=["personalization", "soft-prompt"],
):
    """See the module. Its parameters are all that is trained: the LLM and the record encoder stay as they are.

    `save_pretrained`, `from_pretrained` and `push_to_hub` come from `huggingface_hub`: safetensors, ``config.json`` and
    a model card.

    Args:
        config: the shape.

    Attributes:
        config: as given.
        copying: what is copied into answers; None if it was not made to.
    """

    def __init__(self, config: UserEmbedderConfig) -> None:
        super().__init__()
        self.config = config
        self.copying = CopyWeights(config.copy_tokens) if config.copy_tokens else None
        hidden = config.llm_hidden
        self.pooling: _AttentionPooling | _PaperPooling | _VectorMap
        if config.mode == "persona-plug":
            self.pooling = _PaperPooling(config)
        else:
            # Every token starts as long as the LLM's own.
            self.instruction = nn.Parameter(torch.randn(config.n_tokens, hidden) / hidden**0.5)
            self.pooling = _AttentionPooling(config) if config.mode == "attention" else _VectorMap(config)

    @classmethod
    def for_llm(
        cls,
        llm: SoftPromptedModel,
        *,
        encoder_dim: int,
        encoder: str = "",
        seed: int = 0,
        words: "InstructionWords | None" = None,
        copies: bool = False,
        **options: Any,
    ) -> Self:
        """An untrained embedder that fits `llm`; its instruction starts as `words`, or as random tokens.

        Args:
            llm: the frozen LLM.
            encoder_dim: length of the record encoder's vectors.
            encoder: the record encoder's fingerprint.
            seed: of all starting values.
            words: what the instruction starts as; their number is that of the soft tokens. ``"persona-plug"`` has none.
            copies: whether tokens are copied into answers, as `persona.soft_prompts.copy_training` will have learned.
            **options: `mode`, `n_tokens`, `heads`, `width`, `view` and `with_question` of `UserEmbedderConfig`.

        Raises:
            InvalidOptionError: if tokens are to be copied and the LLM does not say how many it can write.
        """
        embeddings = input_embeddings(llm.model)
        scale = float(embeddings.norm(dim=1).mean())
        if words is not None:
            options |= {"n_tokens": len(words.vectors), "slot": words.slot}
        if copies:
            size = vocabulary_size(llm.model.config)
            if size is None:
                raise InvalidOptionError(
                    f"the configuration of {llm.fingerprint} does not say how many tokens it can write, so none can be "
                    "copied: leave that out (--no-copy)"
                )
            options["copy_tokens"] = size
        config = UserEmbedderConfig(
            encoder_dim, llm.hidden_size, embedding_scale=scale, encoder=encoder, llm=llm.fingerprint, **options
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            embedder = cls(config)
            if words is not None and isinstance(embedder.pooling, _AttentionPooling) and embedder.pooling.has_slot:
                embedder.pooling.echo.weight.data.copy_(words.echo / scale)
                embedder.pooling.null_target.data.copy_(words.usual)
            if config.mode != "persona-plug":
                random = embeddings[torch.randint(len(embeddings), (config.n_tokens,))]
                embedder.instruction.data.copy_((random if words is None else words.vectors) / scale)
        return embedder

    @classmethod
    def from_vectors(
        cls,
        llm: SoftPromptedModel,
        *,
        dim: int,
        vectors: str = "",
        n_tokens: int = 4,
        seed: int = 0,
        copies: bool = False,
    ) -> Self:
        """An embedder for vectors that somebody else made of each user: one linear map to soft tokens.

        After E2P ("Embedding to Prefix"). `persona.encoders.user_vectors.UserVectorFile` reads such vectors.

        Args:
            llm: the frozen LLM.
            dim: length of a user's vector.
            vectors: their fingerprint (`UserVectorFile.fingerprint`).
            n_tokens: soft tokens of a user.
            seed: of all starting values.
            copies: as in `for_llm`.
        """
        return cls.for_llm(
            llm, encoder_dim=dim, encoder=vectors, seed=seed, mode="vectors", n_tokens=n_tokens, copies=copies
        )

    def forward(
        self,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
        query: Tensor | None = None,
        days: Tensor | None = None,
    ) -> Tensor:
        """The soft prompts of some users, in the LLM's own scale.

        What stands where `mask` is False, the other users of the batch and, without `days`, the order of the records
        change nothing.

        Args:
            keys: vectors of the records' input sides.  # (batch, records, encoder_dim)
            values: see `UserEmbedderConfig.value_dim`.  # (batch, records, value_dim)
            mask: True where there is a record.  # (batch, records)
            query: vectors of the questions; None for a prompt that fits any question.  # (batch, encoder_dim)
            days: ages of the records in days, at least 0; None if they have no dates.  # (batch, records)

        Returns:
            Vectors to stand before the LLM's input embeddings.  # (batch, n_tokens, llm_hidden)

        Raises:
            InvalidOptionError: if a shape does not fit.
        """
        self._check(keys, values, mask, query, days)
        soft_prompts: Tensor
        if isinstance(self.pooling, _PaperPooling):
            soft_prompts = self.pooling(keys, values, mask, query)
        else:
            # In place: this is the largest tensor of all.
            soft_prompts = self.pooling(keys, values, mask, query, days).add_(self.instruction)
        return soft_prompts.mul_(self.config.embedding_scale)

    @torch.no_grad()
    def attention_perplexity(
        self, keys: Tensor, mask: Tensor, query: Tensor | None = None, days: Tensor | None = None
    ) -> Tensor:
        """Over how many records the attention spreads: exp of the entropy of its weights, the mean over heads.

        1 is one record, the number of records is a plain mean; 0 for a user without any. The null record is left out.

        Args:
            keys: as in `forward`, as are the others.

        Returns:
            (batch,)
        """
        if isinstance(self.pooling, _VectorMap):
            return mask.sum(1).float()
        weights = self.pooling.weights(keys, mask, query, days)  # (batch, heads, records)
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
        entropy = torch.special.entr(weights).sum(-1).mean(-1)
        return torch.where(mask.any(1), entropy.exp(), torch.zeros_like(entropy))

    def note_task(self, task: str) -> None:
        """Note the name of the LaMP task that the training is on, in `config` and in what is saved."""
        self.config = replace(self.config, task=task)
        self._hub_mixin_config = self.config

    @property
    def copies(self) -> bool:
        """Whether anything is copied: it was made to, and its training found that worth it."""
        return self.copying is not None and bool(self.copying.weights.any())

    @property
    def fingerprint(self) -> str:
        """Names configuration and weights: ``user-embedder@`` and 12 hexadecimal digits."""
        from persona.llm.checkpoint import hash_parameters

        return f"user-embedder@{hash_parameters(self)}"

    def check_fits(self, encoder: str, llm: SoftPromptedModel | None = None) -> None:
        """Refuse a record encoder or an LLM that this embedder was not trained with.

        Args:
            encoder: fingerprint of the encoder whose vectors are to be read.
            llm: the LLM that is to read the soft prompts; None if it does not matter yet.

        Raises:
            FingerprintMismatchError: with both names.
        """
        pairs = [("user vectors" if self.config.mode == "vectors" else "record encoder", self.config.encoder, encoder)]
        if llm is not None:
            # An endpoint cannot show its weights; its caller can say whose they are.
            pairs.append(("LLM", self.config.llm, getattr(llm, "serves", None) or llm.fingerprint))
        for what, trained, given in pairs:
            if trained and trained != given:
                raise FingerprintMismatchError(
                    f"a user embedder works with the {what} it was trained with, {trained!r}; was given {given!r}: "
                    "load that one, or train a new user embedder"
                )

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card that `save_pretrained` writes."""
        config = self.config
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return ModelCard(
            "---\nlibrary_name: persona\nlicense: apache-2.0\ntags:\n- personalization\n- soft-prompt\n---\n\n"
            f"# User embedder ({config.mode})\n\n"
            f"Turns a user's history into {config.n_tokens} soft tokens for a frozen LLM; {parameters:,} trained "
            "parameters.\n\n"
            f"| | |\n|---|---|\n| LLM | `{config.llm}` |\n| record encoder | `{config.encoder}` |\n"
            f"| view of a record | `{config.view}` |\n\n"
            f"{_CARD_COPYING if self.copies else ''}"
            "```python\nfrom persona import UserEmbedder\n\n"
            'embedder = UserEmbedder.from_pretrained("this folder or hub id")\n```\n'
        )

    @classmethod
    def _load_as_safetensor(cls, model: Self, model_file: str, map_location: str, strict: bool) -> Self:  # type: ignore[override]
        """Every weight has to be there; the mixin would leave what is missing at random.

        Embedders of before the tuning for new users have nothing to say to these.
        """
        weights = load_file(model_file, device=map_location)
        if isinstance(model.pooling, _AttentionPooling):
            weights.setdefault("pooling.new_user", torch.zeros(model.pooling.shape))
        model.load_state_dict(weights)
        return model.eval()

    def _check(self, keys: Tensor, values: Tensor, mask: Tensor, query: Tensor | None, days: Tensor | None) -> None:
        batch, records = mask.shape
        shapes = (
            ("keys", keys, (batch, records, self.config.encoder_dim)),
            ("values", values, (batch, records, self.config.value_dim)),
            ("query", query, (batch, self.config.encoder_dim)),
            ("days", days, (batch, records)),
        )
        for name, tensor, shape in shapes:
            if tensor is not None and tuple(tensor.shape) != shape:
                raise InvalidOptionError(f"`{name}` must have the shape {shape}, was: {tuple(tensor.shape)}")


class CopyWeights(nn.Module):
    """What `persona.soft_prompts.copying` needs beside the LLM: its trained numbers, and what is common to everybody.

    Args:
        tokens: how many tokens the LLM can write.

    Attributes:
        weights: w of `persona.soft_prompts.copying`; zeros, which copy nothing, before they are trained.  # (features,)
        counts: in how many answers of the training users each token stands.  # (tokens,)
        texts: how many such answers were counted.
    """

    weights: Tensor
    counts: Tensor
    texts: Tensor

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(len(FEATURES)))
        self.register_buffer("counts", torch.zeros(tokens, dtype=torch.int32))
        self.register_buffer("texts", torch.zeros((), dtype=torch.int32))

    def of(self, llm: "TransformersLM") -> Copying:
        """Makes the lifts for requests to `llm`."""
        idf = token_idf(int(self.texts), self.counts.cpu().numpy())
        return Copying(llm, idf, self.weights.float().cpu().numpy())


class _PaperPooling(nn.Module):
    """The paper's equations; see the module."""

    def __init__(self, config: UserEmbedderConfig) -> None:
        super().__init__()
        dim, hidden = config.encoder_dim, config.llm_hidden
        self.question = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.question.weight)
        self.first, self.last = nn.Linear(dim, hidden), nn.Linear(hidden, hidden)
        self.instruction = nn.Parameter(torch.rand(dim))
        self.instruction_map = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def weights(self, keys: Tensor, mask: Tensor, query: Tensor | None, days: Tensor | None = None) -> Tensor:
        """softmax of normalised products; without a question the plain mean.  # (batch, 1, records)"""
        if query is None:
            scores = torch.zeros_like(mask, dtype=keys.dtype)
        else:
            scores = torch.einsum("bd,bnd->bn", F.normalize(self.question(query), dim=-1), F.normalize(keys, dim=-1))
        scores = scores.masked_fill(~mask, -torch.inf)
        # Without any record the softmax is 0/0: no record, no weight.
        return torch.where(mask, scores.softmax(-1), 0.0)[:, None].nan_to_num(0.0)

    def forward(self, keys: Tensor, values: Tensor, mask: Tensor, query: Tensor | None) -> Tensor:
        """The instruction's and the user's token, over s.  # (batch, 2, llm_hidden)"""
        hidden = _of_records(lambda some: F.gelu(self.first(some)), values, mask)
        pooled = self.weights(keys, mask, query) @ hidden
        user = self.last(pooled)
        instruction = _PAPER_INSTRUCTION_SHARE * self.instruction_map(self.instruction)
        return torch.cat((instruction.expand_as(user), user), dim=1)


class _AttentionPooling(nn.Module):
    """Sharp heads, a mean head and a null record; see the module."""

    def __init__(self, config: UserEmbedderConfig) -> None:
        super().__init__()
        dim, width, heads = config.encoder_dim, config.width, config.heads
        self.blocks = [dim, dim, STYLE_DIM]
        self.shape = (config.n_tokens, config.llm_hidden)
        self.heads = heads
        self.with_question = config.with_question
        self.value = nn.Linear(config.value_dim, width)
        self.key = nn.Linear(dim, heads * _KEY_DIM, bias=False)
        self.query = nn.Linear(dim, heads * _KEY_DIM, bias=False)
        # At first a head compares question and record as the encoder does.
        self.query.weight.data.copy_(self.key.weight.data)
        self.any_query = nn.Parameter(0.1 * torch.randn(heads, _KEY_DIM))
        self.log_temperature = nn.Parameter(torch.full((heads,), math.log(0.1)))
        self.decay = nn.Parameter(torch.full((heads,), -3.0))
        self.null_score = nn.Parameter(torch.zeros(heads))
        self.null_value = nn.Parameter(torch.zeros(width))
        self.log_null_records = nn.Parameter(torch.tensor(math.log(_NULL_RECORDS)))
        pooled = (heads + 1) * width
        if config.with_question:
            pooled += width
            self.question = nn.Sequential(nn.Linear(dim, width), nn.GELU())
        self.mix = nn.Sequential(nn.LayerNorm(pooled), nn.Linear(pooled, width), nn.GELU())
        self.last = nn.Linear(width, config.n_tokens * config.llm_hidden)
        # At first every user gets the instruction alone, and the echo.
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.new_user = nn.Parameter(torch.zeros(self.shape))
        start, end = config.slot
        self.has_slot = end > start
        self.slot = slice(start, end)
        if self.has_slot:
            self.echo = nn.Linear(dim, (end - start) * config.llm_hidden, bias=False)
            self.null_target = nn.Parameter(torch.zeros(dim))
            self.echo_gates = nn.Parameter(torch.tensor([0.0] * heads + [1.0]))

    def weights(self, keys: Tensor, mask: Tensor, query: Tensor | None, days: Tensor | None) -> Tensor:
        """Attention of the sharp heads; what is missing to 1 is the null record's.  # (batch, heads, records)"""
        batch, records, _ = keys.shape
        key = self.key(keys)  # (batch, records, heads * _KEY_DIM)
        asked = self.any_query.expand(batch, -1, -1)
        if query is not None:
            asked = asked + self.query(query).view(batch, self.heads, _KEY_DIM)
        # A product with each head's question in its own block: the keys need not be put into another order. They are
        # normalised behind it, where there is one number for a head and not `_KEY_DIM`.
        asked = torch.diag_embed(F.normalize(asked, dim=-1).transpose(1, 2)).transpose(1, 2).flatten(1, 2)
        norms = torch.linalg.vector_norm(key.view(batch, records, self.heads, _KEY_DIM), dim=-1).clamp_min(1e-12)
        scores = (key @ asked / norms).transpose(1, 2)  # (batch, heads, records)
        scores = scores / self.log_temperature.exp()[:, None]
        if days is not None:
            months = torch.log1p(days / _DAYS_IN_MONTH)
            scores = scores - F.softplus(self.decay)[:, None] * months[:, None]
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
        null = self.null_score[None, :, None].expand(batch, -1, 1)
        return torch.cat((scores, null), dim=-1).softmax(-1)[..., :-1]

    def forward(self, keys: Tensor, values: Tensor, mask: Tensor, query: Tensor | None, days: Tensor | None) -> Tensor:
        """What the user adds to the instruction, over s.  # (batch, n_tokens, llm_hidden)"""
        tokens, _ = self.read(keys, values, mask, query, days)
        return tokens

    def read(
        self, keys: Tensor, values: Tensor, mask: Tensor, query: Tensor | None, days: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What `forward` returns, and what all heads found, mixed.  # (batch, n_tokens, llm_hidden), (batch, width)"""
        hidden = _of_records(self._hidden, values, mask)  # (batch, records, width)
        weights = self.weights(keys, mask, query, days)
        null_records = self.log_null_records.exp()
        rest = 1 - weights.sum(-1, keepdim=True)
        # The sum for the mean head is one more row of weights: one pass over the records for all heads.
        sums = torch.cat((weights, torch.ones_like(weights[:, :1])), dim=1) @ hidden  # (batch, heads + 1, width)
        sharp = sums[:, :-1] + rest * self.null_value  # (batch, heads, width)
        mean = (sums[:, -1] + null_records * self.null_value) / (mask.sum(1, keepdim=True) + null_records)
        parts = [sharp.flatten(1), mean]
        if self.with_question:
            # A question's vector has length 1, what the values are made of about 1 in each number.
            parts.append(torch.zeros_like(mean) if query is None else self.question(query * query.shape[1] ** 0.5))
        found: Tensor = self.mix(torch.cat(parts, dim=1))
        tokens: Tensor = self.last(found).view(len(found), *self.shape)
        if self.has_slot:
            targets = torch.einsum("h,bhd->bd", self.echo_gates, self.targets(values, mask, weights, null_records))
            tokens[:, self.slot] += self.echo(targets).view(len(found), -1, self.shape[1])
        new = ~mask.any(1)
        if bool(new.any()):
            tokens = tokens + new[:, None, None] * self.new_user
        return tokens, found

    def targets(self, values: Tensor, mask: Tensor, weights: Tensor, null_records: Tensor) -> Tensor:
        """The targets under each head's weights, the mean's last, beyond the usual one.  # (batch, heads + 1, dim)"""
        dim = self.blocks[0]
        targets = values[..., dim : 2 * dim]  # (batch, records, dim)
        # A record without a target has zeros there.
        has = (targets.any(-1) & mask)[..., None].to(targets.dtype)
        rows = torch.cat((weights, mask[:, None].to(weights.dtype)), dim=1)  # (batch, heads + 1, records)
        beyond = rows @ targets - (rows @ has) * self.null_target
        mean = beyond[:, -1:] / (has.sum(1, keepdim=True) + null_records)
        return torch.cat((beyond[:, :-1], mean), dim=1)

    def _hidden(self, values: Tensor) -> Tensor:
        """g_i of some records; each part of a value is normalised (layer norm), so that all count.  # (some, width)

        Normalised after the product, which is the same and touches fewer numbers: W norm(v) = V v / sd with the rows of
        W less their means for V; and the mean of v, for its sd, is one more row of the product.
        """
        hidden: Tensor = self.value.bias
        weights = torch.split(self.value.weight, self.blocks, dim=1)
        for part, weight in zip(torch.split(values, self.blocks, dim=1), weights, strict=True):
            size = part.shape[1]
            centred = weight - weight.mean(1, keepdim=True)
            product = part @ torch.cat((centred, torch.full_like(weight[:1], 1 / size))).T  # (some, width + 1)
            mean = product[:, -1:]
            # Values are of the order of 1, so nothing is lost in the difference; `var_mean` takes twice the time.
            square = torch.linalg.vector_norm(part, dim=1, keepdim=True).square() / size
            deviation = (square - mean.square()).clamp_min(0) + _EPSILON
            hidden = torch.addcmul(hidden, product[:, :-1], torch.rsqrt(deviation))
        return F.gelu(hidden)


class _VectorMap(nn.Module):
    """One linear map from a user's vector to soft tokens; several vectors of one user are averaged."""

    def __init__(self, config: UserEmbedderConfig) -> None:
        super().__init__()
        self.shape = (config.n_tokens, config.llm_hidden)
        self.map = nn.Linear(config.encoder_dim, config.n_tokens * config.llm_hidden, bias=False)
        nn.init.zeros_(self.map.weight)

    def forward(self, keys: Tensor, values: Tensor, mask: Tensor, query: Tensor | None, days: Tensor | None) -> Tensor:
        """(batch, n_tokens, llm_hidden)"""
        mean = (values * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        tokens: Tensor = self.map(mean)
        return tokens.view(len(mean), *self.shape)


def _of_records(layer: Any, values: Tensor, mask: Tensor) -> Tensor:
    """`layer` of the values under `mask`, zeros elsewhere.  # (batch, records, out)

    Nothing is computed for padding, but where it is so little that picking the records out would take longer.
    """
    if int(mask.sum()) >= _FULL * mask.numel():
        whole: Tensor = layer(values.flatten(0, 1)).view(*mask.shape, -1)
        return whole if bool(mask.all()) else whole.masked_fill(~mask[..., None], 0)
    some: Tensor = layer(values[mask])
    hidden = some.new_zeros((*mask.shape, some.shape[-1]))
    hidden[mask] = some
    return hidden


def load_user_embedder(place: str | Path) -> UserEmbedder:
    """The user embedder in a folder, or of a hub id; ready to use, on the CPU.

    Raises:
        ModelLoadError: if there is none, or its files do not fit together.
    """
    folder = Path(place)
    wrong = f"no user embedder could be loaded from {str(place)!r}"
    mend = "name the folder of one, or train it with `persona train user-embedder`"
    if folder.is_file():
        raise ModelLoadError(f"{wrong}: it is a file; {mend}")
    if folder.is_dir():
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise ModelLoadError(f"{wrong}: the folder holds none, {name} is missing; {mend}")
    else:
        try:
            hf_hub_download(str(place), "config.json")
        # What the hub raises on ids that it does not know or that can be none, and offline without a copy.
        except (OSError, HFValidationError) as error:
            raise ModelLoadError(f"{wrong}: there is no such folder, and no such hub id here; {mend}") from error
    try:
        with redirect_stdout(StringIO()):  # the mixin prints a line on what it does
            return UserEmbedder.from_pretrained(str(place)).eval()
    except (TypeError, AttributeError, IndexError) as error:  # fields that are missing or odd, or no fields at all
        raise ModelLoadError(f"{wrong}: its config.json is not that of a user embedder; {mend}") from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelLoadError(f"{wrong}: {reason}") from error
