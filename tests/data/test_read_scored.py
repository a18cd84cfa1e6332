"""Scored pairs: two texts and how alike they are."""

import csv
import json

import pyarrow
import pytest
from pyarrow import parquet
from reading import read_pairs

from finetune.config.choices import BadRows, Duplicates, Kind
from finetune.data.load import load_pairs
from finetune.data.rows import DUPLICATE, OTHER_SCORE
from finetune.errors import UserError
from finetune.records import Scored

COLUMNS = {"a": "句子1", "b": "句子2", "score": "分数"}
ROWS = [{"句子1": f"甲{n}", "句子2": f"乙{n}", "分数": n / 2} for n in range(3)]


def read(path, columns=COLUMNS, bad_rows=BadRows.stop):
    return read_pairs(str(path), columns, bad_rows, Kind.scored)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_every_format_gives_the_same_scores(tmp_path, name):
    path = tmp_path / name
    if name.endswith("csv"):  # where every cell is text
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(COLUMNS.values()))
            writer.writeheader()
            writer.writerows(ROWS)
    elif name.endswith("parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        jsonl(path, ROWS)
    rows, dropped = read(path)
    first = 2 if name.endswith("csv") else 1
    assert rows == [
        Scored(f"a-{first + n}", f"甲{n}", f"乙{n}", n / 2, "a") for n in range(3)
    ]  # fmt: skip
    assert dropped == []


def test_fields_may_be_called_by_their_own_names(tmp_path):
    row = {"a": "甲", "b": "乙", "score": 1, "source": "s", "id": 7}
    rows, _ = read(jsonl(tmp_path / "x.jsonl", [row]), {})
    assert rows == [Scored("7", "甲", "乙", 1.0, "s")]
    assert isinstance(rows[0].score, float)


@pytest.mark.parametrize(
    ("text", "score"),
    [("4", 4.0), (" 4.5 ", 4.5), ("-.5", -0.5), ("+1e-2", 0.01), ("0", 0.0), ("3.", 3.0)],
)
def test_numbers_in_text(tmp_path, text, score):
    rows, _ = read(jsonl(tmp_path / "x.jsonl", [{"a": "甲", "b": "乙", "score": text}]), {})
    assert rows[0].score == score


BAD = [
    ({"score": None}, "bad score", "score is null"),
    ({"score": "high"}, "bad score", "score is 'high' (text); expected a finite number"),
    ({"score": ""}, "bad score", "score is ''"),
    ({"score": "nan"}, "bad score", "score is 'nan'"),
    ({"score": "inf"}, "bad score", "score is 'inf'"),
    ({"score": "1_0"}, "bad score", "score is '1_0'"),
    ({"score": "１"}, "bad score", "score is '１'"),
    ({"score": "1e999"}, "bad score", "score is inf (a number)"),
    ({"score": True}, "bad score", "score is true"),
    ({"score": [1]}, "bad score", "score is [1] (a list)"),
    ({"score": float("nan")}, "bad score", "score is nan"),
    ({"score": float("-inf")}, "bad score", "score is -inf"),
    ({"score": 10**400}, "bad score", "a number"),
    ({"a": ""}, "empty text", "a is ''"),
    ({"b": None}, "empty text", "b is null"),
    ({"b": 5}, "not text", "b is 5"),
    ({"a": "\ud800"}, "lone surrogate", "half of a character"),
    ({"id": "same"}, "duplicate id", "'same' is that of line 1"),
]


@pytest.mark.parametrize(("change", "reason", "part"), BAD)
def test_bad_rows_stop_the_run_or_are_dropped_and_counted(tmp_path, change, reason, part):
    good = {"a": "甲", "b": "乙", "score": 1}
    rows = [good | {"id": "same"}, good | {"a": "丙"} | change, good | {"b": "丁"}]
    path = jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match=r"a\.jsonl:2: .*expected") as caught:
        read(path, {})
    assert part in str(caught.value) and "check.bad_rows=drop" in caught.value.problems[-1]
    kept, dropped = read(path, {}, BadRows.drop)
    assert [row.b for row in kept] == ["乙", "丁"]
    assert [(each.reason, each.line) for each in dropped] == [(reason, 2)]


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ({"a": "句子"}, "domain.columns.a=句子: "),
        ({"score": "分"}, "expected the column that holds the score"),
        ({}, "no column 'a'; found 句子1, 句子2, 分数"),
        (COLUMNS | {"query": "问"}, "domain.columns.query: no such field"),
    ],
)
def test_columns_that_are_not_there(tmp_path, columns, part):
    with pytest.raises(UserError) as caught:
        read(jsonl(tmp_path / "a.jsonl", ROWS), columns)
    assert part in str(caught.value)


def test_rows_that_repeat_a_pair_are_dropped_whichever_way_round(tmp_path):
    rows = [
        {"a": "甲", "b": "乙", "score": 1},
        {"a": "乙。", "b": "甲", "score": 1.0},
        {"a": "甲", "b": "乙", "score": 2},
        {"a": "甲", "b": "甲", "score": 5},  # equal texts are as alike as can be
    ]
    path = jsonl(tmp_path / "a.jsonl", rows)
    kept, dropped = read(path, {})
    assert [row.score for row in kept] == [1.0, 5.0]
    assert [(each.reason, each.line, each.collided_with) for each in dropped] == [
        (DUPLICATE[Duplicates.punctuation], 2, f"{path}:1"), (OTHER_SCORE, 3, f"{path}:1")
    ]  # fmt: skip


def test_pairs_are_told_apart_by_the_order_of_their_texts(tmp_path):
    rows = [{"query": "甲", "positive": "乙"}, {"query": "乙", "positive": "甲"}]
    assert len(load_pairs(str(jsonl(tmp_path / "a.jsonl", rows)), {}, BadRows.stop).pairs) == 2


def test_missing_keys_are_told_by_line_or_dropped(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"a": "甲", "b": "乙", "score": 1}, {"a": "甲", "b": "丙"}])
    with pytest.raises(UserError, match="a.jsonl:2: no 'score'; found a, b; expected it in every"):
        read(path, {})
    pairs, dropped = read(path, {}, BadRows.drop)
    assert len(pairs) == 1
    assert [(row.reason, row.line, row.text) for row in dropped] == [("no column", 2, "甲")]
