from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.switching import switched

TERMS = [
    ("违约金", "liquidated damages"), ("合同", "contract"), ("劳动合同", "employment contract"),
    ("工资", "salary"), ("工资", "pay"),
]  # fmt: skip


def outcomes(text, terms=TERMS):
    change = switched(terms)
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
    ],
)
def test_a_term_is_called_by_its_other_name(text, made):
    assert outcomes(text) == made


def test_signs_of_patterns_are_taken_as_they_are():
    assert outcomes("学C++吗", [("C++", "西加加")]) == {"学西加加吗"}
    assert outcomes("学Cpp吗", [("C++", "西加加")]) == set()


@given(st.lists(st.tuples(*[st.text(min_size=1)] * 2), min_size=1), st.text())
def test_any_terms_in_any_text(terms, text):
    change = switched(terms)
    assert change(text, Random(0)) == change(text, Random(0))
