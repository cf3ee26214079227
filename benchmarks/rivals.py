"""Other memories on the same questions: what each finds, what it costs, whom it mixes up and what it forgets.

    python -m benchmarks.rivals locomo10.json [--conversations 2] [--limit 100] [--answers 20] [--rows bm25,mem0]

All read the same turns with speaker and day (`Record.view("turn")`), and the same encoder. mem0 runs in an environment
of its own, which is made in `--env` with the usual pip, its telemetry off; encoder and LLM come to it from a local
service. CPU seconds are of all processes of a row. A row that cannot be run is listed below the table with the reason.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.memories.service import Service, scripted, serving
from benchmarks.memories.stores import LangChainStore, Mem0, NotRunError, PersonaMemory, Rival
from persona.channels import Channel
from persona.encoders.load import load_encoder
from persona.errors import PersonaError
from persona.eval.benchmark import Benchmark, Question
from persona.eval.benchmarks.named import drawn
from persona.eval.benchmarks.registry import load_benchmark
from persona.eval.benchmarks.retrieval import evaluate_retrieval
from persona.eval.benchmarks.whole_history import WholeHistory
from persona.eval.methods import Method
from persona.eval.report import Report, interval_cell, markdown
from persona.eval.run import evaluate
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.prompts import PromptBuilder
from persona.protocols import BoundedPrompt, GenerationOptions, LanguageModel, Message, Request, Retriever
from persona.records import Profile
from persona.retrievers import BM25Retriever, ConversationRetriever, DenseRetriever, ProfileRetriever
from persona.retrievers.base import Ranking
from persona.retrievers.channel import RecordsChannel
from persona.store.profile_store import ProfileStore

FULL = "full context"
PLATFORM = "mem0's platform, its graph memory and its rerankers: they need a key or a service"
_UNUSUAL = 200
_ALL = 2**31


@dataclass(frozen=True, slots=True)
class Measured:
    """A row.

    Attributes:
        version: what was run.
        missing: what of it could not be.
        found: user and query -> what was found.
        until_first: CPU seconds to add all turns, and for the first question of each user.
        milliseconds: CPU time of a further question.
        tokens: mean tokens of what was found in a request.
        foreign: turns of other users that were found, over all questions and for a user who has none.
        left: of the unusual words of a user, how many stand in the memory's files before and after he is deleted.
        places: the files that still have some.
    """

    version: str
    missing: Sequence[str]
    found: Mapping[tuple[str, str], Ranking]
    until_first: float
    milliseconds: float
    tokens: float
    foreign: int
    left: tuple[int, int]
    places: Sequence[str]


class Found(ProfileRetriever):
    """What was found, found again."""

    def __init__(self, row: Measured) -> None:
        self._found = row.found

    def rank(self, profile: Profile, query: str, k: int) -> Ranking:
        return self._found[profile.user_id, query][:k]


def measured(rival: Rival, folder: Path, questions: Sequence[Question], k: int, builder: PromptBuilder) -> Measured:
    """Add all turns, ask all questions, ask as a stranger, and delete the first user."""
    profiles = list({each.user_id: each.profile for each in questions}.values())
    begun = rival.seconds()
    for profile in profiles:
        rival.add(profile)
    for question in {each.user_id: each for each in reversed(questions)}.values():
        rival.retrieve(question.profile, question.query, k)
    until_first, begun = rival.seconds() - begun, rival.seconds()
    rankings = rival.retrieve_batch([each.profile for each in questions], [each.query for each in questions], k)
    spent = rival.seconds() - begun
    sizes = [sum(builder.size(one.record) for one in some) for some in rankings]
    foreign = rival.foreign + sum(len(rival.find("stranger", each.query, k)) for each in questions[:20])
    gone = profiles[0]
    words = unusual(gone, profiles[1:])
    before = words_in(folder, words)
    rival.forget(gone.user_id)
    found = [rival.find(gone.user_id, each.query, k) for each in questions[:20]]
    assert not any(found), f"{gone.user_id} was deleted and is still found"
    after = words_in(folder, words)
    return Measured(
        rival.version,
        rival.missing,
        {(each.user_id, each.query): some for each, some in zip(questions, rankings, strict=True)},
        until_first,
        1e3 * spent / len(questions),
        float(np.mean(sizes)),
        foreign,
        (len(set().union(*before.values())), len(set().union(*after.values()))),
        sorted(after),
    )


def unusual(profile: Profile, others: Sequence[Profile]) -> list[str]:
    """The longest words of a user that nobody else has, `_UNUSUAL` at most."""
    rest = "\n".join(record.text for other in others for record in other).lower()
    words = {word for record in profile for word in re.findall(r"[A-Za-z]{6,}", record.text)}
    return sorted((word for word in words if word.lower() not in rest), key=lambda word: (-len(word), word))[:_UNUSUAL]


def words_in(folder: Path, words: Sequence[str]) -> dict[str, set[str]]:
    """The words that stand in the bytes of each file of a folder; files without any are left out."""
    found = {}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        content = path.read_bytes()
        if some := {word for word in words if word.encode() in content}:
            found[str(path.relative_to(folder))] = some
    return found


def rivals(options: argparse.Namespace, service: Service) -> dict[str, Callable[[Path], Rival]]:
    """What makes each row in a folder."""
    encoder = service.encoder
    return {
        "conversation": lambda folder: PersonaMemory(folder, lambda _: ConversationRetriever(options.model)),
        "bm25": lambda folder: PersonaMemory(folder, lambda _: BM25Retriever("turn")),
        "dense": lambda folder: PersonaMemory(folder, lambda store: DenseRetriever(encoder, store, "turn"), encoder),
        "langchain": lambda folder: LangChainStore(folder, encoder),
        "mem0": lambda folder: Mem0(folder, options.env, service),
        "mem0 with keywords": lambda folder: Mem0(folder, options.env, service, keywords=True),
    }


def inferred(options: argparse.Namespace, service: Service, profile: Profile, llm: LanguageModel) -> list[str]:
    """What mem0 makes of the first turns with an LLM: a scripted one, and the given one if its requests fit."""
    lines = []
    limit = llm.prompt_limit(GenerationOptions(max_new_tokens=512)) if isinstance(llm, BoundedPrompt) else None

    def ask(messages: Sequence[Mapping[str, str]]) -> str:
        turns = tuple(Message(cast(Any, each["role"]), each["content"]) for each in messages[:-1])
        request = Request(messages[-1]["content"], turns=turns)
        return llm.generate([request], GenerationOptions(max_new_tokens=512))[0]

    for name, chat in (("a scripted LLM, which gives back each turn", scripted), (llm.fingerprint, ask)):
        sizes = [sum(llm.tokenizer.count(each["content"]) for each in asked) for asked in service.asked]
        if chat is ask and limit is not None and max(sizes) > limit:
            lines.append(f"mem0 with inference by {name}: a request has {max(sizes)} tokens, it takes {limit}")
            continue
        service.asked.clear()
        service.chat = chat
        with tempfile.TemporaryDirectory() as folder:
            rival = Mem0(Path(folder), options.env, service, infer=True)
            try:
                begun = rival.seconds()
                kept = rival.remember(profile, options.infer)
                spent = rival.seconds() - begun
            finally:
                rival.close()
        sizes = [sum(llm.tokenizer.count(each["content"]) for each in asked) for asked in service.asked]
        lines.append(
            f"mem0 with inference by {name}: {options.infer} turns, {len(service.asked)} requests of "
            f"{np.mean(sizes):.0f} tokens, {len(kept)} memories, {spent:.1f} CPU seconds"
        )
    return lines


def answers(
    benchmark: Benchmark, found: Mapping[str, Retriever], llm: LanguageModel, options: argparse.Namespace
) -> str:
    """The table of answers."""
    few = drawn(benchmark, options.answers, 0)
    generation = GenerationOptions(max_new_tokens=32)
    builder = PromptBuilder.of(llm, max_tokens=options.context)
    with tempfile.TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{folder}/answers.db") as store:

        def method(name: str, *channels: Channel, k: int = 0, most: PromptBuilder = builder) -> Method:
            return Method(name, (Personalizer(llm, store, channels, builder=most, options=generation),), k)

        whole = WholeHistory(llm, builder, generation, options.context)
        rows = [method("none"), method(FULL, whole, most=replace(builder, max_tokens=_ALL))]
        rows += [method(name, RecordsChannel(row, options.k), k=options.k) for name, row in found.items()]
        return evaluate(few, rows, []).markdown()


def table(rows: Mapping[str, Measured], report: Report, k: int, whole: float) -> str:
    """The table of memories."""
    header = [
        "memory",
        f"recall@{k} [95 %]",
        "s to the first answers",
        "ms a question",
        "tokens",
        "others' turns found",
    ]
    cells = [[*header, "words left of a deleted user (before)"]]
    for name, row in rows.items():
        score = interval_cell(report[name].scores[f"recall@{k}"])
        numbers = [f"{row.until_first:.1f}", f"{row.milliseconds:.1f}", f"{row.tokens:.0f}", str(row.foreign)]
        cells.append([name, score, *numbers, f"{row.left[1]} ({row.left[0]})"])
    return markdown([*cells, [FULL, "1.000", "0.0", "0.0", f"{whole:.0f}", "0", "-"]])


def main(given: Sequence[str] | None = None) -> None:
    options = parsed(given)
    benchmark = copy(load_benchmark("locomo", options.data))
    benchmark.questions = [each for each in benchmark.questions if each.evidence]
    users = list(dict.fromkeys(each.user_id for each in benchmark.questions))[: options.conversations]
    benchmark.questions = [each for each in benchmark.questions if each.user_id in users]
    questions = (benchmark := drawn(benchmark, options.limit, 0)).questions
    profiles = list({each.user_id: each.profile for each in questions}.values())
    llm = load_llm(options.llm)
    builder = PromptBuilder.of(llm, max_tokens=_ALL)
    rows: dict[str, Measured] = {}
    unable = [PLATFORM]
    with serving(load_encoder(options.encoder)) as service:
        made = rivals(options, service)
        for name in options.rows.split(",") if options.rows else made:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    rival = made[name](Path(folder))
                    try:
                        rows[name] = measured(rival, Path(folder), questions, options.k, builder)
                    finally:
                        rival.close()
                except (NotRunError, OSError, PersonaError) as error:
                    unable.append(f"{name}: {error}")
                    continue
            unable += [f"{name}: {each}" for each in rows[name].missing]
            print(f"{name}: {rows[name].version}, files with words left: {rows[name].places or 'none'}", flush=True)
        found = {name: Found(row) for name, row in rows.items()}
        sizes = {each.user_id: sum(map(builder.size, each)) for each in profiles}
        whole = float(np.mean([sizes[each.user_id] for each in questions]))
        report = evaluate_retrieval(benchmark, found, (options.k,))
        print(f"\n{len(questions)} questions, {sum(map(len, profiles))} turns of {len(profiles)} conversations\n")
        print(table(rows, report, options.k, whole), report.markdown(), sep="\n\n")
        if options.infer and "mem0" in rows:
            print("", *inferred(options, service, profiles[0], llm), sep="\n")
        if options.answers:
            print("", answers(benchmark, found, llm, options), sep="\n")
    print("\nNot run:", *unable, sep="\n- ")


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", default="", help="some of the rows, with commas")
    parser.add_argument("--conversations", type=int, help="only the first so many")
    parser.add_argument("--limit", type=int, help="only so many questions, drawn at random")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--answers", type=int, default=0, help="so many questions are answered, too")
    parser.add_argument("--context", type=int, default=1536, help="most tokens of turns in a request that is answered")
    parser.add_argument("--infer", type=int, default=20, help="turns that mem0 adds with an LLM; 0 for none")
    parser.add_argument("--env", type=Path, default=Path.home() / ".cache/persona/rivals", help="environment of mem0")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--model", default="minilm", help="of conversation")
    parser.add_argument("--llm", default="smollm2", help="counts tokens, and answers")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
