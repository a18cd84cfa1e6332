from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.switching import switched
from finetune.inference.script import converter

TERMS = [
    ("违约金", "liquidated damages"), ("合同", "contract"), ("劳动合同", "employment contract"),
    ("工资", "salary"), ("工资", "pay"),
]  # fmt: skip


def outcomes(text, terms=TERMS):
    change = switched(terms, converter("s2tw"))
    return {change(text, Random(seed)) for seed in range(100)} - {text}


@pytest.mark.parametrize(
    ("text", "made"),
    [
        # The longest of those that begin together, one at a time.
        ("劳动合同的违约金", {"employment contract的违约金", "劳动合同的liquidated damages"}),
        ("发工资吗", {"发salary吗", "发pay吗"}),
        ("签Contract了吗", {"签合同了吗"}),
        ("contractor是谁", set()),
        ("iPhone合同", {"iPhone contract"}),
        ("合同A", {"contract A"}),
        ("什么也没有", set()),
        ("勞動合同簽了嗎", {"employment contract簽了嗎"}),
        ("liquidated damages怎麼計算", {"違約金怎麼計算"}),
    ],
)
def test_a_term_is_called_by_its_other_name(text, made):
    assert outcomes(text) == made


def test_signs_of_patterns_are_taken_as_they_are():
    assert outcomes("学C++吗", [("C++", "西加加")]) == {"学西加加吗"}
    assert outcomes("学Cpp吗", [("C++", "西加加")]) == set()


# A file of UTF-8 holds no surrogate; OpenCC ends at NUL.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1), st.text())
def test_any_terms_in_any_text(terms, text):
    change = switched(terms, converter("s2tw"))
    assert change(text, Random(0)) == change(text, Random(0))
