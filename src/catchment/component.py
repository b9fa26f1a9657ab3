"""What the configurations of all components have in common.

A component is a section of pipeline.yaml: one frozen model beside the code it configures, with a `type`
tag and a `build` method that imports the component only when it is used. These modules stay light: they
import pydantic, never pyarrow or a client.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from catchment.lakehouse.config import LakehouseConfig


class ComponentConfig(BaseModel):
    """Base of every section. Unknown keys are refused; units stand in names (`flush_interval_seconds`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What a component may need of the rest of the file to be built.

    pipeline: the pipeline's name. directory: what relative paths are relative to.
    """

    pipeline: str
    directory: Path
    lakehouse: LakehouseConfig | None = None
