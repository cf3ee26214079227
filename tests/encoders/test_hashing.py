"""The hashing encoder: its features and its vectors by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from persona.encoders.hashing import HashingEncoder, hash_features


def test_features_are_words_pairs_and_ngrams_inside_words() -> None:
    line = " the cat "
    runs = ["the", "cat", "the cat"]
    ngrams = [" th", "the", "he ", " ca", "cat", "at ", " the", "the ", " cat", "cat ", " the ", " cat "]
    expected = [_slow_hash(run, True) for run in runs] + [_slow_hash(run, False) for run in ngrams]
    assert all(run in line for run in runs + ngrams)
    assert sorted(hash_features("The, CAT!").tolist()) == sorted(expected)


def test_the_vector_is_the_signed_sum_of_the_features() -> None:
    counts: dict[int, int] = {}
    for feature in hash_features("so so good").tolist():
        counts[feature] = counts.get(feature, 0) + 1
    expected = np.zeros(64)
    for feature, count in counts.items():
        expected[(feature >> 1) % 64] += (-1 if feature & 1 else 1) * (1 + np.log(count))
    (vector,) = HashingEncoder(64).encode(["so so good"])
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), rtol=1e-6)


def test_the_numbers_stay_what_they_were() -> None:
    """Vectors in stores were made with them: whoever changes them has to change the fingerprint, too."""
    (vector,) = HashingEncoder(8).encode(["Moody and stylish, 映画 🎬"])
    assert HashingEncoder(8).fingerprint == "hashing:v1:words=1-2:chars=3-5:dim=8"
    pinned = [-0.1132, -0.1132, 0.5661, 0.1132, 0.1132, -0.2265, 0.6794, 0.3397]
    np.testing.assert_allclose(vector, pinned, atol=5e-5)


def test_case_forms_and_punctuation_do_not_matter() -> None:
    first, second = HashingEncoder().encode(["Straße: ﬁne", "STRASSE fine!"])
    assert np.array_equal(first, second)


def test_scripts_without_blanks_are_compared_by_character() -> None:
    film, films, other = HashingEncoder().encode(["映画は美しい", "美しい映画", "今日は雨です"])
    assert film @ films > 0.4 > film @ other


def test_a_misspelt_word_is_nearer_than_another_word() -> None:
    right, wrong, other = HashingEncoder().encode(["restaurant", "restaraunt", "laboratory"])
    assert right @ wrong > 0.2 > right @ other


@given(st.text(st.characters(), max_size=80))
def test_any_text_has_a_unit_vector(text: str) -> None:
    vectors = HashingEncoder(16).encode([text, text + " "])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def _slow_hash(run: str, word: bool) -> int:
    """The hash of one run of characters as the module says it, with Python's whole numbers."""
    bits = 2**64 - 1
    step = 0x9E3779B97F4A7C15
    value = sum(ord(character) * pow(step, place, 2**64) for place, character in enumerate(run)) & bits
    value ^= 0xD6E8FEB86659FD93 if word else 0
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & bits
    value = (value ^ value >> 27) * 0x94D049BB133111EB & bits
    return value ^ value >> 31
