"""What is wrong with a pipeline file: which keys its sections may have."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from catchment import document_errors, registry
from catchment.document import Document, Place
from catchment.document_errors import WRONG_TYPE

__all__ = ["WRONG_TYPE", "explain"]


def explain(error: ValidationError, read: Document, model: type[BaseModel]) -> str:
    """One line for each thing that is wrong, in the file's order. Never shows a value that may be secret."""
    return document_errors.explain(error, read, lambda place: _keys(place, read, model))


def _keys(place: Place, read: Document, model: type[BaseModel]) -> list[str]:
    """The keys that the mapping at a place may have."""
    current: Any = model
    for at, step in enumerate(place, start=1):
        kind = registry.SECTIONS.get(str(place[0]))
        if kind is not None and at == (1 if kind == "source" else 2):
            given = read.at(place[:at])
            current = registry.config_class(kind, str(given["type"]))
        elif isinstance(step, str) and isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(step)
            current = field.annotation if field else None
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []
