"""Token ids of the examples of a training."""

from __future__ import annotations

from dataclasses import dataclass, field

from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import LampTask
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions, Retriever
from persona.soft_prompts.training.examples import Example


@dataclass(frozen=True, slots=True, eq=False)
class ExampleTokens:
    """Token ids of examples: of the official prompt with retrieved records, and of the target. Each is made once."""

    task: LampTask
    llm: TransformersLM
    retriever: Retriever | None
    soft_tokens: int  # that a prompt leaves room for
    max_length: int  # of a prompt with records, in tokens
    _made: dict[tuple[int, int], tuple[list[int], list[int]]] = field(default_factory=dict)

    def of(self, example: Example, k: int) -> tuple[list[int], list[int]]:
        """Prompt with `k` retrieved records, and target."""
        key = id(example), k
        if key not in self._made:
            (target,) = self.llm.target_ids([example.gold])
            room = self.llm.input_limit(GenerationOptions(max_new_tokens=len(target)))
            limit = None if room is None else room - self.soft_tokens
            (prompt,) = self.llm.prompt_ids([self._text(example, k)], limit=limit)
            self._made[key] = prompt, target
        return self._made[key]

    def _text(self, example: Example, k: int) -> str:
        if k == 0 or not example.profile.records:
            return example.input
        assert self.retriever is not None
        scored = self.retriever.retrieve(example.profile, self.task.query(example.input), k)
        records = [each.record for each in scored]
        return lamp_prompt(self.task, example.input, records, self.llm.tokenizer, max_length=self.max_length).text
