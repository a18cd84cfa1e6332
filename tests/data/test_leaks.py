import pytest

from finetune.data import leaks
from finetune.records import Pair, Scored
from finetune.sets import EvaluationSet, ScoredSet

LONG = "房东去年春天拒绝退还我的押金金额是三千五百元可以要求他赔偿吗"
DEV = EvaluationSet(
    "dev",
    {"1": "试用期被辞退", "2": LONG},
    {"a": "劳动合同法第三十九条", "b": "押金应当退还", "c": "旁的条文"},
    {"1": {"a": 1}, "2": {"b": 1, "c": 0}},
)


def reason(query, positive, sets=(DEV,)):
    found = leaks.find([Pair("p", query, positive, "s")], sets, 0.7)
    return found.get("p")


@pytest.mark.parametrize(
    ("query", "positive", "why"),
    [
        ("试用期被辞退", "别的", (leaks.LEAK, "dev: query 1")),
        ("試用期，被辭退！", "别的", (leaks.LEAK, "dev: query 1")),
        ("请问" + LONG, "别的", (leaks.NEAR_LEAK, "dev: query 2")),
        ("押金应当退还", LONG, (leaks.PAIR_LEAK, "dev: passage b of query 2")),
        ("被辞退怎么办", "劳动合同法第三十九条。", (leaks.GOLD, "dev: passage a of query 1")),
        ("被辞退怎么办", "旁的条文", None),  # in the corpus, and the answer to nothing
        (LONG.replace("三千", "四千"), "别的", None),  # another number, another question
        ("别的", LONG, None),
    ],
)
def test_what_is_a_leak(query, positive, why):
    assert reason(query, positive) == why


ARTICLE = "第三十九条：劳动者在试用期间被证明不符合录用条件的，用人单位可以解除劳动合同。"


@pytest.mark.parametrize(
    ("title", "found"),
    [("《劳动合同法》", leaks.GOLD), ("中华人民共和国劳动合同法", leaks.GOLD), ("", leaks.GOLD),
     ("劳动合同法规定，依第四十条或者", None)],
)  # fmt: skip
def test_an_answer_is_one_whatever_the_law_is_called(title, found):
    dev = EvaluationSet(
        "dev", {"1": "试用期被辞退"}, {"a": f"劳动合同法{ARTICLE}"}, {"1": {"a": 1}}
    )
    why = reason("被辞退怎么办", title + ARTICLE, (dev,))
    assert why == (found and (found, "dev: passage a of query 1"))


def test_pairs_of_a_similarity_set_whichever_way_round():
    sets = (ScoredSet("sts", (Scored("7", "甲句", "乙句", 1.0, "s"),)),)
    assert reason("乙句", "甲句。", sets) == (leaks.PAIR_LEAK, "sts: pair 7")
    assert reason("甲句", "丙句", sets) is None


def test_both_texts_of_a_scored_pair_may_be_asked():
    rows = [
        Scored("x", "别的", "試用期被辭退", 0.0, "s"),
        Scored("y", "别的", LONG + "呢", 0.0, "s"),
    ]
    found = leaks.find(rows, (DEV,), 0.7)
    assert {key: why[0] for key, why in found.items()} == {"x": leaks.LEAK, "y": leaks.NEAR_LEAK}


def test_without_evaluation_sets_nothing_is_suspect():
    assert leaks.find([Pair("p", "问", "答", "s")], (), 0.7) == {}
