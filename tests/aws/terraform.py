"""Terraform, and where its AWS provider lies on this machine: nothing is downloaded by a test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MODULE = Path(__file__).parents[2] / "infra" / "terraform" / "gadgets"
MIRROR = "CATCHMENT_TERRAFORM_MIRROR"
"""Names a directory that `terraform providers mirror` made."""

PROVIDER = "registry.terraform.io/hashicorp/aws"
APPLY_SECONDS = 300


class NoTerraformError(Exception):
    """Terraform or its provider is not on this machine; says which, and what would help."""


def find_terraform() -> str:
    """The program. Raises NoTerraformError."""
    found = shutil.which("terraform")
    if found is None:
        raise NoTerraformError("terraform is not installed")
    return found


def find_mirror() -> Path:
    """The directory of providers. Raises NoTerraformError."""
    for place in _places():
        if (place / PROVIDER).is_dir():
            return place
    raise NoTerraformError(
        f"no mirror of {PROVIDER} on this machine: `terraform providers mirror DIR` makes one; name it in {MIRROR}"
    )


def _places() -> Iterator[Path]:
    """Where people and images put them: what is named, Terraform's own places, directories of added software."""
    named = os.environ.get(MIRROR)
    if named:
        yield Path(named)
    yield Path.home() / ".terraform.d" / "plugins"
    for shared in (Path("/usr/local/share"), Path("/usr/share")):
        yield shared / "terraform" / "plugins"
    yield from sorted(Path("/opt").glob("*/"))


class Terraform:
    """The module in a directory of its own: sources copied, so that neither state nor providers come into the tree."""

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self._program = find_terraform()
        self.directory = directory / "gadgets"
        shutil.copytree(MODULE, self.directory, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
        config = directory / "terraform.rc"
        config.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{find_mirror()}"\n  }}\n}}\n')
        dropped = {name for name in environ if name.startswith("TF_")}
        kept = {name: value for name, value in environ.items() if name not in dropped}
        self._environ = {**kept, "TF_CLI_CONFIG_FILE": str(config), "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`terraform arguments`. Fails with its own words."""
        done = subprocess.run(
            [self._program, *arguments],
            cwd=self.directory,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=APPLY_SECONDS,
        )
        assert done.returncode == 0 or not check, done.stdout[-2_000:] + done.stderr[-4_000:]
        return done

    def outputs(self) -> dict[str, Any]:
        """`terraform output -json`, the values alone."""
        return {name: one["value"] for name, one in json.loads(self.run("output", "-json").stdout).items()}

    def resources(self, plan: str | None = None) -> dict[str, dict[str, Any]]:
        """Everything that was made, by address; with a saved plan, what was to be."""
        shown = json.loads(self.run("show", "-json", *([plan] if plan else [])).stdout)
        values = shown["planned_values" if plan else "values"]
        return {one["address"]: one.get("values", {}) for one in values["root_module"]["resources"]}
