"""Views of a record, and the concepts that they show of a user."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from persona.errors import InvalidOptionError
from persona.lamp.tasks import MOVIE_TAGS, LampSplit, Question, lamp_task
from persona.records import Profile, Record
from persona.soft_prompts.parts.registry import fitted, made, parsed
from persona.soft_prompts.parts.views.concepts import ConceptsView
from persona.soft_prompts.parts.views.label import LabelView
from persona.soft_prompts.parts.views.metadata import MetadataView
from persona.soft_prompts.training.options import UserEmbedderShape
from persona.soft_prompts.training.user_embedder import new_user_embedder
from tests.soft_prompts.splits import world_split


def test_metadata_fields_add_up() -> None:
    """Rows 8 and 16: each field is a name and its words, of a fixed size and without a vocabulary."""
    fields = (
        Record("A", metadata={"genre": "film noir"}),
        Record("A", role="user"),
        Record("A", metadata={"genre": "film noir"}, role="user"),
        Record("A"),
        Record("A", metadata={"mood": "film noir"}),
        Record("A", metadata={"role": "user"}),
    )
    genre, role, both, nothing, mood, named = MetadataView(dim=4096).read(Profile("ana", fields))
    np.testing.assert_allclose(genre + role, both)
    assert not nothing.any()
    # One for the name, and each of two words by the root of two.
    np.testing.assert_allclose(sorted(np.abs(genre[genre != 0])), [2**-0.5, 2**-0.5, 1], rtol=1e-6)
    assert np.abs(genre @ mood) < 1e-6
    assert np.abs(role @ named) < 1e-6  # a field of that name is another


def test_equal_labels_have_equal_numbers_and_no_others() -> None:
    """Row 8: the target as a category."""
    records = [Record("A", target=tag) for tag in (*MOVIE_TAGS, MOVIE_TAGS[0].upper(), "one two three four five")]
    *tags, again, long, none = LabelView().read(Profile("ana", (*records, Record("A"))))
    np.testing.assert_array_equal(np.abs(tags), 1)
    np.testing.assert_array_equal(tags[0], again)
    assert all((one != other).any() for one, other in combinations(tags, 2))
    assert not long.any()
    assert not none.any()


def test_concepts_are_read_from_target_and_words() -> None:
    """Row 6: explicit dimensions, e.g. skills."""
    view = ConceptsView(names=("jazz", "5", "dark comedy", "opera"))
    profile = Profile("ana", (Record("Jazz, jazz!", target="5"), Record("5 dark", target="Dark Comedy"), Record("No.")))
    np.testing.assert_array_equal(view.read(profile), [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    for names in ((), ("Jazz", "jazz")):
        with pytest.raises(InvalidOptionError, match="needs different `names`"):
            ConceptsView(names=names)


def test_concepts_are_taken_from_the_training_split() -> None:
    """Row 6: labels, then words that tell users apart: of two of four users before three of four, and not of one."""
    texts = {"a": "opera jazz rare", "b": "opera jazz the", "c": "jazz noir", "d": "noir film"}
    questions = [
        Question(user, f"input {user}", user, Profile(user, (Record(text, target=None),)))
        for user, text in texts.items()
    ]
    split = LampSplit(lamp_task("LaMP_3"), tuple(questions), dict.fromkeys(texts, "4"), None)
    (name, options), (other, _) = parsed(fitted("concepts(words=3) + time", split))
    labels = list(split.task.labels or ("4",))
    assert (name, other) == ("concepts", "time")
    assert options["names"] == [*labels, "noir", "opera", "jazz"]
    assert parsed(fitted("concepts(names=['x'])", split)) == [("concepts", {"names": ["x"]})]


def test_a_new_user_embedder_keeps_the_names_of_its_concepts(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    """Row 6."""
    shape = UserEmbedderShape(width=16, views="concepts(words=5)", pooling="heads + concepts", copies=False)
    embedder = new_user_embedder(tiny, world_split("LaMP_2", 8), encoder, shape)
    (view,) = made("view", embedder.config.views)
    assert view.dim == len(MOVIE_TAGS) + 5
    (pooling,) = embedder.pooling.poolings
    assert pooling.names == list(view.columns)
    embedder.save_pretrained(tmp_path)
    assert pooling.names[0] in (tmp_path / "config.json").read_text()
