import pytest

from finetune.data import texts
from finetune.data.texts import Kind


def test_characters_are_counted_by_kind():
    counts = texts.count(["发abc。", "", "髮の한1后"])
    assert counts.by_kind[:, [Kind.simplified, Kind.traditional, Kind.kana]].tolist() == [
        [1, 0, 0], [0, 0, 0], [0, 1, 1],
    ]  # fmt: skip
    assert counts.of(Kind.hangul, Kind.latin, Kind.han).tolist() == [3, 0, 2]
    assert counts.length.tolist() == [5, 0, 5]


def test_a_text_of_a_letter_or_a_name_is_not_english():
    said = ["T", "iPhone", "A/B 12", "What is the deposit?"]
    assert texts.count(said).english.tolist() == [False, False, False, True]


def test_a_text_is_in_a_script_that_its_characters_tell():
    counts = texts.count(
        ["头发", "頭髮", "头髮", "皇后", "iPhone 手机问题", "take it or leave it 好"]
    )
    assert counts.simplified.tolist() == [True, False, False, False, True, False]
    assert counts.traditional.tolist() == [False, True, False, False, False, False]
    assert counts.mixed.tolist() == [False, False, True, False, False, False]
    assert counts.english.tolist() == [False, False, False, False, False, True]


@pytest.mark.parametrize(
    "text", ["a<br>b", "<p class='x'>", "1 &lt; 2", "&nbsp;", "x<!-- y", "</DIV>"]
)
def test_html_remains(text):
    assert texts.has_html(text)


@pytest.mark.parametrize("text", ["<合同法>", "a < b > c", "R&D", "1<2", "AT&T; 和"])
def test_what_is_no_html(text):
    assert not texts.has_html(text)


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("答案锟斤拷锟斤拷", True),
        ("答案�", True),
        ("烫烫烫烫", True),
        ("æŠ¼é‡‘", True),  # 押金 in UTF-8, read as Windows does
        ("答：æ\x8a¼é\x87\x91", True),  # and as Latin-1
        ("房东不退押金".encode().decode("gb18030", "ignore"), True),
        ("押金怎么退？ 3天".encode("gb18030").decode("latin-1"), True),
        ("Ñº½ð", True),
        ("", False),
        ("T恤 naïve, Ñandú ½ «é»", False),
        ("“café”… Nestlé’s São Paulo été", False),
        ("锛子，涓涓细流，在屯里屯着，烫", False),
    ],
)
def test_texts_that_were_read_in_another_encoding(text, broken):
    assert texts.is_broken(text) == broken


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("①面积90㎡", {"①": "1", "㎡": "m2"}),
        ("ﬁ ①①", {"ﬁ": "fi", "①": "1"}),
        ("ｶﾀ｡", {"ｶ": "カ", "ﾀ": "タ", "｡": "。"}),
        ("Ａ１ｂ", {"Ａ": "A", "１": "1", "ｂ": "b"}),
        ("\uf9d1\U0002f800", {"\uf9d1": "六", "\U0002f800": "丽"}),
        ("a\xa0b", {"\xa0": " "}),
    ],
)
def test_compatibility_characters(text, found):
    assert texts.compatible(text) == found


def test_what_chinese_is_written_with_is_no_compatibility_character():
    full_width = "".join(chr(code) for code in range(0xFF01, 0xFF5F) if not chr(code).isalnum())
    assert len(full_width) == 32
    written = ("好，是！对？不；（甲）：乙", "甲\u3000乙……", "￥5——“丙”《丁》、·。", "が café カ")
    for text in (full_width, *written):
        assert texts.compatible(text) == {}


def test_more_texts_than_a_chunk(monkeypatch):
    monkeypatch.setattr(texts, "_CHUNK", 2)
    assert texts.count(["一", "二二", "三三三"]).length.tolist() == [1, 2, 3]
    assert texts.with_compatible(["一①", "", "①①", "二\U000f0000", "", "㎡三"]) == [0, 2, 5]
