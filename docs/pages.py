"""The pages of the documentation, and what stands in them: headings, links, code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
AT_THE_ROOT = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; `anchor` is what a link to it ends with, as forges make it."""

    level: int
    text: str
    anchor: str
    line: int


@dataclass(frozen=True, slots=True)
class Link:
    """A link or an image, as it is written."""

    target: str
    line: int


@dataclass(frozen=True, slots=True)
class Code:
    """A fenced block, or a span of code in a line (`language` is empty then)."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Page:
    """One Markdown file. path: relative to the repository."""

    path: Path
    text: str

    @cached_property
    def tokens(self) -> Sequence[Token]:
        """What markdown-it makes of it; headings carry their anchors as ids."""
        tokens = markdown().parse(self.text)
        anchors: set[str] = set()
        for opening, inline in pairwise(tokens):
            if opening.type == "heading_open":
                opening.attrSet("id", _unique(anchor(plain(inline)), anchors))
        return tokens

    @cached_property
    def headings(self) -> list[Heading]:
        return [
            Heading(int(opening.tag[1:]), plain(inline), str(opening.attrs["id"]), _line(opening))
            for opening, inline in pairwise(self.tokens)
            if opening.type == "heading_open"
        ]

    @property
    def title(self) -> str:
        return self.headings[0].text if self.headings else self.path.stem

    @cached_property
    def links(self) -> list[Link]:
        found = []
        for token, line in self._inline():
            target = token.attrGet("href") if token.type == "link_open" else token.attrGet("src")
            if token.type in ("link_open", "image") and target is not None:
                found.append(Link(str(target), line))
        return found

    @cached_property
    def blocks(self) -> list[Code]:
        """The fenced blocks."""
        return [
            Code(token.info.split()[0] if token.info.strip() else "", token.content, _line(token) + 1)
            for token in self.tokens
            if token.type == "fence"
        ]

    @cached_property
    def spans(self) -> list[Code]:
        """The spans of code in lines, headings and tables."""
        return [Code("", token.content, line) for token, line in self._inline() if token.type == "code_inline"]

    def section(self, heading: str) -> str | None:
        """The text below a heading, up to the next of its level or above; None when there is none."""
        lines = self.text.splitlines()
        for number, one in enumerate(self.headings):
            if one.text == heading:
                after = [other.line for other in self.headings[number + 1 :] if other.level <= one.level]
                return "\n".join(lines[one.line : after[0] - 1 if after else None])
        return None

    def _inline(self) -> Iterator[tuple[Token, int]]:
        for token in self.tokens:
            for child in token.children or ():
                yield child, _line(token)


def load(root: Path = ROOT) -> list[Page]:
    """Every page, those at the root first."""
    paths = [root / name for name in AT_THE_ROOT] + sorted((root / "docs").rglob("*.md"))
    return [Page(path.relative_to(root), path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def markdown() -> MarkdownIt:
    """Markdown as forges read it: CommonMark with tables."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"])


def plain(inline: Token) -> str:
    """A heading's text without its markup."""
    return "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))


def anchor(text: str) -> str:
    """The anchor that forges give a heading."""
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def _unique(name: str, taken: set[str]) -> str:
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free)
    return free


def _line(token: Token) -> int:
    return token.map[0] + 1 if token.map else 1
