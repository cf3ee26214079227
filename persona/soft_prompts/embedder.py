"""The user embedder: turns a whole history into a few soft tokens for a frozen LLM.

>>> from persona import UserEmbedder, load_encoder, load_llm
>>> embedder = UserEmbedder.for_llm(load_llm("tiny"), load_encoder("hashing"), n_tokens=4)
>>> embedder.config.n_tokens, embedder.config.mode
(4, 'attention')

Its equations are in `persona.soft_prompts.network`, its training in `persona.soft_prompts.training`.
"""

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from persona.encoders.user_vectors import UserVectorFile
from persona.errors import FingerprintMismatchError, ModelLoadError
from persona.llm.checkpoint import hash_parameters
from persona.llm.inputs import TokenSet
from persona.llm.weights.hub import hub_file, near
from persona.protocols import RecordEncoder
from persona.soft_prompts.config import PAPER_TOKENS, UserEmbedderConfig
from persona.soft_prompts.copying import FEATURES, Copying, TokenBackground, vocabulary_of
from persona.soft_prompts.network import AttentionPooling, PaperPooling, VectorMap
from persona.soft_prompts.parts.base import Part

if TYPE_CHECKING:
    from persona.llm.transformers import TransformersLM
    from persona.soft_prompts.instruction import InstructionWords

# No `from __future__ import annotations` here: the mixin reads the type of `config` from the signature.

_POOLINGS = {"attention": AttentionPooling, "persona-plug": PaperPooling, "vectors": VectorMap}


@torch.no_grad()
def input_embeddings(model: Any) -> Tensor:
    """What a transformers model reads for each token, float32, on the CPU.  # (tokens, llm_hidden)

    The outputs of its embedding layer are not always the layer's weights: Gemma multiplies them.
    """
    layer = model.get_input_embeddings()
    read: Tensor = layer(torch.arange(len(layer.weight), device=layer.weight.device))
    return read.float().cpu()


class UserEmbedder(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="persona",
    license="apache-2.0",
    tags=["personalization", "soft-prompt"],
):
    """A network from a user's history to soft tokens. It is all that is trained: LLM and record encoder stay frozen.

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
        if config.mode != "persona-plug":
            # Every token starts as long as the LLM's own.
            self.instruction = nn.Parameter(torch.randn(config.n_tokens, config.llm_hidden) / config.llm_hidden**0.5)
        self.pooling: Any = _POOLINGS[config.mode](config)

    @classmethod
    def for_llm(
        cls,
        llm: Any,
        source: RecordEncoder | UserVectorFile,
        *,
        seed: int = 0,
        words: "InstructionWords | None" = None,
        copies: bool = False,
        **options: Any,
    ) -> Self:
        """An untrained embedder that fits `llm`.

        Args:
            llm: the frozen LLM, a `TransformersLM`.
            source: the record encoder, or vectors of the users themselves (mode ``"vectors"``).
            seed: of all starting values.
            words: what the soft tokens start as (mode ``"attention"``); None for random tokens of the LLM.
            copies: whether tokens are copied into answers, once that is trained.
            **options: `mode`, `n_tokens`, `heads`, `width`, `view`, `with_question`, `task` and the parts of
                `UserEmbedderConfig`.

        Raises:
            InvalidOptionError: if an option is out of range, or tokens are to be copied and the LLM does not say how
                many it can write.
        """
        embeddings = input_embeddings(llm.model)
        scale = float(embeddings.norm(dim=1).mean())
        if isinstance(source, UserVectorFile):
            options["mode"] = "vectors"
        if options.get("mode") == "persona-plug":
            options.setdefault("n_tokens", PAPER_TOKENS)
        if words is not None:
            answer = words.answer_tokens
            options |= {"n_tokens": len(words.vectors), "answer_start": answer.start, "answer_end": answer.stop}
        options |= {"copy_tokens": vocabulary_of(llm) if copies else 0, "embedding_scale": scale}
        options |= {"encoder": source.fingerprint, "llm": llm.fingerprint}
        if options.get("tokens"):
            options["llm_blocks"] = len(llm.frozen.blocks)
        config = UserEmbedderConfig(source.dim, llm.hidden_size, **options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            embedder = cls(config)
            if words is not None and isinstance(embedder.pooling, AttentionPooling):
                embedder.pooling.echo.weight.data.copy_(words.regression / scale)
                embedder.pooling.null_target.data.copy_(words.usual)
            if config.mode != "persona-plug":
                random = embeddings[torch.randint(len(embeddings), (config.n_tokens,))]
                embedder.instruction.data.copy_((random if words is None else words.vectors) / scale)
        return embedder

    def forward(
        self, keys: Tensor, values: Tensor, mask: Tensor, query: Tensor | None = None, days: Tensor | None = None
    ) -> Tensor:
        """The soft prompts of some users, in the LLM's own scale.

        Values where `mask` is False, the other users of the batch and, without `days`, the order of the records change
        nothing.

        Args:
            keys: vectors of the records' input sides.  # (batch, records, encoder_dim)
            values: see `UserEmbedderConfig.value_dim`.  # (batch, records, value_dim)
            mask: True where there is a record.  # (batch, records)
            query: vectors of the questions; None for a prompt that fits any question.  # (batch, encoder_dim)
            days: ages of the records in days, at least 0; None if they have no dates.  # (batch, records)

        Returns:
            Vectors to stand before the LLM's input embeddings.  # (batch, n_tokens or cut, llm_hidden)
        """
        soft_prompts: Tensor = self.pooling(keys, values, mask, query, days)
        return self._scaled(soft_prompts)

    def _scaled(self, tokens: Tensor) -> Tensor:
        if self.config.mode != "persona-plug":
            tokens = tokens.add_(self.instruction)  # in place: this is the largest tensor of all
        scaled = tokens.mul_(self.config.embedding_scale)[:, : self.config.cut or None]
        return TokenSet.of(scaled) if self.unordered else scaled

    def cut(self, k: int) -> "UserEmbedder":
        """A copy that gives the first `k` of the soft tokens alone, to read fewer at serving.

        It fits training with tokens ``"nested"``; after another training the first tokens are as good as any.

        Raises:
            InvalidOptionError: if there are fewer.
        """
        shorter = UserEmbedder(replace(self.config, cut=k))
        shorter.load_state_dict(self.state_dict())
        return shorter.to(next(self.parameters()).device).train(self.training)

    @property
    def keeps_state(self) -> bool:
        """Whether a store keeps the state of the part `state`, and not soft prompts: all tokens are made from it."""
        pooling = self.pooling
        return bool(self.config.state) and not (self.config.tokens and pooling.tokens.reads_records)

    @property
    def unordered(self) -> bool:
        """Whether its tokens are a set (`persona.llm.inputs.TokenSet`)."""
        return bool(self.config.tokens) and self.pooling.tokens.unordered

    @property
    def steers(self) -> bool:
        """Whether it adds to the LLM's hidden states as well."""
        return bool(self.config.tokens) and self.pooling.tokens.steers

    @torch.no_grad()
    def written(self, keys: Tensor, values: Tensor, mask: Tensor, days: Tensor | None = None) -> list[bytes]:
        """What a store keeps of some users, fit for any question; arguments as above."""
        records = self.pooling.records(keys, values, mask, None, days)
        kept: list[bytes] = self.pooling.state.written(self.pooling.dense_state(records), mask.sum(1))
        return kept

    @torch.no_grad()
    def read(self, written: Sequence[bytes]) -> Tensor:
        """The soft prompts of users with records from what is `written` of them.  # (batch, n_tokens, llm_hidden)"""
        return self._scaled(self.pooling.tokens_of(self.pooling.state.read(written), None))

    def steering(self, keys: Tensor, values: Tensor, mask: Tensor, days: Tensor | None = None) -> dict[int, Tensor]:
        """What is added behind blocks of the LLM for some users, whatever is asked; arguments as above.

        Returns:
            By block; nothing without tokens that steer.  # (batch, llm_hidden) each
        """
        if not self.config.tokens:
            return {}
        records = self.pooling.records(keys, values, mask, None, days)
        mixed = self.pooling.state_of(records)[:, : self.config.width]
        vectors = self.pooling.tokens.steering(mixed, records)
        return {block: self.config.embedding_scale * vector for block, vector in vectors.items()}

    def state(
        self,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
        query: Tensor | None = None,
        days: Tensor | None = None,
        *,
        dense: bool = False,
    ) -> Tensor:
        """What the soft prompts of some users are made from, in mode ``"attention"``; arguments as above.

        Returns:
            The mixed heads and the vector of the usual answer, as the part `state` keeps them, or `dense` as it is
            given them.  # (batch, size)
        """
        records = self.pooling.records(keys, values, mask, query, days)
        kept: Tensor = self.pooling.dense_state(records) if dense else self.pooling.state_of(records)
        return kept

    def shown(self, draw: np.random.Generator) -> int | None:
        """How many of the soft tokens a step of the training shows, from the first on; None for all."""
        shown: int | None = self.pooling.tokens.shown(draw) if self.config.tokens else None
        return shown

    def part_loss(self) -> Tensor | None:
        """What the parts add to the loss after a call in training; None for nothing.  # ()"""
        losses = [part.loss for part in self.modules() if isinstance(part, Part) and part.loss is not None]
        return torch.stack(losses).sum() if losses else None

    def note_task(self, task: str) -> None:
        """Note the LaMP task that it is trained on, in `config` and in what is saved."""
        self.config = self._hub_mixin_config = replace(self.config, task=task)

    @property
    def copies(self) -> bool:
        """Whether anything is copied: it was made to, and its training found that worth it."""
        return self.copying is not None and bool(self.copying.weights.any())

    @property
    def fingerprint(self) -> str:
        """Names the weights: ``user-embedder@`` and 12 hexadecimal digits, and how many tokens it is cut to."""
        return f"user-embedder@{hash_parameters(self)}" + (f":{self.config.cut}" if self.config.cut else "")

    def check_fits(self, source: str, llm: Any = None) -> None:
        """Refuse a record encoder, user vectors or an LLM that this embedder was not trained with.

        Args:
            source: fingerprint of the encoder or of the user vectors.
            llm: the LLM that is to read the soft prompts; None if it does not matter yet.

        Raises:
            FingerprintMismatchError: with both names.
        """
        pairs = [("user vectors" if self.config.mode == "vectors" else "record encoder", self.config.encoder, source)]
        if llm is not None:
            # An endpoint cannot show its weights; its caller can say whose they are.
            pairs.append(("LLM", self.config.llm, getattr(llm, "serves", None) or llm.fingerprint))
        for what, trained, given in pairs:
            if trained and trained != given:
                raise FingerprintMismatchError(
                    f"a user embedder works with the {what} it was trained with, {trained!r}; was given {given!r}: "
                    "load that one, or train a new user embedder"
                )

    @classmethod
    def _load_as_safetensor(cls, model: Self, model_file: str, map_location: str, strict: bool) -> Self:  # type: ignore[override]
        """Every weight has to be there; the mixin would leave what is missing at random."""
        model.load_state_dict(load_file(model_file, device=map_location))
        return model.eval()

    @classmethod
    def _load_as_pickle(cls, model: Self, model_file: str, map_location: str, strict: bool) -> Self:  # type: ignore[override]
        """Never; the mixin would, where a hub id has no safetensors."""
        raise ModelLoadError(f"a user embedder is loaded from safetensors only, was: {model_file}")


class CopyWeights(nn.Module):
    """What an embedder that copies holds beside its network: w, and the `TokenBackground` of the training users."""

    weights: Tensor  # (features,)
    counts: Tensor  # (vocabulary,)
    texts: Tensor  # ()

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(len(FEATURES)))
        self.register_buffer("counts", torch.zeros(vocabulary, dtype=torch.int32))
        self.register_buffer("texts", torch.zeros((), dtype=torch.int32))

    def of(self, llm: "TransformersLM") -> Copying:
        """Makes the lifts for requests to `llm`."""
        background = TokenBackground(int(self.texts), self.counts.cpu().numpy())
        return Copying(llm, background.idf, self.weights.float().cpu().numpy())


def load_user_embedder(path: str | Path) -> UserEmbedder:
    """The user embedder in a folder, or of a hub id; ready to use, on the CPU.

    Raises:
        ModelLoadError: if there is none, or its files do not fit together.
    """
    folder = Path(path)
    wrong = f"no user embedder could be loaded from {str(path)!r}"
    hint = "name the folder of one, or train it with `persona train user-embedder`"
    if folder.exists():
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise ModelLoadError(f"{wrong}: there is no {name} in it; {hint}")
    else:
        wrong += f": there is no such folder{near(str(path))}"
        if "/" not in str(path):
            raise ModelLoadError(f"{wrong}, and a hub id is `owner/name`; {hint}")
        try:
            files = [hub_file(str(path), name) for name in ("config.json", "model.safetensors")]
        except ModelLoadError as error:
            raise ModelLoadError(f"{wrong}, and no such hub id here; {hint}") from error
        folder = files[0].parent
    try:
        with redirect_stdout(StringIO()):  # the mixin prints a line on what it does
            return UserEmbedder.from_pretrained(str(folder)).eval()
    except (TypeError, AttributeError, IndexError) as error:  # fields that are missing or odd, or no fields at all
        raise ModelLoadError(f"{wrong}: its config.json is not that of a user embedder; {hint}") from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(f"{wrong}: {' '.join(str(error).split())[:300]}") from error
