import random

from finetune.data.cutting import cutter

WORDS = ("押金", "工资", "消费者", "劳动合同", "离婚", "产假", "侵权", "责任", "公积金", "继承")


def sentences(count, words=WORDS):
    draw = random.Random(0)
    return ["".join(draw.choices(words, k=8)) for _ in range(count)]


def test_words_are_found_where_their_characters_hold_together():
    cut = cutter(sentences(500))
    assert cut("消费者押金劳动合同公积金") == ["消费者", "押金", "劳动合同", "公积金"]
    assert cut("产假工资") == ["产假", "工资"]


def test_a_latin_word_is_a_term_and_numbers_and_single_characters_are_none():
    texts = sentences(500)
    assert cutter(texts)("产假iPhone15工资transformers") == [
        "产假",
        "iPhone15",
        "工资",
        "transformers",
    ]
    cut = cutter([*texts, "2024", "三百", "押", "__", "产假2024年"])
    found = [cut(each) for each in ("2024", "三百", "押", "", "A", "__", "产假2024年")]
    assert found == [[], [], [], [], [], [], ["产假"]]


def test_what_is_longer_than_a_term_is_none():
    assert cutter(["甲乙丙丁戊己庚"])("甲乙丙丁戊己庚") == []
    assert cutter(["甲乙丙丁戊己"])("甲乙丙丁戊己") == ["甲乙丙丁戊己"]
