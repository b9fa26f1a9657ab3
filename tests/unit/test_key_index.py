"""The key index finds each key's one live row, whatever was merged, saved or renumbered meanwhile."""

from __future__ import annotations

import datetime
import random
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from catchment.lakehouse.silver import key_index
from catchment.lakehouse.silver.key_hash import KeyHash, Keys
from catchment.lakehouse.silver.key_index import NOWHERE, KeyIndex
from seeds import first_seed

SEED = bytes(range(16))


def exact(numbers: list[int]) -> Keys:
    return KeyHash([pa.int64()], SEED).of([pa.array(numbers, pa.int64())])


def test_siphash_is_siphash_of_one_round_and_three() -> None:
    """One word of a row: absorbed as validity, then value; compared with a plain implementation."""
    keys = KeyHash([pa.float64()], SEED).of([pa.array([1.5, -2.25])])
    assert keys.check is not None
    for i, value in enumerate([1.5, -2.25]):
        word = int(np.array([value]).view(np.uint64)[0])
        assert (int(keys.main[i]), int(keys.check[i])) == _siphash_1_3_128([1, word])


def _siphash_1_3_128(words: list[int]) -> tuple[int, int]:
    mask = (1 << 64) - 1
    k0, k1 = (int.from_bytes(SEED[at : at + 8], "little") for at in (0, 8))
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D ^ 0xEE, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotated(x: int, bits: int) -> int:
        return ((x << bits) | (x >> (64 - bits))) & mask

    def turn() -> None:
        v[0] = (v[0] + v[1]) & mask
        v[1] = rotated(v[1], 13) ^ v[0]
        v[0] = rotated(v[0], 32)
        v[2] = (v[2] + v[3]) & mask
        v[3] = rotated(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & mask
        v[3] = rotated(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & mask
        v[1] = rotated(v[1], 17) ^ v[2]
        v[2] = rotated(v[2], 32)

    for word in words:
        v[3] ^= word
        turn()
        v[0] ^= word
    v[2] ^= 0xEE
    for _ in range(3):
        turn()
    first = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    for _ in range(3):
        turn()
    return first, v[0] ^ v[1] ^ v[2] ^ v[3]


def test_a_key_is_the_same_whatever_rows_stand_beside_it() -> None:
    texts = ["", "a", "abcdefgh", "abcdefghi", "ü" * 40, "a\0", None]
    columns: list[pa.Array] = [
        pa.array(texts, pa.string()),
        pa.array([1, None, 3, 4, 5, 6, 7], pa.int32()),
        pa.array([Decimal(i) / 100 for i in range(6)] + [None], pa.decimal128(20, 2)),
        pa.array([None, *[datetime.date(2026, 1, i + 1) for i in range(6)]]),
    ]
    unheld = pa.array(["infinity", *[None] * 6])
    hashing = KeyHash([one.type for one in columns], SEED)
    together = hashing.of(columns, [None, None, None, unheld])
    for i in range(len(texts)):
        alone = hashing.of([one.slice(i, 1) for one in columns], [None, None, None, unheld.slice(i, 1)])
        assert alone.main[0] == together.main[i]
    assert len(np.unique(together.main)) == len(texts)
    wider = hashing.of([columns[0], columns[1].cast(pa.int64()), *columns[2:]], [None, None, None, unheld])
    assert np.array_equal(wider.main, together.main), "a widened column gives other keys"
    other = hashing.of(columns, [None, None, None, pa.array(["-infinity", *[None] * 6])])
    assert other.main[0] != together.main[0]
    assert np.array_equal(other.main[1:], together.main[1:])


def test_two_columns_do_not_run_into_each_other() -> None:
    hashing = KeyHash([pa.string(), pa.string()], SEED)
    keys = hashing.of([pa.array(["ab", "a", ""]), pa.array(["c", "bc", "abc"])])
    assert len(np.unique(keys.main)) == 3


@pytest.mark.parametrize("aside", [10, 10**9], ids=["merged aside", "merged at once"])
def test_each_key_is_found_where_it_was_written_last(
    aside: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_index, "ASIDE", aside)
    monkeypatch.setattr(key_index, "SMALLEST", 4)
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    chance = random.Random(seed)
    index, model, end = KeyIndex(tmp_path), dict[int, int](), 0
    dead = np.zeros(100_000, np.bool_)
    for step in range(200):
        numbers = chance.sample(range(300), chance.randint(1, 20))
        places = index.find(exact(numbers), dead)
        assert [int(p) for p in places] == [model.get(n, NOWHERE) for n in numbers]
        dead[places[places != NOWHERE]] = True
        if chance.random() < 0.2:
            for n in numbers:
                model.pop(n, None)
        else:
            index.add(exact(numbers), np.arange(end, end + len(numbers)), dead)
            model.update(zip(numbers, range(end, end + len(numbers)), strict=True))
            end += len(numbers)
        if step % 50 == 49:
            index.save({"step": step})
            index.close()
            index = KeyIndex(tmp_path)
            assert (index.load() or {})["step"] == step
        if step == 120:
            shift = np.cumsum(dead[:end])
            live = np.arange(end)[~dead[:end]]
            moved = {int(p): int(p - shift[p]) for p in live}
            index.renumber(lambda places, shift=shift: places - shift[places], dead)  # type: ignore[misc]
            model = {n: moved[p] for n, p in model.items()}
            dead[:] = False
            end = len(live)
    index.close()


def test_a_collision_of_the_first_half_is_no_hit() -> None:
    index = KeyIndex()
    dead = np.zeros(10, np.bool_)
    halves = np.array([7, 7, 7, 9], np.uint64)
    index.add(Keys(halves, np.array([1, 2, 3, 4], np.uint64)), np.arange(4), dead)
    asked = Keys(np.array([7, 7, 9, 7], np.uint64), np.array([3, 5, 4, 1], np.uint64))
    assert index.find(asked, dead).tolist() == [2, NOWHERE, 3, 0]
    dead[2] = True
    assert index.find(asked, dead).tolist() == [NOWHERE, NOWHERE, 3, 0]


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "manifest"])
def test_a_damaged_index_is_not_believed(tmp_path: Path, damage: str) -> None:
    index = KeyIndex(tmp_path)
    index.add(exact(list(range(100))), np.arange(100), np.zeros(100, np.bool_))
    index.save({})
    file = next(tmp_path.glob("*.places.npy"))
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:-8])
    elif damage == "changed":
        content[-3] ^= 1
        file.write_bytes(content)
    elif damage == "missing":
        file.unlink()
    else:
        (tmp_path / key_index.MANIFEST).write_text("{")
    fresh = KeyIndex(tmp_path)
    assert fresh.load() is None
    assert len(fresh) == 0
