"""Train the user embedders that persona carries beside `tiny`, one for each task of the generated world.

    python -m examples.train_tiny_user_embedders --out persona/tiny/user_embedders

That takes about ten minutes a task on one CPU core.
They are trained on 1,000 users of the world's ``train`` split (seed 0), the best step is chosen on a fifth of these,
and nobody of ``dev`` or ``test`` is seen. Weights are kept in float16, half the bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.progress import Progress, TaskID
from safetensors.torch import load_file, save_file

from examples.world.world import WORLD_TASKS, World
from persona import load_encoder, load_llm
from persona.llm.transformers import TransformersLM
from persona.readers import read_split
from persona.retrievers.registry import RetrieverOptions, make_retriever
from persona.soft_prompts.histories import HistoryReader
from persona.soft_prompts.training.loop import TrainingProgress
from persona.soft_prompts.training.options import UserEmbedderTraining
from persona.soft_prompts.training.user_embedder import new_user_embedder, train_user_embedder

RECORDS = 20
LEARNING_RATES = {"LaMP_2": 1e-3, "LaMP_3": 1e-3, "LaMP_4": 2e-3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder, one folder in it for each task")
    parser.add_argument("--users", type=int, default=1000, help="training users of each task")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    llm, encoder = load_llm("tiny", overlong="truncate"), load_encoder("minilm")
    assert isinstance(llm, TransformersLM)
    with tempfile.TemporaryDirectory() as folder, Progress() as bars:
        for task in WORLD_TASKS:
            World(0).write_lamp(Path(folder) / task, task, {"train": options.users}, RECORDS)
            split = read_split(Path(folder) / task, "train")
            training = UserEmbedderTraining(
                steps=options.steps, learning_rate=LEARNING_RATES[task], seed=options.seed, patience=6
            )
            embedder = new_user_embedder(llm, split, encoder, seed=options.seed)
            bar = bars.add_task(task)

            def show(progress: TrainingProgress, bar: TaskID = bar, task: str = task) -> None:
                bars.update(bar, description=f"{task}, {progress.stage}", completed=progress.done, total=progress.total)

            report = train_user_embedder(
                embedder,
                split,
                llm,
                HistoryReader(embedder.config, encoder),
                training,
                out=options.out / task,
                retriever=make_retriever("bm25-lamp", RetrieverOptions(view=split.task.view)),
                progress=show,
            )
            weights = options.out / task / "model.safetensors"
            halves = {
                name: tensor.half() if tensor.is_floating_point() else tensor
                for name, tensor in load_file(weights).items()
            }
            save_file(halves, weights, {"format": "pt"})
            print(
                f"{task}: step {report.best_step}, {report.validation_loss:.4f} nats per token on validation users, "
                f"{report.new_user_loss:.4f} as new users; {report.copy_loss:.4f} with copying"
            )


if __name__ == "__main__":
    main()
