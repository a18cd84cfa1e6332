import logging

from finetune.mining import known_answers
from finetune.records import Pair, Scored
from finetune.training.negatives import without_known

ROWS = [
    Pair("1", "问", "答", "s", ("甲", "别，答", "乙")),
    Pair("2", "问", "别答", "s", ("丙", "丁")),
    Pair("3", "另", "三", "s", ("戊", "己", "庚")),
]


def negatives(rows, seed=0):
    return [row.negatives for row in without_known(rows, known_answers(rows), seed)]


def test_known_answers_are_taken_out_and_rows_have_equally_many(caplog):
    assert negatives(ROWS) == [("甲", "乙"), ("丙", "丁"), ("戊", "己")]
    assert [row.id for row in without_known(ROWS, known_answers(ROWS), 0)] == ["1", "2", "3"]
    assert not caplog.records


def test_a_row_with_none_gets_others_and_takes_nothing_from_the_rest(caplog):
    caplog.set_level(logging.WARNING)
    bare = Pair("4", "无", "甲", "s")  # 甲 is its answer, and another row's negative
    found = negatives([*ROWS, bare])
    assert found[:3] == negatives(ROWS) and len(set(found[3])) == 2
    assert set(found[3]) == {"丙", "戊"}
    assert found == negatives([*ROWS, bare])
    assert "1 of 4 rows have fewer than 2 negatives" in caplog.text


def test_where_few_have_any_none_are_used_and_it_is_said(caplog):
    rows = [ROWS[0], Pair("4", "无", "有", "s"), Pair("5", "没", "在", "s")]
    assert negatives(rows) == [(), (), ()]
    assert "only 1 of 3 rows have negatives" in caplog.text


def test_scored_pairs_have_none():
    rows = [Scored("1", "甲", "乙", 0.5, "s")]
    assert list(without_known(rows, known_answers(rows), 0)) == rows
