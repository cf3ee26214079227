"""The options of a training: what a configuration file of ``persona train user-embedder`` holds."""

from __future__ import annotations

from dataclasses import dataclass

from persona.errors import InvalidOptionError, check_fraction, check_least, check_one_of, check_positive
from persona.llm.checks import check_seed
from persona.soft_prompts.parts.registry import HEADS, parsed

HISTORY_DROPOUT = 0.3
"""Each example loses a share of its records, drawn between 0 and this."""

EMPTY_SHARE = 0.1
"""Share of the examples that lose all records, so that the prompt of a user without any is learned."""

QUERY_DROPOUT = 0.1
"""Share of the examples whose soft prompt is made without the question."""

WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.98)

TRAINED_MODES = ("attention", "persona-plug")
"""Modes that are trained from histories; user vectors have a mode of their own."""


@dataclass(frozen=True, slots=True)
class UserEmbedderShape:
    """What an untrained user embedder is made of. With user vectors only `n_tokens` and `copies` are read.

    Attributes:
        mode: ``attention``, or ``persona-plug``: the equations of the Persona-Plug paper.
        n_tokens: soft tokens, random ones at first; unset, they start as a record in the task's own words.
        heads: attention heads, of mode ``attention``.
        width: hidden size of mode ``attention``.
        with_question: let the soft prompt say what such a question is usually answered, whoever asks; in mode
            ``attention``.
        views: further views of a record, by name and joined by ``+``; in mode ``attention``, as are all such parts.
        pooling: from records to one vector; ``heads`` and others beside or instead of them.
        state: what is kept of a user, in place of plain numbers.
        tokens: from a state to soft tokens, in place of a linear layer.
        copies: learn how much likelier to make tokens of the question and of the user's own answers; unset, in mode
            ``attention``.
    """

    mode: str = "attention"
    n_tokens: int | None = None
    heads: int = 4
    width: int = 256
    with_question: bool = False
    views: str = ""
    pooling: str = HEADS
    state: str = ""
    tokens: str = ""
    copies: bool | None = None

    def __post_init__(self) -> None:
        check_one_of(TRAINED_MODES, mode=self.mode)
        check_least(1, n_tokens=self.n_tokens, heads=self.heads, width=self.width)


@dataclass(frozen=True, slots=True)
class UserEmbedderTraining:
    """How a user embedder is trained.

    Attributes:
        warm_up: most steps of the warm-up, in which the LLM computes nothing; 0 for none. Only in mode ``attention``.
        steps: most optimizer steps.
        batch: examples in a step.
        accumulate: parts in which a step's batch is computed, to save memory.
        learning_rate: peak of AdamW's; 5 % of the steps warm up, then half a cosine.
        ks: numbers of retrieved records in the training prompts, drawn equally often; 0 is the question alone.
        leave_one_out: most questions made from one user's own records; 0 makes none.
        new_user_steps: steps at the end that tune what a user without records gets, and nothing else; unset, half of
            `steps`. Only in mode ``attention``, and not `without_user`.
        without_user: never show a record: the control "trained without the user".
        validation_users: share of the training users that choose the best step.
        validation_questions: most questions of theirs in an evaluation, one of each user before a second one.
        evaluate_every: steps between two evaluations on them.
        patience: evaluations without a better one after which the training ends.
        max_length: token budget of a prompt with records.
        objectives: what it is trained by beside the LLM's loss, by name (`persona.soft_prompts.training.objectives`).
        seed: of everything random.
    """

    warm_up: int = 400
    steps: int = 600
    batch: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-3
    ks: tuple[int, ...] = (0, 1)
    leave_one_out: int = 8
    new_user_steps: int | None = None
    without_user: bool = False
    validation_users: float = 0.2
    validation_questions: int = 256
    evaluate_every: int = 50
    patience: int = 6
    max_length: int = 256
    objectives: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(1, steps=self.steps, batch=self.batch, accumulate=self.accumulate, patience=self.patience)
        check_least(1, evaluate_every=self.evaluate_every, max_length=self.max_length)
        check_least(1, validation_questions=self.validation_questions)
        check_least(0, warm_up=self.warm_up, leave_one_out=self.leave_one_out, new_user_steps=self.new_user_steps)
        check_fraction(validation_users=self.validation_users)
        check_positive(learning_rate=self.learning_rate)
        if not self.ks or min(self.ks) < 0:
            raise InvalidOptionError(f"`ks` must be numbers of at least 0, was: {self.ks}")
        check_seed(self.seed)
        parsed(self.objectives)
