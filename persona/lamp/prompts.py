"""LaMP's own prompts: retrieved records in front of the question, byte for byte as the official builder
writes them.

A record becomes a *piece* (the trailing blank is official), the pieces are joined with ``, and``, and the
question comes after them - except for LaMP_1, where they go into it::

    5 is the score for "great thing" , and 1 is the score for "bad thing" . What is the score of the following
    ...

The token budget, with ``L`` = `max_length`, ``k`` records and ``|x|`` the tokens of x (special ones
counted)::

    room  = L - min(|input|, floor(0.6 * L))
    share = (room - |join| - 2 * (k - 1)) // k                    for every record
    the long field of a record is cut to  share + saved - |piece without it|  tokens, and decoded back to text
    saved grows by what the record leaves of its share, and shrinks by what it takes beyond it

Titles, tags and scores are never cut. Where one alone is too long for its share (a negative length), the
question gets a tenth of ``L`` less and all is tried again; where nothing helps, it stays as it is. Habits to
know:

- A question longer than its part is *not* cut here: the prompt is then longer than ``L``, and the LLM's
  truncation takes the end of the question, not of the history.
- A limit smaller than the special tokens themselves cuts nothing: an unsigned subtraction wraps round in the
  fast tokenizers that the official code calls. Such a record stands whole.

Both are kept, because results of the benchmark depend on them. For prompts of your own there is
`persona.prompts.PromptBuilder`, which keeps its budget and never costs a word of the question.

Source: ``LaMP/prompts/prompts.py`` of the official code, whose behaviour is matched for the eight tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from persona.errors import check_least, check_one_of
from persona.lamp.tasks import LOWER_IS_BETTER, LampTask, RecordForm
from persona.prompts import quoted
from persona.protocols import BuiltPrompt, Choices, TextTokenizer
from persona.records import Record

_INPUT_SHARE = 0.6
_STEP = 0.1
_BETWEEN = ", and "
_CITATION = "LaMP_1"


RECORD, SENTENCE = SUMMARY_FORMS = ("record", "sentence")
"""What a note about the user is in an official prompt: a target that stands for all of the user's, worded as the task
words a record, or words before everything else."""

_HEAD = 'About this user: "{}" . '


@dataclass(frozen=True, slots=True)
class LampWording:
    """The official wording of a task, as a `persona.protocols.Wording`.

    Notes about the user, which LaMP does not know, take one of two forms (`SUMMARY_FORMS`)::

        4 is the score for "a typical review of this user" , and 5 is the score for "great thing" . What is the ...
        About this user: "This user gave 39 scores: ..." . 5 is the score for "great thing" . What is the score ...

    The first is for LLMs that were trained on LaMP's prompts, which know records and nothing else. In both the budget
    holds for notes and records together, words take at most half of what the question leaves, and where the question
    leaves nothing there are no notes. LaMP_1 and LaMP_7 have the sentence only.

    Attributes:
        task: whose wording.
        summary_form: one of `SUMMARY_FORMS`; serving takes words, since a request may not be of the task's form.

    Raises:
        InvalidOptionError: if there is no such form.
    """

    task: LampTask
    summary_form: str = SENTENCE

    def __post_init__(self) -> None:
        check_one_of(SUMMARY_FORMS, summary_form=self.summary_form)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def notes_are_targets(self) -> bool:
        """Whether a note is a target that stands for all of the user's, and not words."""
        return self.summary_form == RECORD and self.task.typical_record is not None

    def query(self, prompt: str) -> str:
        """What LaMP's retrievers search for (`LampTask.query`)."""
        return self.task.query(prompt)

    def fits(self, prompt: str) -> bool:
        """Whether `prompt` has the task's form: an instruction with a question after it."""
        return self.task.query(prompt) != prompt.strip()

    def choices(self, prompt: str) -> Choices | None:
        """The labels that `prompt` lists, or the task's own; ratings are ordered."""
        labels = self.task.labels_in(prompt) if self.fits(prompt) else None
        return None if labels is None else Choices(labels, ordered=LOWER_IS_BETTER.issuperset(self.task.metrics))

    def shown(self, record: Record) -> str:
        """The text of `record`, for LaMP_1 its title; empty where it has no target, and the words name one."""
        if self.task.target_field is not None and not record.target:
            return ""
        return record.target or "" if self.task.name == _CITATION else record.text

    def question(self, prompt: str, record: Record) -> str | None:
        """`prompt` with the text of `record` in the place of its own; None for tasks whose records answer nothing.

        In LaMP_1 a record is no such question, and in LaMP_7 it has no target.
        """
        marker = self.task.query_marker
        if marker is None or self.task.target_field is None or not record.target or marker not in prompt:
            return None
        return f"{prompt.partition(marker)[0]}{marker} {record.text}"

    def prompt(
        self, prompt: str, records: Sequence[Record], notes: Sequence[str], tokenizer: TextTokenizer, *, max_length: int
    ) -> BuiltPrompt:
        """The official prompt with records, and notes before them.

        Args:
            prompt: the question as LaMP gives it; it is never cut.
            records: best first.
            notes: targets or words, see the class; an empty one adds nothing.
            tokenizer: the LLM's.
            max_length: the budget for question, records and notes, in tokens, at least 1.
        """
        notes = list(dict.fromkeys(stripped for note in notes if (stripped := note.strip())))
        if not notes:
            return lamp_prompt(self.task, prompt, records, tokenizer, max_length=max_length)
        if self.notes_are_targets:
            typical = [Record(self.task.typical_record or "", target=note) for note in notes]
            built = lamp_prompt(self.task, prompt, [*typical, *records], tokenizer, max_length=max_length)
            own = tuple(record for record in built.records if record not in typical)
            return replace(built, records=own, notes=tuple(notes) if built.records else ())
        return self._with_words(prompt, records, " ".join(notes), tokenizer, max_length)

    def _with_words(
        self, prompt: str, records: Sequence[Record], words: str, tokenizer: TextTokenizer, max_length: int
    ) -> BuiltPrompt:
        prompt_tokens, special = tokenizer.count(prompt), tokenizer.count("")
        room = (max_length - prompt_tokens) // 2
        frame = tokenizer.count(_HEAD.format("word")) - special - 1
        words = quoted(words)
        if tokenizer.count(words) - special > room - frame:
            words = "" if room <= frame else quoted(tokenizer.truncate(words, room - frame + special))
        if not words:
            return lamp_prompt(self.task, prompt, records, tokenizer, max_length=max_length)
        head = _HEAD.format(words)
        left = max_length - (tokenizer.count(head) - special)
        built = lamp_prompt(self.task, prompt, records, tokenizer, max_length=max(left, 1))
        text = head + built.text
        return BuiltPrompt(text, built.records, max(tokenizer.count(text) - prompt_tokens, 0), (words,))


def record_form(task: LampTask) -> str:
    """How the official prompts word a record of `task`, up to the question, with ``{target}`` for what the user made.

    >>> from persona.lamp.tasks import lamp_task
    >>> record_form(lamp_task("LaMP_3"))
    '{target} is the score for "" . '

    The long field is left empty. In LaMP_7, where users only write text, the text itself is what the user made; in
    LaMP_1 it is the title that the official prompts show.
    """
    form = task.form
    if "{target}" in form.piece:
        return form.piece.replace("{text}", "") + form.end
    return form.piece.replace("{text}", "{target}") + form.end


def lamp_prompt(
    task: LampTask, input: str, records: Sequence[Record], tokenizer: TextTokenizer, *, max_length: int
) -> BuiltPrompt:
    """The official prompt for `input` with `records` in it.

    Args:
        task: whose wording to use.
        input: the question as LaMP gives it.
        records: retrieved ones, best first.
        tokenizer: the LLM's.
        max_length: the budget L for question and records, in tokens, at least 1.

    Raises:
        InvalidOptionError: if `max_length` is below 1.
    """
    check_least(1, max_length=max_length)
    input_tokens = tokenizer.count(input)
    share = _INPUT_SHARE
    while records and share >= 0:
        # Repeated subtraction and floor as in the official code: 0.6 - 0.1 - ... is never quite 0.
        room = max_length - min(input_tokens, int(share * max_length))
        pieces = _pieces(task, records, tokenizer, room)
        if pieces is not None:
            text = _with_pieces(task, input, pieces)
            if text == input:
                break
            return BuiltPrompt(text, tuple(records), max(tokenizer.count(text) - input_tokens, 0))
        share -= _STEP
    return BuiltPrompt(input)


def _pieces(task: LampTask, records: Sequence[Record], tokenizer: TextTokenizer, room: int) -> list[str] | None:
    """The records in words, `room` tokens in all; None where that is too little."""
    form = task.form
    share = (room - _joining_tokens(form, len(records), tokenizer)) // len(records)
    saved = 0
    pieces = []
    for record in records:
        target = record.target or ""
        if task.name == _CITATION:
            # A citation's piece is the title alone, and only its quotation marks are set apart.
            text, own = target, 2
        else:
            text, own = record.text, _own_tokens(form, target, tokenizer)
        limit = share + saved - own
        if limit < 0:
            return None
        whole = tokenizer.count(text)
        if limit < tokenizer.count(""):
            limit = whole
        saved += share - min(whole, limit) - own
        pieces.append(form.piece.format(text=tokenizer.truncate(text, limit), target=target))
    return pieces


def _with_pieces(task: LampTask, input: str, pieces: Sequence[str]) -> str:
    joined = _BETWEEN.join(pieces)
    if task.name != _CITATION:
        return f"{joined}{task.form.end}{input}"
    before, title, after = input.partition("title")
    return f"{before}{title}{_BETWEEN}{joined}{after}" if title else input


def _own_tokens(form: RecordForm, target: str, tokenizer: TextTokenizer) -> int:
    """What the official budget counts for a record without its long field."""
    return tokenizer.count((form.counted_piece or form.piece).format(text=" ", target=target))


def _joining_tokens(form: RecordForm, records: int, tokenizer: TextTokenizer) -> int:
    """What it counts for what stands between and after the records."""
    words = tokenizer.count(form.counted_end) if form.counted_end else 0
    return form.end_tokens + words + 2 * (records - 1)
