import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.config import ranges
from finetune.data.clean import comparable
from finetune.data.synthesize import GENERATORS, sentences, synthesize
from finetune.inference.script import converter
from finetune.records import Passage

LAW = Passage(
    "a", "劳动法", "工作时间", "每日工作不超过八小时。加班须支付报酬。", "劳动法 第一条："
)
REST = Passage("b", "劳动法", "休息休假", "劳动者每周至少休息一日。", "劳动法 第二条：")
FAQ = Passage("c", "退货", "怎么退货？", "能退几次？一件商品可以退一次。运费谁出？由商家承担。")


def made(name, *passages):
    return [(pair.query, pair.positive) for pair in synthesize(passages, {name: 1.0}, 99, 0)]


def test_the_configuration_names_the_generators():
    assert set(ranges.GENERATORS) == set(GENERATORS)


def test_a_title_asks_for_its_first_passage():
    assert made("title", LAW, REST) == [("劳动法", "劳动法 第一条：" + LAW.text)]


def test_documents_of_one_title_each_give_a_pair():
    names = ["a/说明.md#0", "a/说明.md#1", "b/说明.md#0"]
    passages = [Passage(name, "说明", "", f"正文{name}") for name in names]
    assert set(made("title", *passages)) == {
        ("说明", "正文a/说明.md#0"),
        ("说明", "正文b/说明.md#0"),
    }


def test_a_heading_asks_for_the_passages_under_it():
    assert set(made("heading", LAW, REST)) == {
        ("劳动法 工作时间", LAW.text),
        ("劳动法 休息休假", REST.text),
    }


def test_a_question_asks_for_the_sentences_after_it_up_to_the_next_question():
    assert set(made("question", FAQ, LAW)) == {
        ("怎么退货？", FAQ.text),
        ("能退几次？", "一件商品可以退一次。"),
        ("运费谁出？", "由商家承担。"),
    }


@pytest.mark.parametrize("asked", ["押金退還是什麼", "押金會退嗎", "押金退吗", "押金怎么"])
def test_a_question_may_be_told_by_its_last_word_in_either_script(asked):
    text = f"{asked}\n押金應當退還。"
    assert made("question", Passage("a", "", "", text)) == [(asked, "押金應當退還。")]


def test_cloze_takes_the_sentence_out_of_its_passage():
    assert made("cloze", LAW, REST)[0] in [
        ("每日工作不超过八小时", "劳动法 第一条：加班须支付报酬。"),
        ("加班须支付报酬", "劳动法 第一条：每日工作不超过八小时。"),
    ]
    assert len(made("cloze", LAW, REST)) == 1  # the other has one sentence


def test_neighbours_follow_each_other():
    assert made("neighbours", LAW, REST) == [("每日工作不超过八小时。", "加班须支付报酬。")]


def test_over_a_short_sentence_there_are_no_neighbours():
    assert made("neighbours", FAQ) == []
    text = "一件商品可以退一次。运费谁出？运费由商家来承担。退款在三天内退回。"
    (pair,) = made("neighbours", Passage("a", "", "", text))
    assert pair == ("运费由商家来承担。", "退款在三天内退回。")


def test_identity_is_the_passage_as_the_corpus_holds_it():
    assert made("identity", REST) == [(REST.indexed, REST.indexed)]


def test_phrases_are_the_rarest_of_the_passage():
    common = [Passage(str(i), "", "", "国家机关，工作人员，书面通知") for i in range(9)]
    rare = Passage(
        "r",
        "",
        "",
        "国家机关，熊猫竹子，工作人员，高山流水，书面通知，江河湖海，山川草木，春夏秋冬",
    )
    ((query, positive),) = (row for row in made("phrases", *common, rare) if row[1] == rare.text)
    phrases = {"熊猫竹子", "高山流水", "江河湖海", "山川草木", "春夏秋冬"}
    used = {each for each in phrases if each in query}
    assert len(used) >= 2 or (used and "国家机关" not in query)


@pytest.mark.parametrize("name", ["phrases", "words"])
def test_of_one_text_in_either_script_the_same_is_asked(name):
    """Ending and border words are of the passage's own script."""
    texts = [
        "承租人应当与出租人对押金为约定，将租金按照规定支付，有关第三条罚则",
        "根据约定处罚承租人",
        "出租人可以将押金扣留",
        "租金与罚则",
    ]
    passages = [Passage(str(number), "", "", text) for number, text in enumerate(texts)]
    convert = converter("s2tw")
    others = [replace(each, text=convert(each.text)) for each in passages]
    for seed in range(9):
        asked, same = (
            [pair.query for pair in synthesize(each, {name: 1.0}, 99, seed)]
            for each in (passages, others)
        )
        assert asked and same == [convert(query) for query in asked]


def words_of(*passages, seed=0):
    """Terms of the query that each passage gets."""
    pairs = synthesize(passages, {"words": 1.0}, 999, seed)
    assert {pair.source for pair in pairs} <= {"generated-words"}
    return {pair.positive: pair.query.split(" ") for pair in pairs}


def test_words_are_the_most_telling_of_the_passage_in_its_order():
    law = ["国家", "机关", "工作", "人员", "书面", "通知", "单位", "责任"]
    own = ["熊猫", "竹子", "高山", "流水", "江河"]
    draw = random.Random(0)
    common = [Passage(str(n), "", "", "".join(draw.sample(law, 6)) + "。") for n in range(200)]
    # Words of law stand between, so that counts alone tell where these end.
    text = "".join(a + b for a, b in zip(own * 2, law + law[:2], strict=True))
    rare = Passage("r", "", "", text, "标签：")
    counts, lengths = Counter(), set()
    for seed in range(20):
        (found,) = (each for text, each in words_of(*common, rare, seed=seed).items()
                    if text == rare.indexed)  # fmt: skip
        assert len(set(found)) == len(found) and found == sorted(found, key=text.index)
        lengths.add(len(found))
        counts.update(found)
    assert lengths == {2, 3, 4, 5}
    assert set(counts) == set(own)


def test_of_words_equally_rare_those_that_stand_in_the_passage_often_tell_more():
    words = sorted(["押金", "工资", "合同", "离婚", "孩子", "产假", "社保"])
    passages = [Passage(f"{n}{word}", "", "", f"{word}。") for n in range(4) for word in words]
    often = Passage("o", "", "", "。".join([*words, *words[4:]]))
    found = {
        term for seed in range(20) for term in words_of(*passages, often, seed=seed)[often.text]
    }
    assert found == {*words[:2], *words[4:]}  # of the others those that come first


def test_a_passage_with_one_term_gives_no_words():
    assert words_of(Passage("a", "", "", "押金。"), Passage("b", "", "", "一二三，12345")) == {}


def test_shares_decide_how_many_of_each():
    passages = [
        Passage(str(i), f"题{i}", f"节{i}", f"第{i}句话说的是这件事。另外{i}句。")
        for i in range(50)
    ]
    pairs = synthesize(passages, {"title": 1, "heading": 3, "cloze": 0}, 20, 0)
    counts = [sum(pair.source == f"generated-{name}" for pair in pairs)
              for name in ("title", "heading", "cloze")]  # fmt: skip
    assert counts == [5, 15, 0]


def test_a_seed_decides_and_the_order_of_the_passages_does_not():
    passages = [Passage(str(i), "", "", f"这是第{i}句话啊。那是第{i}句话啊。") for i in range(20)]
    first = synthesize(passages, {"cloze": 1}, 99, 0)
    assert first == synthesize(passages, {"cloze": 1}, 99, 0)
    assert first != synthesize(passages, {"cloze": 1}, 99, 1)
    turned = synthesize(passages[::-1], {"cloze": 1}, 99, 0)
    assert {pair.id: pair for pair in turned} == {pair.id: pair for pair in first}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=60)), max_size=6))
def test_any_text_gives_pairs_that_differ_and_are_not_empty(rows):
    passages = [Passage(str(i), head, head, text) for i, (head, text) in enumerate(rows)]
    pairs = synthesize(passages, dict.fromkeys(GENERATORS, 1.0), 99, 0)
    keys = [(comparable(pair.query), comparable(pair.positive)) for pair in pairs]
    assert len(set(keys)) == len(keys)
    for pair in pairs:
        assert pair.query.strip() and pair.positive.strip()
        same = comparable(pair.query) == comparable(pair.positive)
        assert same == (pair.source == "generated-identity")


@pytest.mark.parametrize(("text", "parts"), [
    ("甲。乙！丙", ["甲。", "乙！", "丙"]),
    ("（一）甲；\n（二）乙。", ["（一）甲；", "（二）乙。"]),
    ("。。\n ", []),
])  # fmt: skip
def test_sentences(text, parts):
    assert sentences(text) == parts
