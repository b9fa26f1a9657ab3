"""The JSON Schema of pipeline.yaml, for editors: completion, documentation and red lines while typing."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import Field, create_model

from catchment import registry
from catchment.component import ComponentConfig
from catchment.config import PipelineConfig

_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_]"}


def json_schema() -> dict[str, Any]:
    """The schema, with every component that is installed."""
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in PipelineConfig.model_fields.items()
        if name not in registry.SECTIONS
    }
    for name, kind in registry.SECTIONS.items():
        one = _any_of(kind)
        field = PipelineConfig.model_fields[name]
        fields[name] = (one if kind == "source" else list[one], field)  # type: ignore[valid-type]
    order = {name: fields[name] for name in PipelineConfig.model_fields}
    model = create_model("Pipeline", __base__=ComponentConfig, __doc__=PipelineConfig.__doc__, **order)
    schema = model.model_json_schema()
    _allow_variables(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _any_of(kind: str) -> Any:
    """One of the kind's models, told apart by `type`, which must be given."""
    models = []
    for type_ in registry.types(kind):
        model = registry.config_class(kind, type_)
        if model is not None:
            tag: Any = Literal[type_]
            models.append(create_model(model.__name__, __base__=model, __doc__=model.__doc__, type=(tag, ...)))
    return models[0] if len(models) == 1 else Annotated[Union[tuple(models)], Field(discriminator="type")]  # noqa: UP007 - the members are known at run time only


def _allow_variables(node: Any) -> None:
    """Wherever something else than text is wanted, `${NAME}` may stand as well."""
    if isinstance(node, list):
        for item in node:
            _allow_variables(item)
    elif isinstance(node, dict):
        for item in node.values():
            _allow_variables(item)
        if node.get("type") in ("integer", "number", "boolean"):
            described = {key: node.pop(key) for key in ("title", "description", "default") if key in node}
            plain = dict(node)
            node.clear()
            node.update(described, anyOf=[plain, dict(_VARIABLE)])
