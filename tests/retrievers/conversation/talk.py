"""A conversation over three days, and who answers what in it."""

from __future__ import annotations

from persona.records import Profile, Record

LINES = (
    ("1", "2023-05-08T13:56:00", "Ana", "Did you get the kayak out of the cellar at last?"),
    ("2", "2023-05-08T13:56:00", "Ben", "Yes, on Friday, and I paddled to the weir with it."),
    ("3", "2023-05-08T13:56:00", "Ana", "Lovely."),
    ("4", "2023-06-02T09:10:00", "Ben", "My sister is painting the kitchen green."),
    ("5", "2023-06-02T09:10:00", "Ana", "Green? I painted mine yellow in March and regret it every morning since."),
    ("6", "2023-07-19T20:00:00", "Ben", "The choir sings in Turin tomorrow."),
)
TALK = Profile(
    "ana", tuple(Record(text, id=number, time=time, speaker=speaker) for number, time, speaker, text in LINES)
)
