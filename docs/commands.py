"""The command line as it is, for the pages that describe it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from docs.pages import ROOT

END = frozenset({"|", "||", "&&", ";", "&", ">", ">>", "<", "2>"})


@dataclass(frozen=True, slots=True)
class Parameter:
    """An option or an argument. names: `--format`, `-f`, or an argument's place holder."""

    names: tuple[str, ...]
    value: str
    default: str
    help: str
    option: bool
    required: bool


@dataclass(frozen=True, slots=True)
class Command:
    """One command: `("demo", "shop")`, or a group that only has others below it."""

    path: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    group: bool

    @property
    def name(self) -> str:
        return " ".join(("catchment", *self.path))

    @property
    def options(self) -> set[str]:
        return {name for one in self.parameters if one.option for name in one.names}


@cache
def commands() -> dict[tuple[str, ...], Command]:
    """Every command and group, walked from the application itself."""
    from typer.main import get_command

    from catchment.cli import app

    return {one.path: one for one in _walk(get_command(app), ())}


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[Command]:
    below = getattr(command, "commands", None)
    yield Command(path, tuple(_parameter(one) for one in command.params), below is not None)
    for name, child in (below or {}).items():
        yield from _walk(child, (*path, name))


def _parameter(one: Any) -> Parameter:
    option = one.param_type_name == "option"
    names = tuple(one.opts) if option else (one.metavar or one.name.upper(),)
    flag = bool(getattr(one, "is_flag", False))
    value = "" if flag or not option else one.metavar or _kind(one.type_descriptor.annotation)
    default = "" if flag or one.default is None else str(getattr(one.default, "value", one.default))
    return Parameter(names, value, default, one.help or "", option, bool(one.required))


def _kind(annotation: Any) -> str:
    """What a value of this type looks like."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(member.value) for member in annotation)
    return "PATH" if annotation is Path else "N" if annotation in (int, float) else "TEXT"


def wrong(line: str) -> str | None:
    """What is wrong with a command line that a page shows; None when it would be understood."""
    words = _words(line)
    if words[:1] == ["make"]:
        return _wrong_target(words[1:])
    known, path = commands(), tuple[str, ...]()
    rest = words[1:]
    while rest and known[path].group and not rest[0].startswith("-"):
        if (*path, rest[0]) not in known:
            # `catchment COMMAND` speaks of any.
            return (
                None if rest[0].isupper() or rest[0] == "…" else f"there is no command `{' '.join((*path, rest[0]))}`"
            )
        path, rest = (*path, rest[0]), rest[1:]
    options = known[path].options | {"--help", "-h"}
    if path == ():
        options |= {"--install-completion", "--show-completion"}
    for word in rest:
        name = word.partition("=")[0]
        if re.match(r"--?[A-Za-z]", name) and name not in options:
            return f"`{known[path].name}` has no option `{name}`"
    return None


def _words(line: str) -> list[str]:
    """A shell's words, up to where another command begins."""
    text = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        words = text.split()
    stop = next((at for at, word in enumerate(words) if word in END), len(words))
    return words[:stop]


def _wrong_target(words: list[str]) -> str | None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for word in words:
        if "=" not in word and not word.startswith("-") and word not in targets:
            return f"there is no target `make {word}`"
    return None


def is_command(line: str) -> bool:
    """Does this line, or span of code, call us or make?"""
    words = _words(line)
    if len(words) < 2 or words[0] not in ("catchment", "make"):
        return False
    return words[0] == "make" or bool(re.match(r"[a-z-]", words[1]))
