"""`catchment schema`: what may stand in a pipeline.yaml, for editors."""

from __future__ import annotations


def schema() -> None:
    """Print the JSON Schema of pipeline.yaml.

    Editors that speak YAML complete and check the file with it: point them to it with a first line of
    `# yaml-language-server: $schema=pipeline.schema.json`.
    """
    import json

    from catchment.config_schema import json_schema

    print(json.dumps(json_schema(), indent=2))
