import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.records import (
    EvaluationSet,
    Mined,
    Pair,
    half,
    normalised,
    read_json,
    read_jsonl,
    read_set,
    write_json,
    write_jsonl,
    write_set,
)

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


@given(st.dictionaries(ids, texts, min_size=1, max_size=5), st.data())
def test_a_set_comes_back_as_written(tmp_path_factory, corpus, data):
    queries = data.draw(st.dictionaries(ids, texts, min_size=1, max_size=5))
    relevance = st.dictionaries(st.sampled_from(sorted(corpus)), st.integers(0, 3), min_size=1)
    qrels = {query: data.draw(relevance) for query in queries}
    folder = tmp_path_factory.mktemp("sets") / "legal"
    written = EvaluationSet("legal", queries, corpus, qrels)
    write_set(folder, written)
    assert read_set(folder) == written


def test_only_keeps_the_order_and_the_corpus():
    whole = EvaluationSet(
        "s", {"a": "1", "b": "2", "c": "3"}, {"d": "4"}, {"a": {"d": 1}, "c": {"d": 0}}
    )
    part = whole.only({"c", "a", "gone"})
    assert list(part.queries.items()) == [("a", "1"), ("c", "3")]
    assert part.qrels == {"a": {"d": 1}, "c": {"d": 0}} and part.corpus is whole.corpus


@pytest.mark.parametrize(
    # first bytes of SHA-256: 2c (even), 62 (even), 8e (even), 6b (odd)
    ("query", "expected"),
    [("foo", "select"), ("b", "select"), ("什么", None), ("1", "report")],
)
def test_the_half_of_a_query_never_changes(query, expected):
    import hashlib

    odd = int(hashlib.sha256(query.encode()).hexdigest()[:2], 16) % 2
    assert half(query) == ("report" if odd else "select")
    if expected:
        assert half(query) == expected


def test_halves_are_about_equal():
    halves = [half(f"q{n}") for n in range(2000)]
    assert 900 < halves.count("select") < 1100


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
