"""Help that is read as prose: the terminal wraps its paragraphs, not the lines of the source."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

from typer.core import TyperGroup


class Prose(TyperGroup):
    """A group of commands, each paragraph of whose help is one line."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None and command.help:
            paragraphs = cleandoc(command.help).split("\n\n")
            command.help = "\n\n".join(" ".join(one.split()) for one in paragraphs)
        return command
