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


def test_more_texts_than_a_chunk(monkeypatch):
    monkeypatch.setattr(texts, "_CHUNK", 2)
    assert texts.count(["一", "二二", "三三三"]).length.tolist() == [1, 2, 3]
