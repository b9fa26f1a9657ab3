"""A YAML file with variables, read so that every value still knows the line it stands on.

`${NAME}` and `${NAME:-default}` are replaced in values, from the environment and from a `.env` beside the
file (the environment wins; the default serves when the variable is missing or empty); `$${` stays `${`.
What comes from a variable is text; the models make numbers of it where they want numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from catchment.errors import ConfigError

Place = tuple[str | int, ...]
"""Where a value is: `("sinks", 0, "type")`."""

_VARIABLE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*")
_QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*"|'[^']*')\s*(?:#.*)?""")


@dataclass(frozen=True)
class Document:
    """The values of a file, and the line of each."""

    path: Path
    values: dict[str, Any]
    lines: dict[Place, int] = field(default_factory=dict)

    def line(self, place: Place) -> int:
        """The line of a value; when it is missing, of what it should stand in."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def at(self, place: Place) -> Any:
        """The value there, or None."""
        value: Any = self.values
        for step in place:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return value


PIPELINE_FILE = "a pipeline is a mapping of keys such as `name:` and `source:`. `catchment init DIR` writes one."


def read(path: Path, environ: Mapping[str, str], *, expected: str = PIPELINE_FILE) -> Document:
    """Read a file. Raises ConfigError naming file and line of everything that is wrong with it.

    expected: what is said of a file that is no mapping.
    """
    text = _text(path, of_pipeline=expected == PIPELINE_FILE)
    try:
        return _document(path, text, environ, expected)
    except RecursionError:
        raise ConfigError(f"{path}: this is nested too deeply. Write it with fewer levels.") from None


def _document(path: Path, text: str, environ: Mapping[str, str], expected: str) -> Document:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{path}:{line}: this is not YAML: {error.problem or error.context}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: this is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:1: {expected}")
    variables = {**_dot_env(path.parent / ".env"), **environ}
    reader = _Reader(path, variables)
    values = reader.value(node, ())
    if reader.problems:
        raise ConfigError("\n".join(reader.problems))
    return Document(path, values, reader.lines)


def _text(path: Path, *, of_pipeline: bool = False) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = "; `catchment init DIR` writes a pipeline.yaml" if of_pipeline else ""
        raise ConfigError(f"There is no file {path}. Give the path of one that exists{hint}.") from None
    except IsADirectoryError:
        one = "the pipeline.yaml in it" if of_pipeline else "a file"
        raise ConfigError(f"{path} is a directory. Give the path of {one}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8. Save it in that encoding.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}. Check its rights.") from error


class _Reader:
    """Turns YAML nodes into values, noting lines and problems on the way."""

    def __init__(self, path: Path, variables: Mapping[str, str]) -> None:
        self.path = path
        self.variables = variables
        self.lines: dict[Place, int] = {}
        self.problems: list[str] = []
        self._scalars = yaml.constructor.SafeConstructor()
        self._open: set[int] = set()

    def value(self, node: yaml.Node, place: Place) -> Any:
        self.lines.setdefault(place, node.start_mark.line + 1)
        if id(node) in self._open:
            self._problem(node, "this alias stands for something that contains it")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, place)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*place, index)) for index, item in enumerate(node.value)]
            return self._scalar(node, place)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                self._problem(key_node, "keys are plain words; write the keys out")
                continue
            key = key_node.value
            if key in result:
                self._problem(key_node, f"the key `{key}` stands here for the second time; remove one")
                continue
            self.lines[(*place, key)] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, (*place, key))
        return result

    def _scalar(self, node: yaml.Node, place: Place) -> Any:
        if node.tag == "tag:yaml.org,2002:str":
            return self._replaced(node, place)
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError):
            self._problem(node, f"this is no {node.tag.rpartition(':')[2]}; put quotes around it if it is text")
            return None

    def _replaced(self, node: yaml.Node, place: Place) -> str:
        def replacement(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            name, default = match[1], match[2]
            if name is None:
                self._problem(node, "a variable is written ${NAME} or ${NAME:-default}; for a plain `${` write `$${`")
                return ""
            found = self.variables.get(name)
            if default is not None:
                return found or default
            if found is None:
                where = ".".join(map(str, place))
                self._problem(
                    node,
                    f"the variable {name} of `{where}` is not set. Set it in the environment or in a .env "
                    f"beside the file, or give a default: ${{{name}:-…}}",
                )
            return found or ""

        return _VARIABLE.sub(replacement, node.value)

    def _problem(self, node: yaml.Node, message: str) -> None:
        self.problems.append(f"{self.path}:{node.start_mark.line + 1}: {message}.")


def _dot_env(path: Path) -> dict[str, str]:
    """The variables of a .env: `NAME=value` lines, `export` and quotes allowed, `#` comments."""
    if not path.is_file():
        return {}
    variables = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            raise ConfigError(f"{path}:{number}: a line is NAME=value or a comment that begins with #.")
        variables[match[1]] = _unquoted(match[2], path, number)
    return variables


def _unquoted(value: str, path: Path, number: int) -> str:
    if not value.startswith(('"', "'")):
        return re.sub(r"(^|\s+)#.*$", "", value)
    match = _QUOTED.fullmatch(value)
    if match is None:
        raise ConfigError(f"{path}:{number}: this value's quotes do not end; close them or leave them out.")
    inner = match[1][1:-1]
    if value.startswith("'"):
        return inner
    escapes = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), inner)
