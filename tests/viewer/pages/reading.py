"""
HTML as a browser sees it: its elements and its text.
"""

from __future__ import annotations

from html.parser import HTMLParser
from typing import NamedTuple

_VOID = frozenset({"input", "link", "meta", "img", "br", "hr"})


class Element(NamedTuple):
    """
    An element: its name, its attributes, and the text within it.
    """

    name: str
    attributes: dict[str, str]
    texts: list[str]

    @property
    def text(self) -> str:
        """All text within it, white space as one space."""
        return " ".join("".join(self.texts).split())


class Document(HTMLParser):
    """
    A page that was read.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, [])
        self.elements.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop().name != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.texts.append(data)

    def find(self, tag: str, text: str | None = None, **attributes: str) -> list[Element]:
        """Return the elements of a tag that have a text and some attributes."""
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
        return [
            element
            for element in self.elements
            if element.name == tag
            and (text is None or element.text == text)
            and all(element.attributes.get(key) == value for key, value in wanted.items())
        ]

    def one(self, tag: str, text: str | None = None, **attributes: str) -> Element:
        """Return the only such element."""
        (element,) = self.find(tag, text, **attributes)
        return element

    def messages(self) -> list[str]:
        """Return the messages of the list of lines."""
        return [element.text for element in self.find("a", class_="open")]
