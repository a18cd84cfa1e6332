import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.disk import Chosen, Lookup, Spilled, distinct, number, numbers, rows, texts
from finetune.records import Mined, Pair, write_jsonl

PAIRS = [
    Pair("1", "房东\u2028不退\r\n押金\x85", "应当退还", "law", ("甲", "乙")),
    Pair("2", "", "x" * 10_000, "law"),
    Pair("3", "🏠", "家", "law"),
]


@pytest.fixture
def file(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", PAIRS)
    return tmp_path / "rows.jsonl"


def test_rows_are_read_by_place_by_slice_and_one_after_the_other(file):
    found = rows(file, Pair)
    assert len(found) == 3 and list(found) == PAIRS
    assert [found[place] for place in (2, 0, -1, np.int64(1))] == [PAIRS[n] for n in (2, 0, 2, 1)]
    assert found[1:] == PAIRS[1:] and found[::-2] == PAIRS[::-2] and found[5:] == []
    assert PAIRS[1] in found and found.index(PAIRS[2]) == 2
    with pytest.raises(IndexError):
        found[3]


def test_spilled_rows_are_read_while_others_are_appended():
    found = Spilled(Pair, PAIRS[:1])
    assert found[0] == PAIRS[0] and list(found) == PAIRS[:1]
    for pair in PAIRS[1:] * 700:  # more than are read at a time
        found.append(pair)
    expected = PAIRS[:1] + PAIRS[1:] * 700
    assert len(found) == 1401 and list(found) == expected
    assert [found[place] for place in (-1, np.int64(1))] == [PAIRS[2], PAIRS[1]]
    assert found[999:1001] == expected[999:1001] and found[::-500] == expected[::-500]
    assert found[9:3] == [] and list(Spilled(Mined)) == []
    assert Spilled(str, ["问", "答"]) == ["问", "答"] != Spilled(str, ["问"])
    with pytest.raises(IndexError):
        found[1401]


def test_chosen_of_chosen_rows():
    some = Chosen(Chosen(PAIRS, [2, 0, 1]), np.array([0, 2]))
    assert list(some) == [PAIRS[2], PAIRS[1]] and len(some) == 2 and some[-1] == PAIRS[1]
    assert some[:5] == [PAIRS[2], PAIRS[1]]
    with pytest.raises(IndexError):
        some[2]


def test_an_empty_file_has_no_rows(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    found = rows(tmp_path / "rows.jsonl", Mined)
    assert len(found) == 0 and list(found) == found[:] == []
    with pytest.raises(IndexError):
        found[0]


def test_texts_of_a_file(tmp_path):
    write_jsonl(tmp_path / "pool.jsonl", ({"text": text} for text in "甲乙甲"))
    assert list(texts(tmp_path / "pool.jsonl")) == ["甲", "乙", "甲"]
    assert texts(tmp_path / "pool.jsonl")[1] == "乙"


def test_a_text_has_the_same_number_everywhere():
    # blake2b of eight bytes, little-endian, signed: part of what later versions must give too
    assert number("押金") == int.from_bytes(
        bytes.fromhex("a00c1e2fbb2f40fc"), "little", signed=True
    )
    assert number("a\ud83d") != number("a")  # half a character is a text like any other
    assert len(set(numbers(f"文{n}" for n in range(20_000)).tolist())) == 20_000


def test_each_text_once_in_order():
    assert list(distinct("乙甲乙丙甲")) == ["乙", "甲", "丙"]


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 99))), st.lists(st.integers(-4, 4)))
def test_a_lookup_finds_what_a_dictionary_of_lists_does(entries, asked):
    known = {}
    for key, value in entries:
        known.setdefault(key, []).append(value)
    keys, values = (np.array([each[n] for each in entries], np.int64) for n in (0, 1))
    lookup, wanted = Lookup(keys, values), np.array(asked, np.int64)
    for key in range(-4, 5):
        assert lookup[key].tolist() == known.get(key, [])
    assert lookup.find(wanted).tolist() == [known.get(key, [-1])[0] for key in asked]
    if set(asked) <= known.keys():
        assert lookup.first(wanted).tolist() == [known[key][0] for key in asked]
    else:
        with pytest.raises(KeyError):
            lookup.first(wanted)


def test_without_values_a_lookup_tells_places():
    lookup = Lookup(numbers(["甲", "乙", "甲"]))
    assert lookup[number("甲")].tolist() == [0, 2]
    assert lookup.first(numbers(["乙", "甲"])).tolist() == [1, 0]
