"""Summaries in requests: read and never made there, for their user alone, within the budget."""

from __future__ import annotations

import pytest

from persona.assembly import personalize
from persona.channels import Ask
from persona.errors import InvalidOptionError
from persona.llm.load import load_llm
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.personalizer import Personalizer
from persona.prompts import PromptBuilder
from persona.records import Profile, Record
from persona.retrievers.channel import RecordsChannel
from persona.retrievers.registry import make_retriever
from persona.store.profile_store import ProfileStore
from persona.summaries.channel import SummaryChannel
from persona.summaries.statistics import profile_stats
from persona.summaries.stored import StoredSummaries, summarize_users
from persona.summaries.writing import SummaryOptions
from tests.summaries.conftest import Asked, records


def recent(k: int = 1) -> RecordsChannel:
    return RecordsChannel(make_retriever("recency"), k)


def test_a_request_reads_what_is_there_and_makes_nothing(store: ProfileStore, asked: Asked) -> None:
    summarize_users(store, asked.llm)
    before = len(asked.prompts)
    llm = load_llm(lambda prompt: "answer", name="answers")
    channel = SummaryChannel(written=StoredSummaries(store, stale_after=1))
    personalizer = Personalizer(llm, store, [recent(), channel])
    answer = personalizer.generate("ana", "What now?")
    assert answer.notes == ("saw 3 quotations",)
    assert answer.sources == ("llm:free:instruct-1:callable:asked",)
    assert 'About this user: "saw 3 quotations"' in answer.prompt
    assert answer.prompt.endswith("\nWhat now?")
    assert len(answer.records) == 1
    assert answer.channels == ("records", "summary")
    # Without records it stands alone, and is counted.
    alone = Personalizer(llm, store, [channel]).generate("ana", "What now?")
    assert not alone.records
    assert 0 < alone.tokens_added < answer.tokens_added
    assert alone.tokens_added == len(alone.prompt.split()) - 2
    # One record behind is near enough, two are not.
    store.upsert(("ana", record) for record in records(1, start=50))
    assert personalizer.generate("ana", "What now?").notes == ("saw 3 quotations",)
    store.upsert(("ana", record) for record in records(1, start=60))
    assert personalizer.generate("ana", "What now?").notes == ()
    assert len(asked.prompts) == before


def test_users_never_share_a_summary(store: ProfileStore) -> None:
    store.upsert([("cy", Record("nobody wrote about me"))])
    summarize_users(store, load_llm(lambda prompt: str(prompt.count("\n- ")), name="counts"))
    channel = SummaryChannel(written=StoredSummaries(store, stale_after=None))
    personalizer = Personalizer(load_llm(lambda prompt: prompt), store, [channel])
    answers = personalizer.batch([("ana", "Q"), ("bo", "Q"), ("cy", "Q"), ("dora", "Q"), ("ana", "Q")])
    assert [answer.notes for answer in answers] == [("3",), ("2",), ("1",), (), ("3",)]
    assert answers[3].abstained


def test_statistics_need_no_store_and_both_stand_one_after_the_other(store: ProfileStore, asked: Asked) -> None:
    summarize_users(store, asked.llm, SummaryOptions(task="LaMP_3"))
    profile = store.profile("ana")
    stats = profile_stats(profile, "LaMP_3")
    ask = Ask(profile, "Q", "Q")
    (contribution,) = SummaryChannel("stats", task="LaMP_3").contribute([ask])
    assert (contribution.notes, contribution.source) == ((stats.text,), "stats:LaMP_3:scores")
    (contribution,) = SummaryChannel("both", StoredSummaries(store, "LaMP_3"), task="LaMP_3").contribute([ask])
    assert contribution.notes == (stats.text, "saw 3 quotations")
    assert contribution.source == "stats:LaMP_3:scores + llm:LaMP_3:instruct-1:callable:asked"
    (contribution,) = SummaryChannel("stats", task="LaMP_3", as_target=True).contribute([ask])
    assert contribution.notes == (stats.target,) == ("4",)
    answer = personalize(lambda prompt: prompt, "ana", "Q", store=store, k=0, summary="stats", task="LaMP_3")
    assert "median 4" in answer


def test_an_ask_is_answered_from_its_own_profile() -> None:
    """An evaluation asks for one user on two days, and with another user's history."""
    profiles = [Profile("ana", (Record("film", target=score),)) for score in ("2", "5")]
    asks = [Ask(profile, "Q", "Q") for profile in (*profiles, profiles[0], Profile("ana"))]
    channel = SummaryChannel("stats", task="LaMP_3", as_target=True)
    assert [given.notes for given in channel.contribute(asks)] == [("2",), ("5",), ("2",), ()]


def test_a_summary_keeps_to_the_budget_and_the_question_is_whole(store: ProfileStore) -> None:
    """Row 24 of docs/papers.md: a summary written offline and few records beside it, within one budget."""
    builder = PromptBuilder(WhitespaceTokenizer(), max_tokens=48, least=8)
    store.upsert([("dora", Record(" ".join(f"w{n}" for n in range(60)), target="5"))])
    summarize_users(store, load_llm(lambda prompt: " ".join(f"s{n}" for n in range(500)), name="talks"))
    question = " ".join(f"q{n}" for n in range(100))
    channels = [recent(), SummaryChannel(written=StoredSummaries(store))]
    llm = load_llm(lambda prompt: "")
    answer = Personalizer(llm, store, channels, builder=builder).generate("dora", question)
    assert answer.prompt.endswith(question)
    assert 0 < answer.tokens_added <= 48
    assert answer.notes[0].endswith("…")
    assert answer.records
    empty = Personalizer(llm, store, channels, builder=PromptBuilder(WhitespaceTokenizer(), max_tokens=0))
    assert empty.generate("dora", question).notes == ()


def test_options_are_checked(store: ProfileStore) -> None:
    with pytest.raises(InvalidOptionError, match="must be one of stats, llm, both, was: 'all'"):
        SummaryChannel("all")
    with pytest.raises(InvalidOptionError, match="written by an LLM: give"):
        SummaryChannel("llm")
    with pytest.raises(InvalidOptionError, match="`stale_after` must be at least 0, was: -1"):
        StoredSummaries(store, stale_after=-1)
