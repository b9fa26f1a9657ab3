"""Keys as a person gives them to `catchment quality --release --key`."""

from __future__ import annotations

import pytest

from catchment.errors import ConfigError
from catchment.quality.release import wanted_key


def test_a_key_of_several_columns_is_a_list_with_commas_or_json() -> None:
    assert wanted_key("41,2", ("order", "line")) == wanted_key("[41, 2]", ("order", "line"))
    assert wanted_key("41,2", ("id",)) == "41,2"


@pytest.mark.parametrize("given", ["[41,", "[41, 2", "41", "[41]", "[41, 2, 3]"])
def test_another_shape_is_told(given: str) -> None:
    with pytest.raises(ConfigError, match=r"2 columns \(order, line\)"):
        wanted_key(given, ("order", "line"))
