"""Loads a sentence-transformers model from a folder onto a device, without running its code."""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from persona.errors import ModelLoadError, reason
from persona.llm.checkpoint import quiet_loading

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types that an encoder can compute in."""


def load(folder: Path, device: torch.device, dtype: str) -> SentenceTransformer:
    """The model in `folder`, in evaluation mode.

    Raises:
        ModelLoadError: if sentence-transformers cannot load it.
    """
    try:
        # transformers fills layers that the weights lack with random numbers. A fixed seed makes them the same in every
        # process, as they must be when one process stores vectors and another compares them.
        with quiet_loading():
            model = SentenceTransformer(
                str(folder),
                device=str(device),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": DTYPES[dtype], "use_safetensors": True},
            )
    except Exception as error:  # transformers raises many kinds of errors on unusable files
        raise ModelLoadError(f"the encoder in {folder} cannot be loaded: {reason(error)}") from error
    return model.eval()
