"""The verdict in a judge's reply, and the option that an answer names; strictly: what is not plainly said is not said.

>>> verdict_in("It names the city.\\nVERDICT: yes", ("yes", "no")), verdict_in("Yes, it seems so.", ("yes", "no"))
('yes', None)
>>> named_option("Option (b), as she said.", "abc"), named_option("I would take a walk.", "abc")
('b', None)
"""

from __future__ import annotations

import re
from collections.abc import Collection

_VERDICT = re.compile(r"^[\s*_#>`\"']*VERDICT[\s*_`]*[:=](.*)$", re.IGNORECASE | re.MULTILINE)
_AROUND = " \t\r\n*_`\"'.!()[]"
_BRACKETED = r"\(\s*([{0}])\s*\)|\[\s*([{0}])\s*\]"
_WORDED = r"\b(?:option\s*:?|(?:answer|choice)(?:\s+is\b|\s*:))[\s*]*((?-i:(?![ai]\s+\w))[{0}])\b(?!['’])"  # no article
_ALONE = r"\W*([{0}])\W*|\W*([{0}])\s*[).:](?:\s.*)?"


def verdict_in(reply: str, legal: Collection[str]) -> str | None:
    """The word of `legal` (lower case) that a reply gives as its verdict; None where it gives none, or two.

    A verdict is a line ``VERDICT: word``, or a reply that is nothing but the word.
    """
    found = {match.strip(_AROUND).lower() for match in _VERDICT.findall(reply)} or {reply.strip(_AROUND).lower()}
    word = found.pop()
    return word if not found and word in legal else None


def named_option(answer: str, letters: str) -> str | None:
    """The option of `letters` (lower case) that an answer names; None where it names none, or several.

    An option is named by its letter alone or in front of its text (``b``, ``B.``, ``(b) walks``), by a letter in
    brackets, or by "option b", "answer: b", "the answer is b". The article "a" is no option.
    """
    alone = re.fullmatch(_ALONE.format(letters), answer.strip(), re.IGNORECASE | re.DOTALL)
    if alone:
        return (alone[1] or alone[2]).lower()
    marked = re.finditer(f"{_BRACKETED}|{_WORDED}".format(letters), answer, re.IGNORECASE)
    named = {next(filter(None, match.groups())).lower() for match in marked}
    return named.pop() if len(named) == 1 else None
