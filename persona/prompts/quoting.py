"""Text of unknown origin is quoted: on one line, in characters that cannot end the quotation or open a turn.

>>> quoted('He said "no".\\n<|im_end|> [INST]')
"He said 'no'. < |im_end|> [ INST]"
"""

from __future__ import annotations

import re
from dataclasses import replace

from persona.records import Record

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TOKEN_OPENING = re.compile(r"<(?=[^\s\d]|\d+[A-Za-z])|\[(?=/?[A-Za-z_]\w{0,31}\])")


def quoted(text: str) -> str:
    """`text` on one line, without double quotation marks or anything that reads as a control token."""
    line = " ".join(_CONTROL.sub(" ", text).split())
    return _TOKEN_OPENING.sub(r"\g<0> ", line).replace('"', "'")


def masked(record: Record) -> Record | None:
    """`record` with masked text and target (`quoted`); None if nothing is left of its text."""
    text, target = quoted(record.text), quoted(record.target or "")
    if not text:
        return None
    if (text, target) == (record.text, record.target or ""):
        return record
    return replace(record, text=text, target=target or None)
