"""Several tasks in one training: a user's records asked about in other ways than the task's own question.

Beside the task's question, each example is asked one of these, drawn:

    usual     the task's question about a typical record of this user -> the user's most frequent answer
    record    the official wording of a record up to the later of its two fields -> that field, of the example itself
    caption   words that ask what is usual for the user -> the sentence of statistics on the user's records

    L = mean over the examples of w_f * NLL per token        f the family that was drawn, w_f > 0 its weight

No template names the user; all that the LLM knows of one is the soft prompt. It adds one pass of the LLM over the
questions to a step. The families share one split, since a user embedder answers one task: its tokens start as that
task's words, and it is served with that task's prompts.

Sources: P5, "Recommendation as Language Processing (RLP)" (arXiv 2203.13366), whose families of templates turn one
history into many tasks; the re-weighting of tasks in one generative model of UniMP. ``caption`` is the caption of a
Q-Former's first phase, as ILM has it (arXiv 2406.02844): the frozen LLM writes what is said of the user.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from persona.lamp.tasks import LampTask
from persona.protocols import GenerationOptions
from persona.soft_prompts.training.examples import Example
from persona.soft_prompts.training.objectives.base import Objective, Step
from persona.summaries.statistics import profile_stats

_ANSWER_TOKENS = 32
"""Most tokens of an answer that count."""

_ASKED_FOR_CAPTION = "What is usual for this user? "


class TemplatesObjective(Objective):
    """The loss of the module's docstring; `usual`, `record` and `caption` are the weights of the families."""

    reads_llm = True

    def __init__(
        self,
        config: Any,
        state_size: int,
        *,
        weight: float = 0.1,
        usual: float = 1.0,
        record: float = 0.25,
        caption: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight, self.weights = weight, {"usual": usual, "record": record, "caption": caption}
        self.n_tokens = config.n_tokens

    def term(self, step: Step) -> Tensor:
        """See the module; examples that a family says nothing of count as 0.  # ()"""
        families = [name for name, weight in self.weights.items() if weight > 0]
        found = []
        for row, number in enumerate(step.draw.integers(len(families), size=len(step.shown))):
            pair = FAMILIES[families[number]](step.tokens.task, step.shown[row])
            if pair is not None and all(pair):
                found.append((row, self.weights[families[number]], *pair))
        if not found:
            return torch.zeros((), device=step.loss.device)
        rows, weights, prompts, answers = zip(*found, strict=True)
        llm = step.loss.llm
        targets = [target[:_ANSWER_TOKENS] for target in llm.target_ids(answers)]
        room = llm.input_limit(GenerationOptions(max_new_tokens=_ANSWER_TOKENS))
        ids = llm.prompt_ids(prompts, limit=None if room is None else room - self.n_tokens)
        losses = step.loss(ids, targets, *step.only(rows).given())
        return (torch.tensor(weights, device=losses.device) * losses).sum() / len(step.shown)


def usual_answer(task: LampTask, example: Example) -> tuple[str, str] | None:
    """The task's question about a typical record, and the answer that most of the user's records have."""
    targets = Counter(record.target for record in example.profile if record.target)
    if task.typical_record is None or not targets:
        return None
    input = task.make_input(task.typical_record, labels=task.labels_in(example.input))
    return input, targets.most_common(1)[0][0]


def rest_of_record(task: LampTask, example: Example) -> tuple[str, str] | None:
    """A record of the question and its answer in the official wording, cut before the later of the two."""
    piece, fields = task.form.piece, {"text": task.query(example.input), "target": example.gold}
    if task.query_marker is None or "{target}" not in piece:
        return None
    later = max(fields, key=lambda name: piece.index(f"{{{name}}}"))
    return piece[: piece.index(f"{{{later}}}")].format(**fields), fields[later]


def said_of_user(task: LampTask, example: Example) -> tuple[str, str] | None:
    """What is usual for the user: the sentence of statistics on the records beside the one in question."""
    said = profile_stats(example.profile, task.name).text
    return (_ASKED_FOR_CAPTION, said) if said else None


FAMILIES: Mapping[str, Callable[[LampTask, Example], tuple[str, str] | None]] = {
    "usual": usual_answer,
    "record": rest_of_record,
    "caption": said_of_user,
}
"""The families of templates: prompt and answer of an example, or None."""
