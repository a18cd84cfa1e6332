"""Slips of the keyboard, each by itself."""

import unicodedata
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.folding import folded
from finetune.data.typos import (
    CHANGES,
    _readings,
    deletion,
    homophone,
    is_fixed,
    punctuation,
    shape,
)
from finetune.records import normalised

QUESTION = "公司拖欠工资应该怎么投诉"
TEXTS = st.text(
    st.sampled_from("公司拖欠工资怎么投诉不没第十五条甲方3月,，。？！ abXY３（）勞動契約這𠮷☃"),
    max_size=24,
)


def outcomes(change, text, tries=300):
    """All that a change was seen to make of a text, but for the text itself."""
    return {change(text, Random(seed)) for seed in range(tries)} - {text}


def places(text, made):
    """Where two texts of one length differ."""
    assert len(text) == len(made)
    return [place for place in range(len(text)) if text[place] != made[place]]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_same_chance_makes_the_same(change):
    for seed in range(20):
        assert change(QUESTION, Random(seed)) == change(QUESTION, Random(seed))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@settings(deadline=None)  # the first text waits for the tables of characters
@given(text=TEXTS, seed=st.integers(0, 99))
def test_no_number_and_no_negation_is_changed_made_or_left_out(change, text, seed):
    def fixed(each):
        return [char for char in unicodedata.normalize("NFKC", each) if is_fixed(char)]

    made = change(text, Random(seed))
    assert fixed(made) == fixed(text)
    assert made.strip() or not text.strip()


@settings(deadline=None)
@given(TEXTS)
def test_each_character_has_its_reading(text):
    assert len(_readings(text)) == len(text)


def test_a_homophone_is_another_character_of_the_same_pinyin():
    found = outcomes(homophone, QUESTION)
    assert len(found) > 20
    for made in found:
        (place,) = places(QUESTION, made)
        assert _readings(made[place]) == [_readings(QUESTION)[place]]
        assert folded(made) != folded(QUESTION)
    assert "公司拖欠工资应该怎么头诉" in found


def test_a_character_is_read_in_its_word():
    # 行 is háng in 银行 and xíng in 行人.
    in_bank = {made[1] for made in outcomes(homophone, "银行") if made[1] != "行"}
    on_foot = {made[0] for made in outcomes(homophone, "行人") if made[0] != "行"}
    assert "航" in in_bank and "航" not in on_foot
    assert "形" in on_foot and "形" not in in_bank


def test_typos_of_a_traditional_text_are_traditional():
    from finetune.inference.script import is_traditional

    text = "這個勞動契約還有效嗎"
    made = outcomes(homophone, text) | outcomes(shape, text)
    assert len(made) > 20
    for each in made:
        (place,) = places(text, each)
        assert each[place].encode("big5") and is_traditional(each)


@pytest.mark.parametrize(
    ("text", "slip"), [("眼睛疼", "眼晴疼"), ("已经", "己经"), ("拨打", "泼打"), ("答辩", "答辫")]
)
def test_a_shape_that_is_mistaken(text, slip):
    assert slip in outcomes(shape, text)


def test_shapes_that_share_a_radical_only_are_not_mistaken():
    # 情 and 怕 share 心 alone, and differ in the larger part.
    made = {each[0] for each in outcomes(shape, "情")}
    assert {"清", "晴"} <= made and "怕" not in made
    # Of 诉 the shared 言 is the larger part, but half a hundred characters have it.
    assert outcomes(shape, "诉") == set()


def test_what_is_left_out_stands_beside_no_number_and_no_negation():
    text = "我在3月5日签的合同不合法怎么办"
    left = {text[:place] + text[place + 1 :]: text[place] for place in range(len(text))}
    gone = {left[made] for made in outcomes(deletion, text)}
    assert gone == set("我签的合法怎么办")  # of 合同 the first character: 同 stands beside 不
    assert "我在3月5日签的合同不法怎么办" not in outcomes(deletion, text)


def test_of_a_short_text_nothing_is_left_out():
    assert outcomes(deletion, "押金不退？") == set()
    assert outcomes(deletion, "押金没还") == set()


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("怎么办？", {"怎么办", "怎么办？？", "怎么办?"}),
        ("押金,怎么退", {"押金怎么退", "押金，怎么退"}),
        ("3,000元", {"３，０００元"}),  # without the comma between digits it would be read anew
        ("工作三，四年？", {"工作三，四年", "工作三，四年？？", "工作三,四年?"}),
        ("他不，签，行吗", {"他不，签行吗", "他不,签,行吗"}),
        ("ｉＰｈｏｎｅ坏了", {"iPhone坏了"}),
        ("？", {"？？", "?"}),
        ("怎么办", set()),
    ],
)
def test_marks_and_widths(text, made):
    assert outcomes(punctuation, text) == made


@given(text=TEXTS, seed=st.integers(0, 99))
def test_marks_and_widths_leave_letters_and_digits_alone(text, seed):
    assert normalised(punctuation(text, Random(seed))) == normalised(text)
