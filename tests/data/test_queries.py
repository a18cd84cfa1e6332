import gzip
from dataclasses import replace

import pytest

from finetune.config.choices import BadRows, Leak
from finetune.config.compose import compose
from finetune.data.queries import ANSWERED, DUPLICATE, read_queries
from finetune.errors import UserError
from finetune.records import Pair, write_jsonl
from finetune.sets import EvaluationSet

SET = EvaluationSet("dev", {"q": "房东不退押金怎么办"}, {"d": "押金应当退还"}, {"q": {"d": 1}})
PAIRS = [Pair("p", "工资拖欠", "应当支付", "train")]


CHECK = compose(["recipes=full"]).check


def read(path, **changes):
    queries, dropped = read_queries(path, replace(CHECK, **changes), PAIRS, [SET])
    assert all(query.source == str(path) for query in queries)
    return [query.text for query in queries], dropped


def text_file(folder, *lines):
    path = folder / "log.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_every_row_is_a_query_or_dropped_with_its_line_and_reason(tmp_path):
    path = text_file(tmp_path, "离婚财产", "", "離婚財產？", "工资拖欠！", "房東不退押金怎麼辦",
                     "请问房东不退押金怎么办", "商品质量")  # fmt: skip
    queries, dropped = read(path)
    assert queries == ["离婚财产", "商品质量"]
    told = {row.line: (row.reason, row.collided_with) for row in dropped}
    assert told == {
        3: (DUPLICATE, f"{path}:1"),
        4: (ANSWERED, "p"),
        5: ("leak: query is an evaluation query", "dev: query q"),
        6: ("leak: query is nearly an evaluation query", "dev: query q"),
    }
    _, dropped = read(path, leak=Leak.off)
    assert [row.line for row in dropped] == [3, 4]


def test_a_log_of_which_no_line_can_be_read_is_told_as_that(tmp_path):
    (tmp_path / "log.txt").write_bytes("押金\n工资\n".encode("gbk"))
    with pytest.raises(UserError, match=r"none of 2 rows can be used \(2 not UTF-8\); the first"):
        read(tmp_path / "log.txt", bad_rows=BadRows.drop)


@pytest.mark.parametrize("column", ["text", "query"])
def test_rows_have_a_text_or_a_query(column, tmp_path):
    write_jsonl(tmp_path / "log.jsonl", [{column: "离婚财产"}, {column: "商品质量"}])
    assert read(tmp_path / "log.jsonl")[0] == ["离婚财产", "商品质量"]
    (tmp_path / "log.csv").write_text(f"{column},n\n离婚财产,1\n", encoding="utf-8")
    assert read(tmp_path / "log.csv")[0] == ["离婚财产"]


def test_packed_lines(tmp_path):
    path = tmp_path / "log.txt.gz"
    path.write_bytes(gzip.compress("离婚财产\n".encode()))
    assert read(path)[0] == ["离婚财产"]


def test_bad_rows_end_it_by_line_or_are_counted(tmp_path):
    path = tmp_path / "log.jsonl"
    write_jsonl(path, [{"text": "离婚财产"}, {"text": 7}, {"other": "x"}])
    with pytest.raises(UserError) as error:
        read(path)
    assert f"{path}:2: text is 7" in error.value.problems[0]
    assert f"{path}:3:" in error.value.problems[1]
    assert error.value.problems[-1] == (
        "or set check.bad_rows=drop to leave such rows out and count them"
    )
    queries, dropped = read(path, bad_rows=BadRows.drop)
    assert queries == ["离婚财产"] and [row.line for row in dropped] == [2, 3]


def test_what_cannot_be_read_says_what_is_expected(tmp_path):
    (tmp_path / "log.xyz").write_text("a")
    with pytest.raises(UserError, match=r"expected \.txt, \.jsonl"):
        read(tmp_path / "log.xyz")
    write_jsonl(tmp_path / "log.jsonl", [{"问题": "离婚"}])
    with pytest.raises(UserError, match="no column 'text' or 'query'; found 问题"):
        read(tmp_path / "log.jsonl")
    with pytest.raises(UserError, match="is empty"):
        read(text_file(tmp_path, ""))
    with pytest.raises(UserError, match="no query is left of 1 rows"):
        read(text_file(tmp_path, "工资拖欠"))
