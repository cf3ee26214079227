"""How a text is written, in numbers."""

from __future__ import annotations

import pytest

from persona.encoders.style import STYLE_DIM, STYLE_NAMES, style_vector


def test_style_describes_how_a_text_is_written() -> None:
    style = dict(zip(STYLE_NAMES, style_vector("how WE opened the Bridge: at last!").tolist(), strict=True))
    assert style["ends with !"] == 1
    assert style["starts with how"] == 1
    assert style["starts with a capital"] == 0
    assert style["words in capitals"] == pytest.approx(1 / 7)
    assert style["says the"] == 1
    assert style["marks :"] == 1
    assert style_vector("").tolist() == style_vector("  ").tolist() == [0] * STYLE_DIM
