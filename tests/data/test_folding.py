import pytest
from opencc import OpenCC

from finetune.config.choices import Duplicates
from finetune.data.folding import alike, folded
from finetune.data.statutes import FOLDER
from finetune.inference.script import one_script_only
from finetune.records import read_dicts


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("头发发展", "頭髮發展"),
        ("皇后在后面", "皇后在後面"),
        ("了解家具", "瞭解傢俱"),  # OpenCC changes these in words only
        ("干净的乾隆", "乾淨的乾隆"),
        ("Ａ１，想象！", "a1想像"),
    ],
)
def test_scripts_and_punctuation_fold_into_one(text, other):
    assert folded(text) == folded(other)


@pytest.mark.parametrize(("text", "other"), [("15克", "16克"), ("买", "卖"), ("软件", "軟體")])
def test_other_words_stay_apart(text, other):
    assert folded(text) != folded(other)


@pytest.mark.parametrize("name", ["s2t", "s2tw", "s2hk"])
def test_a_conversion_of_any_question_folds_back(name):
    convert = OpenCC(name).convert
    for row in read_dicts(FOLDER / "training.jsonl"):
        assert folded(convert(row["question"])) == folded(row["question"])


def test_the_strictest_form_is_named():
    assert alike(("问",), ("问",)) is Duplicates.exact
    assert alike(("问",), ("问？",)) is Duplicates.punctuation
    assert alike(("问？",), ("問",)) is Duplicates.script
    assert alike(("问", "答"), ("問", "回")) is Duplicates.none


def test_characters_that_both_scripts_have_belong_to_neither():
    simplified, traditional = one_script_only()
    assert {"发", "问"} <= simplified and {"髮", "問"} <= traditional
    assert not set("后里干台") & (simplified | traditional)
