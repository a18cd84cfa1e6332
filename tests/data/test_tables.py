"""Files of rows that are unlike what their format should be."""

import pyarrow
import pytest
from openpyxl import Workbook
from pyarrow import parquet
from reading import read_pairs

from finetune.config.choices import BadRows
from finetune.errors import UserError


def not_utf8(texts):
    raw = pyarrow.array([text.encode("gbk") for text in texts], pyarrow.binary())
    return pyarrow.Array.from_buffers(pyarrow.string(), len(texts), raw.buffers())


@pytest.mark.parametrize(
    ("column", "values", "reason", "part"),
    [
        ("positive", not_utf8(["a"] * 1500 + ["答"]), "not UTF-8",
         "positive holds byte 0xb4 at 1, which is not UTF-8"),
        ("id", pyarrow.array([None] * 1500 + [2**63 - 1], pyarrow.timestamp("us")), "not text",
         "id holds a value that cannot be read (date value out of range)"),
    ],
)  # fmt: skip
def test_a_value_of_parquet_that_cannot_be_read_is_told_by_its_row(
    tmp_path, column, values, reason, part
):
    path = tmp_path / "a.parquet"
    numbers = [str(number) for number in range(1501)]
    columns = {"query": [f"问{each}" for each in numbers], "positive": numbers}
    parquet.write_table(pyarrow.table(columns | {column: values}), path)
    with pytest.raises(UserError) as caught:
        read_pairs(str(path), {}, BadRows.stop)
    assert f"{path}:1501: {part}" in str(caught.value)
    _, dropped = read_pairs(str(path), {}, BadRows.drop)
    assert (dropped[-1].reason, dropped[-1].line) == (reason, 1501)


def test_a_sheet_for_a_chart_without_one_is_told(tmp_path):
    book = Workbook()
    book.create_chartsheet("图", 0)
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(UserError, match="without sheets for charts"):
        read_pairs(str(tmp_path / "a.xlsx"), {}, BadRows.stop)


def table(delimiter, rows):
    return "".join(delimiter.join(row) + "\n" for row in [("query", "positive"), *rows])


@pytest.mark.parametrize("end", ["csv", "tsv"])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (1, 1)])
def test_rows_between_two_stray_quotes_are_no_text(tmp_path, end, first, last):
    rows = [[f"问{number}", f"答{number}"] for number in range(12)]
    rows[3][first] = f'"{rows[3][first]}'
    rows[9][last] += '"'
    path = tmp_path / f"a.{end}"
    path.write_text(table("," if end == "csv" else "\t", rows), "utf-8")
    for bad_rows in BadRows:
        with pytest.raises(UserError, match=r"5: from here to line 11 .* holds lines of 2 cells"):
            read_pairs(str(path), {}, bad_rows)


@pytest.mark.parametrize("end", ["csv", "tsv"])
@pytest.mark.parametrize(
    "text",
    ["静夜思\n床前明月光,疑是地上霜\n举头望明月,低头思故乡", "\n".join(["甲,乙"] * 9),
     "步骤：\n\n1. 准备, 提交\n\n2. 等\n\n3. 取", "说\"是\"\n的\t话"],
)  # fmt: skip
def test_a_text_of_several_lines_is_read(tmp_path, end, text):
    quoted = '"' + text.replace('"', '""') + '"'
    rows = [("问", quoted), (quoted, "答"), ("问二", "答二")]
    path = tmp_path / f"a.{end}"
    path.write_text(table("," if end == "csv" else "\t", rows), "utf-8")
    pairs, _ = read_pairs(str(path), {}, BadRows.stop)
    assert [(p.query, p.positive) for p in pairs] == [("问", text), (text, "答"), ("问二", "答二")]


@pytest.mark.parametrize(
    ("line", "query", "positive"),
    [
        ('"表见代理"是什么\t答', '"表见代理"是什么', "答"),
        ('5"屏幕\t"大屏', '5"屏幕', '"大屏'),
        (
            '"""表见""代理"\t"答\t案\n二"',
            '"表见"代理',
            "答\t案\n二",
        ),  # as Excel and pandas write it
    ],
)
def test_a_quote_of_tsv_that_encloses_no_cell_is_text(tmp_path, line, query, positive):
    path = tmp_path / "a.tsv"
    path.write_text(f"query\tpositive\n问\t答一\n{line}\n问三\t答三\n问四\t答四\n", "utf-8")
    pairs, _ = read_pairs(str(path), {}, BadRows.stop)
    assert [(p.query, p.positive) for p in pairs[1:]] == [
        (query, positive), ("问三", "答三"), ("问四", "答四"),
    ]  # fmt: skip


def write(path, header, rows):
    """Write rows under a header, in which names may be there twice."""
    if path.suffix == ".csv":
        path.write_text("\n".join(map(",".join, [header, *rows])), "utf-8")
    elif path.suffix == ".xlsx":
        book = Workbook()
        for row in [header, *rows]:
            book.active.append(row)
        book.save(path)
    else:
        parquet.write_table(
            pyarrow.Table.from_arrays(list(map(pyarrow.array, zip(*rows, strict=True))), header),
            path,
        )
    return str(path)


@pytest.mark.parametrize("end", ["csv", "xlsx", "parquet"])
def test_a_column_that_is_read_may_not_be_there_twice(tmp_path, end):
    path = tmp_path / f"a.{end}"
    source = write(path, ["query", "positive", "positive"], [["问", "答", "答二"]])
    with pytest.raises(UserError, match="column 'positive' is there twice"):
        read_pairs(source, {}, BadRows.drop)
    for name in ("备注", ""):
        source = write(path, ["query", "positive", name, name], [["问", "答", "甲", "乙"]])
        assert [pair.positive for pair in read_pairs(source, {}, BadRows.stop)[0]] == ["答"]


def test_excel_below_blank_rows_and_with_line_ends_of_windows(tmp_path):
    book = Workbook()
    rows = [[None, None]] * 3 + [
        ["query", "positive"],
        ["问", "一_x000D_\n二_x000D_三"],
        ["问二", 2],
    ]
    for number, row in enumerate(rows, 1):
        for column, value in enumerate(row, 1):
            book.active.cell(number, column, value)
    book.save(tmp_path / "a.xlsx")
    pairs, _ = read_pairs(str(tmp_path / "a.xlsx"), {}, BadRows.stop)
    assert [(pair.id, pair.positive) for pair in pairs] == [("a-5", "一\n二\n三"), ("a-6", "2")]


@pytest.mark.parametrize(
    ("name", "start", "part"),
    [
        ("a.csv", "query;positive", "with semicolons instead of commas; .*: save it as CSV"),
        ("a.csv", "query\tpositive", "with tabs instead of commas; .*: give it the ending .tsv"),
        ("a.tsv", "query,positive", "with commas instead of tabs; .*: give it the ending .csv"),
        ("a.csv", "query，positive", "with full-width commas instead of commas"),
        ("a.csv", "sep=,\nquery,positive", "'sep=' tells Excel the separator"),
        ("a.csv", "sep=;\nquery;positive", "'sep=;' tells Excel the separator"),
    ],
)
def test_cells_that_something_else_separates_are_told(tmp_path, name, start, part):
    (tmp_path / name).write_text(f"{start}\n问,答\n", "utf-8")
    with pytest.raises(UserError, match=f"{name}:1: .*{part}"):
        read_pairs(str(tmp_path / name), {}, BadRows.drop)


@pytest.mark.parametrize(
    ("name", "lines"),
    [("a.csv", ["query,positive", "问,答", "问二,答二"]), ("a.jsonl", [
        "", '{"query": "问", "positive": "答"}', '{"query": "问二", "positive": "答二"}'])],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_a_carriage_return_ends_a_line(tmp_path, name, lines, end):
    (tmp_path / name).write_text(end.join(lines), "utf-8", newline="")
    pairs, _ = read_pairs(str(tmp_path / name), {}, BadRows.stop)
    assert [(pair.id, pair.query) for pair in pairs] == [("a-2", "问"), ("a-3", "问二")]


@pytest.mark.parametrize("end", [".json", ".jsonl"])
def test_a_key_that_is_there_twice_is_a_bad_row(tmp_path, end):
    good = '{"query": "问", "positive": "答", "more": {"a": 1, "a": 2}}'
    rows = [good, '{"query": "甲", "query": "乙", "positive": "丙"}']
    path = tmp_path / f"a{end}"
    path.write_text("\n".join(rows) if end == ".jsonl" else f"[{','.join(rows)}]", "utf-8")
    with pytest.raises(UserError, match=f"a{end}:2: the key 'query' is there twice"):
        read_pairs(str(path), {}, BadRows.stop)
    pairs, dropped = read_pairs(str(path), {}, BadRows.drop)
    assert len(pairs) == 1 and [(row.line, row.reason) for row in dropped] == [(2, "key twice")]


def test_an_array_of_one_line_is_told_as_an_array(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('[{"query": "问", "positive": "答"}]', "utf-8")
    with pytest.raises(UserError, match="an array begins in it; .*the ending .json"):
        read_pairs(str(path), {}, BadRows.drop)


@pytest.mark.parametrize("end", ["csv", "xlsx"])
def test_what_nobody_sees_is_no_part_of_a_columns_name(tmp_path, end):
    header = ["\ufeff\ufeffquery", "positive\u200b"]
    source = write(tmp_path / f"a.{end}", header, [["问", "答"]])
    assert len(read_pairs(source, {}, BadRows.stop)[0]) == 1
