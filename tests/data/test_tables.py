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
