"""What is trained once, on other users, and lies under every user's own adapter: the task adapter, as a folder.

::

    task = TaskAdapter.load("adapters/film")
    train_users(task.trainer(llm), bank, examples, prior=task.row)

    task_adapter.json          the family, the training options of the users' own parts, what the training reported
    task_adapter.safetensors   task (size,); candidates (users, size) for `neighbours`; router.* for `routed`
    generator/                 a generator of adapters over it for `one-pass`; its control generator-without-user/

Loading it runs no code. Candidates and router hold something of the training users, as the task adapter itself does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from persona.adapters.family import Family
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.trainer import AdapterTrainer
from persona.errors import FingerprintMismatchError, ModelLoadError, PersonaError, reason
from persona.files import replacing, write_atomically
from persona.llm.transformers import TransformersLM

CONFIG, WEIGHTS = "task_adapter.json", "task_adapter.safetensors"
GENERATOR, GENERATOR_WITHOUT_USER = "generator", "generator-without-user"
_ROUTER = "router."
_REMOVED = {"warmup": 0.1, "max_holdout": 16, "margin": 0.0, "warm_up": 0, "aux_ratio": 0.0, "half": None}
"""Training options of older versions, with the values that today's training has."""


@dataclass(frozen=True, slots=True, eq=False)
class TaskAdapter:
    """A task adapter, and what was trained over it.

    Attributes:
        family: of the task adapter itself, which lies over no prior.
        row: its numbers.  # (size,)
        options: how the users' own parts over it are to be trained.
        task: name of the LaMP task.
        candidates: adapters of training users over it, as neighbours for others; None for none.  # (users, size)
        router: the tensors of a `persona.adapters.few_records.routed.Router`; empty for none.
        report: numbers that the training reported.
        folder: that it was loaded from; None for none.
    """

    family: Family
    row: Tensor = field(repr=False)
    options: TrainingOptions
    task: str
    candidates: Tensor | None = field(default=None, repr=False)
    router: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
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
        return digest.hexdigest()[:16]

    def trainer(self, llm: TransformersLM) -> AdapterTrainer:
        """The trainer of the users' own parts.

        Raises:
            FingerprintMismatchError: if the task adapter was trained on another model.
        """
        if self.family.base != llm.fingerprint:
            raise FingerprintMismatchError(
                f"the task adapter was trained on {self.family.base}, this model is {llm.fingerprint}: load that "
                "model, or train a task adapter for this one (persona train adapters DATA)"
            )
        return AdapterTrainer(llm, self.family.spec, self.options)

    def save(self, folder: Path) -> None:
        """Write the two files; the weights first, so that a folder that can be loaded is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / WEIGHTS) as path:
            path.write_bytes(save(self._tensors()))
        content = {**self._config(), "report": dict(self.report)}
        write_atomically(folder / CONFIG, json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> TaskAdapter:
        """The task adapter in a folder.

        Raises:
            ModelLoadError: if there is none, or it is damaged.
        """
        folder = Path(folder)
        try:
            content: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            with safe_open(folder / WEIGHTS, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            options = dict(content["options"].items() - _REMOVED.items())
            loaded = cls(
                Family.from_name(content["family"]),
                tensors["task"],
                TrainingOptions(**options),
                content["task"],
                tensors.get("candidates"),
                {name.removeprefix(_ROUTER): one for name, one in tensors.items() if name.startswith(_ROUTER)},
                content["report"],
                folder,
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, PersonaError) as error:
            raise ModelLoadError(
                f"{folder} holds no task adapter: {reason(error)}; train one with `persona train adapters DATA`"
            ) from error
        rows = [loaded.row[None], *([] if loaded.candidates is None else [loaded.candidates])]
        if any(row.ndim != 2 or row.shape[1] != loaded.family.size for row in rows):
            raise ModelLoadError(f"{folder} is damaged: an adapter of its family has {loaded.family.size} numbers")
        return loaded

    def _config(self) -> dict[str, Any]:
        return {"family": self.family.name, "options": asdict(self.options), "task": self.task}

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"task": self.row, **{f"{_ROUTER}{name}": one for name, one in self.router.items()}}
        if self.candidates is not None:
            tensors["candidates"] = self.candidates
        return {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
