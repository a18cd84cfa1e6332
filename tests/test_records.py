import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.records import (
    Mined,
    Pair,
    normalised,
    passage,
    read_json,
    read_jsonl,
    untitled,
    write_json,
    write_jsonl,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ids = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


@given(st.lists(st.builds(Pair, ids, texts, texts, texts, st.tuples(texts, texts))))
def test_pairs_come_back_as_written(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    assert write_jsonl(path, pairs) == len(pairs)
    assert list(read_jsonl(path, Pair)) == pairs


def test_chinese_stays_readable_and_lines_stay_whole(tmp_path):
    row = Mined("1", "房东\u2028不退", "押金\n条款", ("甲",), (0.5, 0.25), "来源")
    write_jsonl(tmp_path / "a.jsonl", [row, row])
    text = (tmp_path / "a.jsonl").read_text("utf-8")
    assert "房东" in text and text.count("\n") == 2
    assert list(read_jsonl(tmp_path / "a.jsonl", Mined)) == [row, row]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ａ１，b", "a1B"),
        ("《民法典》第 一 条", "民法典第一条"),
        ("ﬁn", "FIN"),
        ("①", "1"),
        ("截至2020.", "截至2020"),
        ("1.押金", "1、押金"),
        ("covid-19", "COVID19"),
        ("答——5元", "答：5元"),
        ("1,000元", "1000元"),
        ("３～５岁", "3-5岁"),
        ("½杯", "1/2杯"),
        ("50 ％", "50%"),
    ],
)
def test_texts_that_compare_equal(one, other):
    assert normalised(one) == normalised(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("押金", "押金金"),
        ("1.5", "1.6"),
        ("房東", "房东"),
        ("贷款15万", "贷款1.5万"),
        ("-5度", "5度"),
        ("气温-5度", "气温5度"),
        ("３－５岁", "35岁"),
        ("2/3寸", "23寸"),
        ("10：30", "1030"),
        ("≥60分", "<60分"),
        ("50%", "50"),
        ("36℃", "36c"),
        ("C++", "C"),
        ("C++", "C+"),
        ("C#", "C"),
    ],
)
def test_texts_that_do_not(one, other):
    assert normalised(one) != normalised(other)


ARTICLE = "第八条：民事主体不得违反法律。"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"《民法典》{ARTICLE}", f"中华人民共和国民法典{ARTICLE}"),
        (f"《民法典》{ARTICLE}", ARTICLE),
        (f"民法典（2020年）{ARTICLE}", "民法典 第八条 民事主体不得违反法律"),
        ("《民法典》第 8 條：民事主體不得違反法律", "民法典第8條民事主體不得違反法律"),
        ("押金，应当退还", "押金应当退还"),
    ],
)
def test_passages_that_are_one_whatever_the_law_is_called(one, other):
    assert passage(one) == passage(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"《民法典》{ARTICLE}", "《民法典》第九条：民事主体不得违反法律。"),
        (f"《民法典》{ARTICLE}", "《民法典》第八条：民事主体应当遵守法律。"),
        ("劳动法第三十八条", "劳动合同法第三十八条"),  # names without a text
        ("第九条 根据本法第八条的规定处罚", "第十条 根据本法第八条的规定处罚"),
        ("房东不退押金。见民法典第八条的规定处理", "租客不退押金。见民法典第八条的规定处理"),
    ],
)
def test_passages_that_are_not(one, other):
    assert passage(one) != passage(other)


def test_a_text_without_a_title_is_returned_itself():
    assert untitled(ARTICLE) is ARTICLE and untitled("民法典") == "民法典"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"键": 1})
    with pytest.raises(TypeError):
        write_json(path, {"键": object()})
    assert read_json(path) == {"键": 1}
    assert json.loads(path.read_text("utf-8")) == {"键": 1} and "键" in path.read_text("utf-8")
