"""Small sentence-transformers models of several kinds, with random weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}


def bert(folder: Path) -> None:
    """A BERT with a "[CLS] text [SEP]" tokenizer of characters."""
    import torch
    from transformers import BertConfig, BertModel

    vocabulary = _save_tokenizer(folder, "right", "[CLS] $A [SEP]")
    torch.manual_seed(0)
    make: Any = BertConfig
    BertModel(make(vocab_size=vocabulary, initializer_range=0.5, **_SMALL)).save_pretrained(folder)


def llama(folder: Path) -> None:
    """A decoder that pads on the left."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    vocabulary = _save_tokenizer(folder, "left", "$A [SEP]")
    torch.manual_seed(0)
    make: Any = LlamaConfig
    LlamaModel(make(vocab_size=vocabulary, initializer_range=0.5, **_SMALL)).save_pretrained(folder)


def _save_tokenizer(folder: Path, padding_side: str, template: str) -> int:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    vocabulary = {token: index for index, token in enumerate([*special, *map(chr, range(32, 127))])}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokens.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer: Any = PreTrainedTokenizerFast  # which transformers leaves without types
    tokenizer(
        tokenizer_object=tokens,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        padding_side=padding_side,
        model_max_length=32,
    ).save_pretrained(folder)
    return len(vocabulary)


def _save(folder: Path, plain: Callable[[Path], None], modules: Callable[[Any], list[Any]], **options: Any) -> None:
    """A model of several modules, the first of which is a transformer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    plain(folder / "plain")
    made = SentenceTransformer(modules=modules(Transformer(str(folder / "plain"))), device="cpu", **options)
    made.save_pretrained(str(folder))
    shutil.rmtree(folder / "plain")


def _cls_dense(folder: Path) -> None:
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling

    _save(folder, bert, lambda first: [first, Pooling(16, "cls"), Dense(16, 12), Normalize()])


def _last_token(folder: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    _save(folder, llama, lambda first: [first, Pooling(16, "lasttoken")])


def _prompted(folder: Path) -> None:
    """Mean of the tokens behind a prompt that goes before every text."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    prompts = {"record": "of a user: "}
    pooling = Pooling(16, ("mean", "max"), include_prompt=False)
    _save(folder, bert, lambda first: [first, pooling], prompts=prompts, default_prompt_name="record")


def _static(folder: Path) -> None:
    """No transformer: the mean of a vector per word."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[UNK]": 0, "film": 1, "the": 2, "cool": 3, "and": 4, "week": 5}
    tokens = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = torch.randn(len(words), 8, generator=torch.Generator().manual_seed(0))
    module = StaticEmbedding(tokens, embedding_weights=weights)
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(str(folder))


KINDS: dict[str, Callable[[Path], None]] = {
    "plain": bert,
    "cls-dense": _cls_dense,
    "last-token": _last_token,
    "prompted": _prompted,
    "static": _static,
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a model of a kind, once, and gives its folder."""
    root = tmp_path_factory.mktemp("encoders")

    def make(kind: str) -> Path:
        folder = root / kind
        if not folder.exists():
            folder.mkdir()
            KINDS[kind](folder)
        return folder

    return make
