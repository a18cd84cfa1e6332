import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.sets import EvaluationSet, half, read_set, write_set

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ids = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


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
