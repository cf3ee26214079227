"""PersonaMem: which of four answers fits the person as of now? (Jiang et al., arXiv 2504.14225 and 2512.06688)

    questions_32k.csv          version 1: persona_id,question_id,question_type,user_question_or_message,correct_answer,
                               all_options,shared_context_id,end_index_in_shared_context
    shared_contexts_32k.jsonl  {"CONTEXT_ID": [{"role": "user", "content": ...}, ...]}
    benchmark.csv              version 2: persona_id,user_query,correct_answer,incorrect_answers,pref_type,
                               chat_history_32k_link (a path in the folder to {"chat_history": [{"role": ...}, ...]})

The history of a question is the conversation up to it (`end_index_in_shared_context`). The message of the system at its
beginning describes the person: it is left out unless it is asked for, since it gives away what is to be remembered.

=====================  =================================================================================================
``accuracy``           the option that an answer names (`persona.eval.benchmarks.letters.chosen_letter`)
``official accuracy``  the published reading. Version 1 falls back to letters that stand alone, so that the article "a"
                       reads as option (a); version 2 takes the first letter of whatever follows "answer:". Both leave
                       failed requests out of the mean, which here have an empty answer and count as wrong. Version 2
                       shuffles options by Python's `hash`, which is another in each run; here the order is the
                       question's
=====================  =================================================================================================
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

from persona.errors import check_one_of
from persona.eval.benchmark import Benchmark, Question
from persona.eval.benchmarks.letters import LETTERS, chosen_letter, lettered, option_baselines, shuffled
from persona.eval.benchmarks.reading import Part, files_in, read_json, read_json_lines, read_table, turns_of
from persona.eval.metrics import ACCURACY, Metric, Samples, mean_of_sums
from persona.eval.report import OFFICIAL
from persona.eval.results.samples import column, unlabelled
from persona.records import Profile, Record

SIZES = ("32k", "128k", "1M")
_PROMPT = "{question}\n\nWhich of these answers fits me best?\n{options}\nAnswer with its letter alone."
_LETTER = re.compile(r"^\s*\(([a-h])\)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PersonaMemOptions:
    """What of PersonaMem is asked.

    Attributes:
        size: of the histories: 32k, 128k or 1M tokens.
        kinds: comma list of types of questions; empty for all.
        system: keep the system's description of the person in the history.
        shuffle: seed of the order of options in version 2.
    """

    size: str = SIZES[0]
    kinds: tuple[str, ...] = ()
    system: bool = False
    shuffle: int = 41

    def __post_init__(self) -> None:
        check_one_of(SIZES, size=self.size)


class PersonaMem(Benchmark):
    """PersonaMem's questions; see the module.

    Args:
        questions: with options.
        version: 1 or 2.
    """

    Options = PersonaMemOptions
    source = "get bowen-upenn/PersonaMem (version 1) or PersonaMem-v2 of the Hugging Face hub, the whole folder"
    name = "personamem"
    licence = "MIT; version 2 CC-BY-4.0"
    defects: Mapping[str, str] = MappingProxyType(
        {f"{OFFICIAL}accuracy": "reads letters that name no option, such as the article a"}
    )

    def __init__(self, questions: Sequence[Question], version: int) -> None:
        self.questions, self.version = tuple(questions), version
        self.licence = "MIT" if version == 1 else "CC-BY-4.0"
        self.metrics = (ACCURACY, Metric(f"{OFFICIAL}accuracy", True, unlabelled, mean_of_sums))

    @classmethod
    def read(cls, path: str | PathLike[str], **options: object) -> PersonaMem:
        """The questions of a folder; options as `PersonaMemOptions`. It is of version 2 if it holds ``benchmark.csv``.

        Raises:
            DataFormatError: if a file is missing or of another form.
        """
        wanted, folder = PersonaMemOptions(**options), Path(path)  # type: ignore[arg-type]
        (second,) = sorted(folder.rglob("benchmark.csv"))[:1] or (None,)
        if second is not None:
            questions = _second(second, folder, wanted)
        else:
            questions = _first(files_in(folder, f"questions_{wanted.size}.csv")[0], folder, wanted)
        return cls(questions, 1 if second is None else 2)

    def baselines(self, questions: Sequence[Question]) -> Mapping[str, Sequence[str]]:
        """What can be chosen without an LLM (`persona.eval.benchmarks.letters.option_baselines`)."""
        return option_baselines(questions)

    def score(self, questions: Sequence[Question], answers: Sequence[str]) -> Samples:
        """Whether the option is the right one, by both readings."""
        read = official_first if self.version == 1 else official_second
        pairs = list(zip(questions, answers, strict=True))
        return {
            ACCURACY.name: column([chosen_letter(answer, LETTERS[:4]) == each.gold for each, answer in pairs]),
            f"{OFFICIAL}accuracy": column([read(answer) == each.gold for each, answer in pairs]),
        }


def official_first(answer: str) -> str | None:
    """Version 1's reading: letters in brackets, of them all the same, or else letters that stand alone."""
    text = answer.lower().split("<final_answer>")[-1].removesuffix("</final_answer>")
    found = set(re.findall(r"\(([a-d])\)", text)) or set(re.findall(r"\b([a-d])\b", text))
    return found.pop().upper() if len(found) == 1 else None


def official_second(answer: str) -> str | None:
    """Version 2's reading: the first letter after "answer:", of whatever word."""
    for pattern in (r"answer:\s*([A-Z])", r"\b([A-Z])\.\s*$"):
        if match := re.search(pattern, answer, re.IGNORECASE | re.MULTILINE):
            return match[1].upper()
    return None


def _first(path: Path, folder: Path, wanted: PersonaMemOptions) -> list[Question]:
    contexts: dict[str, list[Part]] = {}
    for line in read_json_lines(folder / f"shared_contexts_{wanted.size}.jsonl"):
        contexts |= {name: messages.parts for name, messages in line.items}
    records: dict[str, list[tuple[int, Record]]] = {}
    questions = []
    for row in read_table(path):
        kind = row["question_type"].filled
        if wanted.kinds and kind not in wanted.kinds:
            continue
        context = row["shared_context_id"].filled
        if context not in contexts:
            row["shared_context_id"].refuse(f"there is no such context: {context!r:.80}")
        if context not in records:
            records[context] = _numbered(contexts[context], context, wanted)
        end = _number(row["end_index_in_shared_context"])
        before = tuple(record for number, record in records[context] if number < end)
        options = [_LETTER.sub("", each.filled) for each in _literal(row["all_options"]).parts]
        gold = row["correct_answer"].filled.strip().strip("()").upper()
        if gold not in LETTERS[: len(options)] or len(gold) != 1:
            row["correct_answer"].refuse(f"it must name one of {len(options)} options, was: {gold!r:.80}")
        asked = row["user_question_or_message"].filled
        questions.append(_question(row, row["question_id"].filled, kind, before, asked, options, gold))
    return questions


def _second(path: Path, folder: Path, wanted: PersonaMemOptions) -> list[Question]:
    histories: dict[str, tuple[Record, ...]] = {}
    questions = []
    for index, row in enumerate(read_table(path)):
        kind = row["pref_type"].filled
        if wanted.kinds and kind not in wanted.kinds:
            continue
        link = row[f"chat_history_{wanted.size}_link"].filled
        if link not in histories:
            place = (folder / link).resolve()
            if not place.is_relative_to(folder.resolve()):
                row.refuse(f"a history must lie in the folder, this one does not: {link!r:.80}")
            messages = read_json(place)
            messages = messages["chat_history"] if isinstance(messages.value, dict) else messages
            histories[link] = tuple(record for _, record in _numbered(messages.parts, place.stem, wanted))
        wrong = [each.filled for each in _literal(row["incorrect_answers"]).parts]
        options, name = [row["correct_answer"].filled, *wrong], f"{row['persona_id'].filled}:{index}"
        order = shuffled(options, wanted.shuffle, name)
        query = _literal(row["user_query"])
        asked = query["content"].filled if isinstance(query.value, dict) else query.filled
        shown, gold = [options[place] for place in order], LETTERS[order.index(0)]
        questions.append(_question(row, name, kind, histories[link], asked, shown, gold))
    return questions


def _question(
    row: Part, name: str, kind: str, records: Sequence[Record], asked: str, options: Sequence[str], gold: str
) -> Question:
    if not 2 <= len(options) <= 4:
        row.refuse(f"there must be 2 to 4 options, were: {len(options)}")
    person = row["persona_id"].filled
    with row.located():
        profile = Profile(person, tuple(records))
    return Question(
        id=name,
        user_id=person,
        profile=profile,
        prompt=_PROMPT.format(question=asked, options=lettered(options)),
        query=asked,
        gold=gold,
        choices=tuple(LETTERS[: len(options)]),
        kind=kind,
    )


def _numbered(messages: Sequence[Part], name: str, wanted: PersonaMemOptions) -> list[tuple[int, Record]]:
    """The messages of a history as records, with their numbers in it."""
    records = turns_of(messages, name)
    return [(int(each.id.rpartition(":")[2]), each) for each in records if wanted.system or each.role != "system"]


def _number(part: Part) -> int:
    if not re.fullmatch(r"\d{1,9}", part.text.strip()):
        part.refuse(f"a whole number must stand here, was: {part.text!r:.80}")
    return int(part.text)


def _literal(part: Part) -> Part:
    """A value that a cell holds as JSON or as Python writes it; a text that is neither stays one."""
    text = part.filled.strip()
    if text[0] not in "[{":
        return part
    value: Any
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return part.json
    return Part(value, part.source, part.place)
