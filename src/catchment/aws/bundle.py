"""The zip file of our Lambda functions: the handlers and what they import of Catchment, nothing else.

    python -m catchment.aws.bundle build/gadget-sales-transform.zip

The same sources give the same bytes, so that a deployment changes only when the code does. Nothing is installed into
it: the Firehose handler needs the standard library only, the Kinesis handler boto3 as well, which Lambda's Python has.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import catchment

HANDLERS = ("catchment.aws.firehose_transform", "catchment.aws.kinesis_transform")
"""With `.handler` these are what a function is configured to run."""

EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The date of every member: the first that a zip file can have."""

READABLE = 0o100644 << 16
PACKAGES = Path(catchment.__file__).parent.parent


def bundle(path: Path, handlers: Sequence[str] = HANDLERS) -> int:
    """Write the zip file and return its size in bytes. The directory is made where it is missing."""
    content = zipped(handlers)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return len(content)


def zipped(handlers: Sequence[str] = HANDLERS) -> bytes:
    """The bytes of the zip file: the same for the same sources, whatever the machine."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for source in sorted(modules(handlers)):
            member = zipfile.ZipInfo(source.relative_to(PACKAGES).as_posix(), EARLIEST)
            member.compress_type = zipfile.ZIP_STORED  # zlibs differ in what they make of the same bytes
            member.create_system = 3  # Unix, also where it is made on another
            member.external_attr = READABLE
            archive.writestr(member, source.read_bytes())
    return buffer.getvalue()


def modules(handlers: Sequence[str] = HANDLERS) -> set[Path]:
    """The source files that are loaded when these modules are imported.

    Imports inside functions are not followed: what a handler needs, it imports at its top.
    """
    found: set[Path] = set()
    waiting = list(handlers)
    for handler in handlers:
        if not PACKAGES.joinpath(*handler.split(".")).with_suffix(".py").is_file():
            raise ModuleNotFoundError(f"there is no module {handler}")
    while waiting:
        for source in _sources(waiting.pop()):
            if source not in found:
                found.add(source)
                waiting.extend(_imported(source))
    return found


def _sources(module: str) -> Iterator[Path]:
    """The file of a module, and those of the packages around it."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        place = PACKAGES.joinpath(*parts[:depth])
        if (package := place / "__init__.py").is_file():
            yield package
        elif (file := place.with_suffix(".py")).is_file():
            yield file


def _imported(source: Path) -> Iterator[str]:
    """The modules of ours that this file imports at its top, and names that may be modules."""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "catchment":
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "catchment")


def main() -> int:
    """Write the zip file that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m catchment.aws.bundle", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("path", type=Path, metavar="OUT.zip")
    arguments = parser.parse_args()
    try:
        size = bundle(arguments.path)
    except OSError as error:
        print(f"{arguments.path} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{arguments.path}: {size / 1000:.0f} kB; handlers {', '.join(f'{name}.handler' for name in HANDLERS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
