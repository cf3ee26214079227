"""What is trained once, on other users, and lies under every user's own adapter: the task adapter, as a folder.

::

    task = TaskAdapter.load("adapters/film")
    train_users(task.trainer(llm), bank, examples, prior=task.row)

    task_adapter.json          the family, the training options of the users' own parts, what the training reported
    task_adapter.safetensors   task (size,); candidates (users, size) for `neighbours`
    router/                    the generator of adapters for `routed`
    generator/                 a generator of adapters over it for `one-pass`; its control generator-without-user/

Loading it runs no code. Candidates and router hold something of the training users, as the task adapter itself does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from persona.adapters.family import Family
from persona.adapters.generated.generator import AdapterGenerator, load_generator
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.trainer import AdapterTrainer
from persona.errors import ModelLoadError, check_made_for
from persona.files import learned, save_learned
from persona.llm.transformers import TransformersLM

NAME, _FORMAT = "task_adapter", 1
GENERATOR, GENERATOR_WITHOUT_USER = "generator", "generator-without-user"
_ROUTER = "router"


@dataclass(frozen=True, slots=True, eq=False)
class TaskAdapter:
    """A task adapter, and what was trained over it.

    Attributes:
        family: of the task adapter itself, which lies over no prior.
        row: its numbers.  # (size,)
        options: how the users' own parts over it are to be trained.
        task: name of the LaMP task.
        candidates: adapters of training users over it, as neighbours for others; None for none.  # (users, size)
        router: a generator of kind ``routed``; None for none.
        report: numbers that the training reported.
        folder: that it was loaded from; None for none.
    """

    family: Family
    row: Tensor = field(repr=False)
    options: TrainingOptions
    task: str
    candidates: Tensor | None = field(default=None, repr=False)
    router: AdapterGenerator | None = field(default=None, repr=False)
    report: Mapping[str, float] = field(default_factory=dict)
    folder: Path | None = None

    def generator_folder(self, *, with_user: bool = True) -> Path | None:
        """Where a generator over this task adapter is, or that trained without user; None without one."""
        name = GENERATOR if with_user else GENERATOR_WITHOUT_USER
        return None if self.folder is None or not (self.folder / name).is_dir() else self.folder / name

    @property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of everything that decides an answer."""
        digest = hashlib.sha256(json.dumps(self._config(), sort_keys=True).encode())
        digest.update(save(self._tensors()))
        digest.update(b"" if self.router is None else self.router.fingerprint.encode())
        return digest.hexdigest()[:16]

    def trainer(self, llm: TransformersLM) -> AdapterTrainer:
        """The trainer of the users' own parts.

        Raises:
            FingerprintMismatchError: if the task adapter was trained on another model.
        """
        fix = "load that model, or train a task adapter for this one (persona train adapters DATA)"
        check_made_for("the task adapter", self.family.base, llm.fingerprint, fix)
        return AdapterTrainer(llm, self.family.spec, self.options)

    def save(self, folder: Path) -> None:
        """Write the files; the weights first, so that a folder that can be loaded is whole."""
        shutil.rmtree(folder / _ROUTER, ignore_errors=True)  # it belongs to the task adapter that lay here
        if self.router is not None:
            self.router.save(folder / _ROUTER)
        arrays = {name: tensor.numpy() for name, tensor in self._tensors().items()}
        save_learned(folder, NAME, arrays, {"format": _FORMAT, **self._config(), "report": dict(self.report)})

    @classmethod
    def load(cls, folder: str | Path) -> TaskAdapter:
        """The task adapter in a folder.

        Raises:
            ModelLoadError: if there is none, or it is damaged.
        """
        folder = Path(folder)
        hint = "task adapter: train one with `persona train adapters DATA`"
        with learned(folder, NAME, _FORMAT, hint) as (arrays, config):
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            loaded = cls(
                Family.from_name(config["family"]),
                tensors["task"],
                TrainingOptions(**config["options"]),
                config["task"],
                tensors.get("candidates"),
                load_generator(folder / _ROUTER) if (folder / _ROUTER).is_dir() else None,
                config["report"],
                folder,
            )
        rows = [loaded.row[None], *([] if loaded.candidates is None else [loaded.candidates])]
        if any(row.ndim != 2 or row.shape[1] != loaded.family.size for row in rows):
            raise ModelLoadError(f"{folder} is damaged: an adapter of its family has {loaded.family.size} numbers")
        return loaded

    def _config(self) -> dict[str, Any]:
        return {"family": self.family.name, "options": asdict(self.options), "task": self.task}

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"task": self.row}
        if self.candidates is not None:
            tensors["candidates"] = self.candidates
        return {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
