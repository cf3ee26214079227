"""What users share, and which of it tells a group from the others."""

from __future__ import annotations

from collections import Counter

import numpy as np

from persona.population.features import features_of, telling, words_of
from persona.records import Profile, Record


def test_features_are_labels_words_and_fields() -> None:
    record = Record("The LIGHTHOUSE of Ys", target="rose red", metadata={"country": "CH"})
    found = features_of(Profile("ana", (record, record)))
    assert found == {"label:rose red": 2, "word:the": 2, "word:lighthouse": 2, "country:CH": 2}
    title = features_of(Profile("ben", (Record("Ys.", target="Storm over the bay"),)))
    assert {"word:storm", "word:over", "word:bay"} <= set(title)
    assert set(words_of("a lighthouse")) == {"word:lighthouse"}


def test_what_a_group_has_by_chance_is_not_told() -> None:
    draw = np.random.default_rng(0)
    groups = [Counter({f"word:{n}": int(draw.binomial(200, 0.3)) for n in range(500)}) for _ in range(2)]
    assert list(telling(groups, [200, 200])) == [{}, {}]
    groups[0]["word:own"], groups[1]["word:few"] = 150, 9
    assert [set(each) for each in telling(groups, [200, 200])] == [{"word:own"}, set()]
