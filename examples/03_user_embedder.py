"""Train a user embedder for a frozen LLM, and answer with its soft prompt: a dozen tokens for a whole history.

    python -m examples.03_user_embedder        # from the root of a clone; under a minute on one CPU core

The users are of the generated world: each has scored 20 product reviews, strictly or kindly, and cares about some of
their aspects. After ten steps of training on 40 users, the history of a new user brings the error of `tiny` far down;
another user's history does not. (A real training takes hundreds of steps and users: docs/user-embedder.md.)
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from examples.world.world import World
from persona import Personalizer, ProfileStore, SoftPromptChannel, load_encoder, load_llm, read_records
from persona.llm.transformers import TransformersLM
from persona.readers import read_split
from persona.soft_prompts.histories import HistoryReader
from persona.soft_prompts.training.options import UserEmbedderShape, UserEmbedderTraining
from persona.soft_prompts.training.user_embedder import new_user_embedder, train_user_embedder


def main() -> None:
    llm, encoder = load_llm("tiny"), load_encoder("hashing")
    assert isinstance(llm, TransformersLM)
    training = UserEmbedderTraining(
        steps=10, evaluate_every=10, warm_up=100, ks=(0,), leave_one_out=4, new_user_steps=0
    )
    with TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{folder}/persona.db") as store:
        World(0).write_lamp(folder, "LaMP_3", {"train": 40, "dev": 30}, records_per_user=20)
        train, dev = read_split(folder, "train"), read_split(folder, "dev")
        embedder = new_user_embedder(llm, train, encoder, UserEmbedderShape(copies=False))
        report = train_user_embedder(
            embedder, train, llm, HistoryReader(embedder.config, encoder), training, out=Path(folder) / "embedder"
        )
        print(f"trained {report.steps} steps on {report.users} users in {report.seconds:.0f} s")

        store.upsert(read_records(folder))
        personalizer = Personalizer(llm, store, [SoftPromptChannel(embedder, llm, encoder, store)])
        golds = dev.golds or {}
        users = [question.user_id for question in dev.questions]
        for whose, asked in (
            ("own", users),
            ("another user's", users[1:] + users[:1]),
            ("no", ["nobody"] * len(users)),
        ):
            answers = personalizer.batch(
                [(user, question.input) for user, question in zip(asked, dev.questions, strict=True)]
            )
            error = fmean(
                abs(float(answer.text) - float(golds[question.id]))
                for answer, question in zip(answers, dev.questions, strict=True)
            )
            print(f"{whose + ' history:':24} mean absolute error {error:.2f}")


if __name__ == "__main__":
    main()
