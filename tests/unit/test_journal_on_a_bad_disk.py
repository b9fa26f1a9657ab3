"""What is put to Firehose's stand-in while its directory takes no new file."""

from __future__ import annotations

from pathlib import Path

import pytest

from catchment.aws.local import direct_put
from catchment.aws.local.direct_put import Journal, Rejected


def test_a_next_file_that_cannot_be_made_rejects_until_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_put, "SEGMENT_BYTES", 10)
    journal = Journal(tmp_path)
    journal.append([b"first"])
    in_the_way = tmp_path / f"{journal.end:020d}.ndjson"
    in_the_way.mkdir()
    for _ in range(2):
        with pytest.raises(Rejected, match="cannot be kept") as rejected:
            journal.append([b"rejected"])
        assert rejected.value.status == 503
    journal.forget(journal.end)
    in_the_way.rmdir()
    journal.append([b"second"])
    first, after = journal.read(0, timeout=0)
    second, _ = journal.read(after, timeout=0)
    assert [one.data for one in first + second] == [b"first", b"second"]
    journal.close()
