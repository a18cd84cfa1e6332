from collections import Counter

import pytest

from finetune.data import clean


@pytest.mark.parametrize(
    ("found", "kept", "changes"),
    [
        ("合同", "合同", {}),
        ("\ufeff合同\x00", "合同", {clean.CONTROLS: 1}),
        (" \u3000合同\n", "合同", {clean.SPACE: 1}),
        ("甲\x0b乙", "甲 乙", {clean.CONTROLS: 1}),
        ("第一行\n\t第二行", "第一行\n\t第二行", {}),
        ("①ＡＢＣ，ﬁ", "①ＡＢＣ，ﬁ", {}),  # NFKC is for comparison only
        ("合\u200b\u200d同\u2060", "合同", {clean.CONTROLS: 1}),
        ("合\u202e同\u2066甲\U000e0041", "合同甲", {clean.CONTROLS: 1}),
        ("❤\ufe0f", "❤\ufe0f", {}),
        ("👨\u200d👧", "👨\u200d👧", {}),  # one emoji of two
        ("æ\x8a¼é\x87\x91", "æ\x8a¼é\x87\x91", {}),  # 押金, broken: findings tell it
        ("\x01 合同 \x01", "合同", {clean.CONTROLS: 1, clean.SPACE: 1}),
    ],
)
def test_only_safe_changes_and_each_counted(found, kept, changes):
    changed = Counter()
    assert clean.text("query", found, changed) == kept
    assert changed == changes


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (42, "not text"),
        (True, "not text"),
        (["a"], "not text"),
        (b"a", "not text"),
        (None, "empty text"),
        ("", "empty text"),
        (" \u3000\n", "empty text"),
        ("\u200b\ufeff\x00", "empty text"),
        ("a\ud83d", "lone surrogate"),
    ],
)
def test_what_is_no_text_is_refused_with_its_reason(value, reason):
    with pytest.raises(clean.BadRow, match="expected") as caught:
        clean.text("query", value, Counter())
    assert caught.value.reason == reason


def test_texts_are_compared_by_letters_and_digits():
    assert clean.comparable("Ａ b，①。") == clean.comparable("ab1")


def test_texts_without_letters_stay_apart():
    assert clean.comparable("😀") != clean.comparable("👍")
