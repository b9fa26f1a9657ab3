"""The Lambda zip: small, the same each time, and enough on its own."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import catchment
from catchment.aws import bundle
from unit.test_firehose_transform import INVALID, SAMPLE, batch, record

PACKAGE = Path(catchment.__file__).parent


def run(program: str, zip_file: Path, event: object) -> object:
    """What a Python without any installed package answers, with nothing but the zip file on its path."""
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, sys.argv[1])\n{program}", str(zip_file)],
        input=json.dumps(event),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=zip_file.parent,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_handler_answers_from_the_zip_file_alone(tmp_path: Path) -> None:
    zip_file = tmp_path / "new" / "transform.zip"
    size = bundle.bundle(zip_file)
    assert size == zip_file.stat().st_size < 100_000
    program = (
        "import json, catchment\n"
        "from catchment.aws.firehose_transform import handler\n"
        "assert catchment.__file__.startswith(sys.argv[1]), catchment.__file__\n"
        "assert not any('site-packages' in path for path in sys.path), sys.path\n"
        "print(json.dumps(handler(json.load(sys.stdin), None)))"
    )
    answer = run(program, zip_file, batch(record("ok-1", SAMPLE), INVALID))
    assert isinstance(answer, dict)
    assert [one["result"] for one in answer["records"]] == ["Ok", "ProcessingFailed"]
    assert json.loads(base64.b64decode(answer["records"][0]["data"]))["price"] == 429.99


def test_the_kinesis_handler_loads_from_the_zip_file_and_says_what_it_lacks(tmp_path: Path) -> None:
    zip_file = tmp_path / "transform.zip"
    bundle.bundle(zip_file)
    program = (
        "import json\n"
        "from catchment.aws.kinesis_transform import handler\n"
        "from catchment.errors import ConfigError\n"
        "try:\n    handler(json.load(sys.stdin), None)\n"
        "except ConfigError as error:\n    print(json.dumps(str(error)))"
    )
    assert "DELIVERY_STREAM" in str(run(program, zip_file, {"Records": []}))


def test_the_same_sources_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bundle.zipped()
    shutil.copytree(PACKAGE, tmp_path / "catchment", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(bundle, "PACKAGES", tmp_path)
    assert bundle.zipped() == before


def test_it_holds_what_the_handlers_import_and_nothing_else(tmp_path: Path) -> None:
    zip_file = tmp_path / "transform.zip"
    bundle.bundle(zip_file)
    program = (
        "import json\n"
        "import catchment.aws.firehose_transform, catchment.aws.kinesis_transform\n"
        "names = [module.__file__ for name, module in sys.modules.items() if name.split('.')[0] == 'catchment']\n"
        "print(json.dumps(sorted(name[len(sys.argv[1]) + 1:] for name in names)))"
    )
    with zipfile.ZipFile(zip_file) as archive:
        assert archive.namelist() == run(program, zip_file, None)
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_handler_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"catchment\.aws\.nothing"):
        bundle.zipped(["catchment.aws.nothing"])


def test_the_command_writes_the_file_and_names_the_handlers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "catchment.aws.bundle", str(tmp_path / "out.zip")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "catchment.aws.firehose_transform.handler" in result.stdout
    assert zipfile.is_zipfile(tmp_path / "out.zip")
