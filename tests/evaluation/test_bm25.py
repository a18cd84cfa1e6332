import builtins

import pytest

from finetune.errors import UserError
from finetune.evaluation import bm25
from finetune.evaluation.retrieval import score
from finetune.sets import EvaluationSet


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("房东不退", ["房东", "东不", "不退"]),
        ("第 1 条，", ["第1", "1条"]),
        ("ＡB", ["ab"]),
        ("法", ["法"]),
        ("？！", [""]),
    ],
)
def test_bigrams(text, expected):
    assert bm25.bigrams(text) == expected


def test_single_characters_count_too():
    assert bm25.grams("押金法") == ["押", "金", "法", "押金", "金法"]
    assert bm25.grams("法") == ["法"] and bm25.grams("？！") == [""]
    ranking = found({"q": "金额"}, {"a": "押一付三", "b": "定金"})
    assert ranking.documents[0][0] == "b" and ranking.scores[0, 0] > 0


CORPUS = {
    "a": "房东应当退还押金",
    "b": "公司应当支付工资",
    "c": "押金不得超过一个月租金",
    "d": "离婚",
}


def found(queries, corpus=CORPUS, depth=100):
    return bm25.rank(EvaluationSet("s", queries, corpus, {}), depth)


def test_more_and_rarer_shared_bigrams_come_first():
    ranking = found({"q1": "房东的押金", "q2": "老板的工资", "q3": "离婚"})
    assert [row[0] for row in ranking.documents] == ["a", "b", "d"]
    assert set(ranking.documents[0][:2]) == {"a", "c"}
    assert all(len(row) == 4 for row in ranking.documents)
    assert (ranking.scores[:, 0] > ranking.scores[:, 2]).all()


def test_it_needs_no_model_to_find_a_copy():
    queries = {key: text + "吗？" for key, text in CORPUS.items()}
    ranking = found(queries)
    assert score(ranking, {key: {key: 1} for key in CORPUS})["mrr@10"].tolist() == [1.0] * 4


def test_depth_and_small_corpora():
    assert len(found({"q": "押金"}, depth=2).documents[0]) == 2
    assert found({"q": "押金"}, {"only": "离婚"}).documents == (("only",),)


def test_a_query_of_unknown_characters_still_gets_a_ranking():
    assert sorted(found({"q": "xyz", "r": "？"}).documents[0]) == sorted(CORPUS)


def test_without_bm25s_the_command_is_told(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "bm25s":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'finetune\[evaluate\]'"):
        found({"q": "押金"})


def test_the_first_of_each_query():
    passages = list(CORPUS.values())
    assert bm25.first(["离婚", "工资", "？！", "无关文"], passages).tolist() == [3, 1, -1, -1]
