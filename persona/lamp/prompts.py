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
from dataclasses import dataclass

from persona.errors import InvalidOptionError
from persona.lamp.tasks import LampTask
from persona.protocols import TextTokenizer
from persona.records import Record

_INPUT_SHARE = 0.6
_STEP = 0.1
_BETWEEN = ", and "
_CITATION = "LaMP_1"


@dataclass(frozen=True, slots=True)
class LampPrompt:
    """A question with retrieved records in it.

    Attributes:
        text: what the LLM gets.
        records: the records that stand in `text`, in the order given: all, or none where the budget has no
            room.
        tokens_added: tokens of `text` beyond those of the question.
    """

    text: str
    records: tuple[Record, ...] = ()
    tokens_added: int = 0


@dataclass(frozen=True, slots=True)
class _Form:
    """How a task words its records, and what of it the official budget counts (which is not always the same).

    Attributes:
        piece: one record, with ``{text}`` for the long field, which may be cut, and ``{target}``.
        counted_piece: counted for a record without its long field; None is `piece` around a blank.
        end: what stands between the pieces and the question.
        counted_end: counted for the words of `end`.
        end_tokens: counted for the rest of `end`.
    """

    piece: str
    counted_piece: str | None = None
    end: str = ". "
    counted_end: str = ""
    end_tokens: int = 1

    def own_tokens(self, target: str, tokenizer: TextTokenizer) -> int:
        """What a record takes without its long field."""
        return tokenizer.count((self.counted_piece or self.piece).format(text=" ", target=target))

    def joining_tokens(self, records: int, tokenizer: TextTokenizer) -> int:
        """What stands between and after the pieces."""
        words = tokenizer.count(self.counted_end) if self.counted_end else 0
        return self.end_tokens + words + 2 * (records - 1)


_TITLE = _Form('"{target}" is the title for "{text}" ')
_FORMS = {
    "LaMP_2": _Form('the tag for the movie: "{text}" is "{target}" '),
    "LaMP_2N": _Form('the category for the article: "{text}" is "{target}" '),
    "LaMP_3": _Form('{target} is the score for "{text}" '),
    "LaMP_4": _TITLE,
    "LaMP_5": _Form(
        '"{target}" is a title for "{text}" ',
        counted_piece='"{target}" is title for " " ',
        end=". Following the given patterns ",
        counted_end="Following the given patterns",
    ),
    "LaMP_6": _TITLE,
    "LaMP_7": _Form(
        '"{text}" ',
        end=" are written by a person. Following the given patterns ",
        counted_end="are written by user. Following the given patterns",
    ),
    _CITATION: _Form('"{text}"', end="", end_tokens=0),
}


def record_form(task: LampTask) -> str:
    """How the official prompts word a record of `task`, up to the question, with ``{target}`` for what the user made.

    >>> record_form(lamp_task("LaMP_3"))
    '{target} is the score for "" . '

    The long field is left empty. In LaMP_7, where users only write text, the text itself is what the user made; in
    LaMP_1 it is the title that the official prompts show.
    """
    form = _FORMS[task.name]
    if "{target}" in form.piece:
        return form.piece.replace("{text}", "") + form.end
    return form.piece.replace("{text}", "{target}") + form.end


def lamp_prompt(
    task: LampTask,
    input: str,
    records: Sequence[Record],
    tokenizer: TextTokenizer,
    *,
    max_length: int,
) -> LampPrompt:
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
    if max_length < 1:
        raise InvalidOptionError(f"`max_length` must be at least 1, was: {max_length}")
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
            return LampPrompt(text, tuple(records), max(tokenizer.count(text) - input_tokens, 0))
        share -= _STEP
    return LampPrompt(input)


def _pieces(task: LampTask, records: Sequence[Record], tokenizer: TextTokenizer, room: int) -> list[str] | None:
    """The records in words, `room` tokens in all; None where that is too little."""
    form = _FORMS[task.name]
    share = (room - form.joining_tokens(len(records), tokenizer)) // len(records)
    saved = 0
    pieces = []
    for record in records:
        target = record.target or ""
        if task.name == _CITATION:
            # A citation's piece is the title alone, and only its quotation marks are set apart.
            text, own = target, 2
        else:
            text, own = record.text, form.own_tokens(target, tokenizer)
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
        return f"{joined}{_FORMS[task.name].end}{input}"
    before, title, after = input.partition("title")
    return f"{before}{title}{_BETWEEN}{joined}{after}" if title else input
