"""Synthetic records (row 50): flagged, kept beside the user's own, counted and trained on by nobody, erased."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.synthetic_records import (
    SyntheticChannel,
    SyntheticOptions,
    synthesize,
    synthetic_records,
    write_synthetic,
)
from persona.adapters.examples import history_examples, text_examples
from persona.channels import Ask
from persona.errors import DataFormatError, InvalidOptionError
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.records import SYNTHETIC, Profile, Record
from persona.store.profile_store import ProfileStore
from persona.summaries.statistics import profile_stats
from tests.summaries.conftest import Asked


@pytest.mark.parametrize(
    ("form", "shown"), [("basic", ()), ("tags", ("often gives the labels: 4",)), ("context", ("text0",))]
)
def test_the_forms_show_the_llm_what_they_say(
    asked: Asked, store: ProfileStore, form: str, shown: tuple[str, ...]
) -> None:
    profile = store.profile("ana")
    (record,) = write_synthetic(asked.llm, profile, ["A film?"], SyntheticOptions(form=form))
    assert (record.text, record.metadata[SYNTHETIC]) == ("A film?", f"{form}:{asked.llm.fingerprint}")
    (prompt,) = asked.prompts
    assert all(each in prompt for each in shown)
    assert ("text0" in prompt) == (form == "context")
    assert prompt.endswith('"A film?"')


def test_they_are_no_records_of_the_user(asked: Asked, store: ProfileStore, tmp_path: Path) -> None:
    before, counts = store.profile("ana"), store.counts()
    assert synthesize(store, asked.llm, ["A film?", "A book?"], SyntheticOptions(below=3)) == 1, "ana has 3 records"
    assert synthetic_records(store, before) == ()
    assert synthesize(store, asked.llm, ["A film?", "A book?"]) == 1, "bo's are there"
    made = synthetic_records(store, before)
    assert [each.text for each in made] == ["A film?", "A book?"]
    assert store.profile("ana") == before
    assert store.counts().records == counts.records
    # Among records by hand they are no examples, and no store takes them.
    mixed = Profile("ana", (*before, *made))
    assert history_examples(mixed) == history_examples(before)
    assert text_examples(mixed) == text_examples(before)
    assert profile_stats(store.profile("ana"), "LaMP_3") == profile_stats(before, "LaMP_3")
    with pytest.raises(DataFormatError, match="LLM wrote"):
        store.upsert([("ana", made[0])])
    # Shown as what they are, and not as records; gone when the records change, and with the user.
    channel = SyntheticChannel(store, k=1)
    answer = Personalizer(load_llm(str.upper), store, [channel]).generate("ana", "Q?")
    assert answer.notes[0].startswith("Written by an LLM in this user's place, not by the user: 'A film?' ->")
    store.upsert([("ana", Record("a new one"))])
    assert channel.contribute([Ask(store.profile("ana"), "Q?", "Q?")])[0].notes == ()
    store.forget("ana")
    store.forget("bo")
    store.close()
    assert b"A film?" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_form_that_is_not_there() -> None:
    with pytest.raises(InvalidOptionError, match="basic, tags, context"):
        SyntheticOptions(form="guess")
