import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.records import Mined, Pair, normalised, read_json, read_jsonl, write_json, write_jsonl

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ids = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


@given(st.lists(st.builds(Pair, ids, texts, texts, texts, st.tuples(texts, texts))))
def test_pairs_come_back_as_written(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    assert write_jsonl(path, pairs) == len(pairs)
    assert list(read_jsonl(path, Pair)) == pairs


def test_chinese_stays_readable_and_lines_stay_whole(tmp_path):
    row = Mined("1", "房东\u2028不退", "押金\n条款", ("甲",), (0.5, 0.25), "来源")
    write_jsonl(tmp_path / "a.jsonl", [row, row])
    text = (tmp_path / "a.jsonl").read_text("utf-8")
    assert "房东" in text and text.count("\n") == 2
    assert list(read_jsonl(tmp_path / "a.jsonl", Mined)) == [row, row]


@pytest.mark.parametrize(
    ("one", "other"),
    [("Ａ１，b", "a1B"), ("《民法典》第 一 条", "民法典第一条"), ("ﬁn", "FIN"), ("①", "1")],
)
def test_texts_that_compare_equal(one, other):
    assert normalised(one) == normalised(other) != ""


@pytest.mark.parametrize(("one", "other"), [("押金", "押金金"), ("1.5", "1.6"), ("房東", "房东")])
def test_texts_that_do_not(one, other):
    assert normalised(one) != normalised(other)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"键": 1})
    with pytest.raises(TypeError):
        write_json(path, {"键": object()})
    assert read_json(path) == {"键": 1}
    assert json.loads(path.read_text("utf-8")) == {"键": 1} and "键" in path.read_text("utf-8")
