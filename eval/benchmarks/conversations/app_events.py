"""What a user did in several apps (PersonaMem version 3) as records: posts, conversations and messages."""

from __future__ import annotations

import re
from bisect import bisect_left
from datetime import UTC, datetime
from pathlib import Path

from persona.errors import DataFormatError
from persona.eval.benchmarks.reading import Part, read_json
from persona.records import Profile, Record

APPS = ("instagram", "facebook", "threads", "chatbot", "ai_studio")
_LATEST = 253402300799
"""The last second of the calendar."""


class History:
    """What a user did in all apps, oldest first."""

    def __init__(self, user_id: str, folder: Path) -> None:
        self.user_id = user_id
        events = []
        for app in APPS:
            file = folder / f"{app}.json"
            for number, event in enumerate(read_json(file).parts if file.exists() else ()):
                record = _record(event, f"{app}:{number}", app)
                if record is not None:
                    events.append((moment_of(event["source_timestamp"]), record))
        if not events:
            raise DataFormatError(f"there must be {', '.join(APPS)}.json with what the user did", source=str(folder))
        events.sort(key=lambda pair: pair[0])
        self._moments, self._records = [each for each, _ in events], tuple(record for _, record in events)
        self._profiles: dict[int, Profile] = {}

    def before(self, moment: int) -> Profile:
        """The profile as it was then."""
        end = bisect_left(self._moments, moment)
        if end not in self._profiles:
            self._profiles[end] = Profile(self.user_id, self._records[:end])
        return self._profiles[end]


def _record(event: Part, name: str, app: str) -> Record | None:
    """An event as a record: what it was about, and what the user did with it; None if it says nothing."""
    lines = []
    for key, who, text in (("conversation", "role", "content"), ("messages", "sender", "text")):
        if (listed := event.get(key)) is not None:
            lines += [f"{each[who].text}: {each[text].text}" for each in listed.parts if each[text].text.strip()]
    if not lines:
        lines = [shown(event)]
    label = event["interaction_format"].get("action_label") if event.get("interaction_format") else None
    text = "\n".join(lines)
    if not text.strip():
        return None
    moment = datetime.fromtimestamp(moment_of(event["source_timestamp"]), UTC).isoformat(timespec="seconds")
    with event.located():
        target = label.text if label and label.text.strip() else None
        return Record(text, target=target, time=moment, id=name, metadata={"app": app})


def shown(item: Part) -> str:
    """Title, caption and hashtags of a post, in a line."""
    content = item.get("content") or item
    texts = [part.text for part in map(content.get, ("title", "caption")) if part is not None]
    tags = tags_of(item.get("source_hashtags") or item.get("hashtags"))
    return " ".join(" ".join([*dict.fromkeys(texts), *tags]).split())


def tags_of(listed: Part | None) -> tuple[str, ...]:
    return tuple(tag for each in (listed.parts if listed else ()) if (tag := each.text.strip().lstrip("#")))


def moment_of(part: Part) -> int:
    """A time in Unix seconds."""
    text = part.short
    if not re.fullmatch(r"\d{1,12}", text) or int(text) > _LATEST:
        part.refuse(f"a time in Unix seconds must stand here, was: {text!r:.80}")
    return int(text)
