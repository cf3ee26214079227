"""A page as its reader sees it."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """The words of a page, and the tags that were left open.

    Args:
        page: HTML.

    Attributes:
        text: all words, without the style sheet.
        open: tags without an end.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
