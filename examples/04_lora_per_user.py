"""Train one LoRA adapter per user on a frozen LLM, and answer many users' requests in one batch.

    python examples/04_lora_per_user.py        # under a minute on one CPU core

The users are generated: each has scored 20 product reviews, strictly or kindly. All are trained at the
same time; an adapter is published only if it helps with its user's newest reviews. A user's own adapter brings the
error of `tiny` down; another user's helps much less, or not at all. (docs/adapters.md)
"""

from __future__ import annotations

from functools import partial
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import cast

from persona import Personalizer, ProfileStore, load_llm
from persona.adapters import (
    AdapterBank,
    AdapterChannel,
    AdapterPool,
    AdapterTrainer,
    LoraSpec,
    TrainingOptions,
    history_examples,
    train_users,
)
from persona.eval.demo.world import generated_folder
from persona.lamp.tasks import lamp_task
from persona.llm.transformers import TransformersLM
from persona.readers import read_split


def main() -> None:
    llm = cast(TransformersLM, load_llm("tiny"))  # adapters are trained on a transformers model
    dev = read_split(generated_folder("LaMP_3"), "dev")
    questions, golds = dev.questions[:8], dev.golds or {}
    with TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{folder}/persona.db") as store:
        store.upsert((question.user_id, record) for question in questions for record in question.profile)
        bank = AdapterBank(store)
        trainer = AdapterTrainer(llm, LoraSpec(r=8), TrainingOptions(epochs=3))
        report = train_users(trainer, bank, partial(history_examples, task=lamp_task("LaMP_3")))
        print(f"{report.published} of {report.users} adapters published after {report.seconds:.0f} s")

        users = [question.user_id for question in questions]
        with AdapterPool(bank, llm) as pool:
            personal = Personalizer(llm, store, [AdapterChannel(pool, missing="base")])
            plain = Personalizer(llm, store, [])
            for adapter, personalizer, asked in (
                ("own adapter", personal, users),
                ("another user's", personal, users[1:] + users[:1]),
                ("no adapter", plain, users),
            ):
                answers = personalizer.batch(
                    [(user, question.input) for user, question in zip(asked, questions, strict=True)]
                )
                error = fmean(
                    abs(float(answer.text) - float(golds[question.id]))
                    for answer, question in zip(answers, questions, strict=True)
                )
                print(f"{adapter + ':':16} mean absolute error {error:.2f}")


if __name__ == "__main__":
    main()
