import json

import pytest

from finetune.data import beir, reranking
from finetune.errors import UserError


def folder(tmp_path, *rows):
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "reranking.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_a_folder_is_read(tmp_path):
    where = folder(
        tmp_path / ".",
        {"query": "押金", "positive": ["退押金", "退押金"], "negative": ["工资", "离婚"]},
        {"id": "b-1", "query": "工资", "positive": ["工资"], "negative": ["退押金"]},
    )
    assert beir.kind(where) == "reranking"
    found = reranking.read_folder(where)
    first = f"{tmp_path.name}-1"
    assert found.queries == {first: "押金", "b-1": "工资"}
    assert found.corpus == {"d1": "退押金", "d2": "工资", "d3": "离婚"}
    assert found.candidates == {first: ("d1", "d2", "d3"), "b-1": ("d2", "d1")}
    assert found.qrels["b-1"] == {"d2": 1, "d1": 0}


GOOD = {"query": "问", "positive": ["甲"], "negative": ["乙"]}


@pytest.mark.parametrize(
    ("row", "phrase"),
    [
        ({"query": "问", "positive": ["甲"]}, "no 'negative'; found"),
        ({**GOOD, "positive": "甲"}, "expected a list of at least one text"),
        ({**GOOD, "negative": []}, "expected a list of at least one text"),
        ({**GOOD, "negative": ["甲"]}, "stands in negative and in positive"),
        ({**GOOD, "query": " "}, "query is"),
        ({**GOOD, "id": "x"}, "is there twice"),
    ],
)  # fmt: skip
def test_mistakes_are_told_by_line(tmp_path, row, phrase):
    with pytest.raises(UserError) as caught:
        reranking.read_folder(folder(tmp_path, {**GOOD, "id": "x"}, row))
    (problem,) = caught.value.problems
    assert "reranking.jsonl:2: " in problem and phrase in problem


def test_an_empty_file(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        reranking.read_folder(folder(tmp_path))
