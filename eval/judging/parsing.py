"""The verdict in a judge's reply; strictly: what is not plainly said is not said.

>>> verdict_in("It names the city.\\nVERDICT: yes", ("yes", "no")), verdict_in("Yes, it seems so.", ("yes", "no"))
('yes', None)
"""

from __future__ import annotations

import re
from collections.abc import Collection

_VERDICT = re.compile(r"^[\s*_#>`\"']*VERDICT[\s*_`]*[:=](.*)$", re.IGNORECASE | re.MULTILINE)
_AROUND = " \t\r\n*_`\"'.!()[]"


def verdict_in(reply: str, legal: Collection[str]) -> str | None:
    """The word of `legal` (lower case) that a reply gives as its verdict; None where it gives none, or two.

    A verdict is a line ``VERDICT: word``, or a reply that is nothing but the word.
    """
    found = {match.strip(_AROUND).lower() for match in _VERDICT.findall(reply)} or {reply.strip(_AROUND).lower()}
    word = found.pop()
    return word if not found and word in legal else None
