"""A model of sentence-transformers that a retriever reads texts with: loaded when it is first used, by one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from persona.encoders.folder import WEIGHTS, check_layers, describe, encoder_folder
from persona.errors import ModelLoadError, reason

LOADING: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""No download and no code of the model's while it is loaded."""


class OwnModel:
    """A loaded model, or a folder and how to load it.

    Args:
        model: ``"minilm"``, a folder, a hub id, or a loaded model.
        load: makes the model from its folder and a device.
        device: as torch knows it.
        spare: begins the names of layers that the weights may leave out; None for none.

    Raises:
        ModelLoadError: if there is no such folder or hub model.
        MissingDependencyError: if it is ``"minilm"`` and the package is not installed.
    """

    def __init__(
        self, model: object, load: Callable[[Path, str], Any], device: str, *, spare: str | None = None
    ) -> None:
        named = isinstance(model, str | Path)
        self.name = str(model) if named else type(model).__name__
        self.folder = encoder_folder(model) if isinstance(model, str | Path) else None
        self._loaded: Any = None if named else model
        self._load = load
        self._spare = spare
        self._device = device
        self._loading = threading.Lock()

    def __repr__(self) -> str:
        return f"OwnModel({self.name!r})"

    @property
    def fingerprint(self) -> str:
        """Names the model, by its weights if it came from a folder."""
        return self.name if self.folder is None else describe(self.folder)

    def get(self) -> Any:
        """The model.

        Raises:
            ModelLoadError: if it cannot be loaded, or its weights leave a layer out.
        """
        from persona.llm.checkpoint import quiet_loading

        with self._loading:
            if self._loaded is None:
                assert self.folder is not None
                try:
                    with quiet_loading():
                        loaded = self._load(self.folder, self._device)
                        check_layers(loaded, self.folder, spare=self._spare)
                        self._loaded = loaded
                except ModelLoadError:
                    raise
                except Exception as error:  # tokenizers raises bare `Exception`s on files that it cannot use
                    raise ModelLoadError(f"the model in {self.folder} cannot be loaded: {reason(error)}") from error
            return self._loaded


def float32_weights() -> dict[str, Any]:
    """Arguments of a model's loading: safetensors only, and float32 whatever type the weights are stored in."""
    import torch

    return {**WEIGHTS, "dtype": torch.float32}


def encodable(texts: Sequence[str]) -> list[str]:
    """The texts with lone surrogates replaced, which no tokenizer takes and a query may hold."""
    return [text.encode(errors="replace").decode() for text in texts]
