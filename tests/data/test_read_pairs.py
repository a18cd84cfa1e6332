import csv
import gzip
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from pyarrow import parquet
from reading import read_pairs

from finetune.config.choices import BadRows, Duplicates
from finetune.data.columns import mapping
from finetune.data.hub import is_hub_id
from finetune.data.load import load_pairs
from finetune.data.rows import CONFLICT, LABEL_0, MERGED
from finetune.errors import UserError
from finetune.records import Pair

ROWS = [{"query": f"问题{i}", "positive": f"答案{i}"} for i in range(3)]


def jsonl(path: Path, rows) -> str:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    raw = text.encode("utf-8")
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return str(path)


def write(path: Path, rows) -> str:
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if plain.suffix == ".jsonl":
        return jsonl(path, rows)
    if plain.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif plain.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "wt", encoding="utf-8-sig", newline="") as file:
            delimiter = "\t" if plain.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


FORMATS = ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.csv.gz", "a.tsv", "a.parquet"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_pairs(tmp_path, name):
    pairs, dropped = read_pairs(write(tmp_path / name, ROWS), {}, BadRows.stop)
    assert [(p.query, p.positive, p.source) for p in pairs] == [
        (row["query"], row["positive"], "a") for row in ROWS
    ]
    assert len({pair.id for pair in pairs}) == 3
    assert dropped == []


@pytest.mark.parametrize("name", FORMATS)
def test_columns_are_mapped_by_name(tmp_path, name):
    rows = [{"标题.题": "甲", "别": "x", "回答": "乙", "源": "s", "号": 7}]
    columns = {"query": "标题.题", "positive": "回答", "source": "源", "id": "号"}
    pairs, _ = read_pairs(write(tmp_path / name, rows), columns, BadRows.stop)
    assert pairs == [Pair("7", "甲", "乙", "s")]


@pytest.mark.parametrize("name", FORMATS)
def test_a_misspelt_column_is_named_with_the_nearest(tmp_path, name):
    with pytest.raises(UserError, match="'qurey'.*did you mean 'query'"):
        read_pairs(write(tmp_path / name, ROWS), {"query": "qurey"}, BadRows.stop)


@pytest.mark.parametrize(
    ("there", "columns", "advice"),
    [
        ("question,answer", {}, '{query: "question", positive: "answer"}'),
        ("问题,答案", {"query": "問題", "positive": "答案"}, '{query: "问题", positive: "答案"}'),
        ("Query_ID,Question,Text_pos", {}, '{query: "Question", positive: "Text_pos"}'),
        ("query,Ｐositve", {}, '{positive: "Ｐositve"}'),
        ("query,passage", {"positive": "qeury"}, '{positive: "passage"}'),
        ("query,other", {}, None),
        ("query,other", {"positive": "qeury"}, None),  # which is read as another field
    ],
)
def test_columns_that_can_be_guessed_are_told_as_one_types_them(tmp_path, there, columns, advice):
    (tmp_path / "a.csv").write_text(f"{there}\n{there}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_pairs(str(tmp_path / "a.csv"), columns, BadRows.stop)
    last = caught.value.problems[-1]
    if advice is None:
        assert "if these are the columns" not in last
        return
    assert last == f"if these are the columns, set 'domain.columns={advice}'"
    assert len(read_pairs(str(tmp_path / "a.csv"), typed(last), BadRows.stop)[0]) == 1


def typed(advice):
    """What Hydra makes of an advised setting that is typed into a shell."""
    (setting,) = shlex.split(advice.partition("set ")[2])
    value = OverridesParser.create().parse_override(setting).value()
    return {str(name): str(column) for name, column in value.items()}


def test_names_of_any_characters_are_told_as_one_types_them():
    columns = {"query": 'it\'s {a}, "b"', "positive": "c:\\d 问"}
    assert typed(f"set {mapping('domain.columns', columns)}") == columns


@pytest.mark.parametrize("name", FORMATS)
def test_a_misspelt_optional_column_is_a_warning(tmp_path, name, caplog):
    rows = [row | {"negatvies": '["反"]', "sorce": "s"} for row in ROWS]
    pairs, _ = read_pairs(write(tmp_path / name, rows), {}, BadRows.stop)
    assert {(pair.negatives, pair.source) for pair in pairs} == {((), "a")}
    for field, column in (("negatives", "negatvies"), ("source", "sorce")):
        assert (
            f"{name}: no row has {field}, which it may have: did you mean {column!r}? "
            f"(set domain.columns.{field}=<column>)"
        ) in " ".join(caplog.messages)


def test_columns_that_resemble_no_optional_field_are_passed_over_in_silence(tmp_path, caplog):
    more = {"qid": "1", "score": 0.5, "title": "题"}  # a score is what scored pairs have
    read_pairs(jsonl(tmp_path / "a.jsonl", [row | more for row in ROWS]), {}, BadRows.stop)
    rows = [ROWS[0] | {"sorce": "s"}, ROWS[1] | {"source": "t"}]  # which a row does have
    read_pairs(jsonl(tmp_path / "b.jsonl", rows), {}, BadRows.stop)
    read_pairs(jsonl(tmp_path / "c.jsonl", [ROWS[0] | {"sorce": "s"}]), {"source": "sorce"},
               BadRows.stop)  # fmt: skip
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


def test_negatives_may_stand_in_some_rows_only(tmp_path):
    rows = [ROWS[0], ROWS[1] | {"negatives": ["反一", " 反二 "]}, ROWS[2] | {"negatives": None}]
    pairs, _ = read_pairs(jsonl(tmp_path / "a.jsonl", rows), {}, BadRows.stop)
    assert [pair.negatives for pair in pairs] == [(), ("反一", "反二"), ()]


def test_a_mapped_column_that_no_row_has_is_an_error(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(UserError, match="domain.columns.negatives=neg: .*no column 'neg'"):
        read_pairs(source, {"negatives": "neg"}, BadRows.stop)


def test_negatives_in_a_csv_are_a_json_list(tmp_path):
    row = ROWS[0] | {"negatives": '["反一"]'}
    pairs, _ = read_pairs(write(tmp_path / "a.csv", [row]), {}, BadRows.stop)
    assert pairs[0].negatives == ("反一",)


def test_a_cell_of_csv_may_be_long(tmp_path):
    source = write(tmp_path / "a.csv", [ROWS[0] | {"page": "长" * 200_000}])
    assert len(read_pairs(source, {}, BadRows.stop)[0]) == 1


def test_csv_rows_over_several_lines_are_named_by_their_first(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('query,positive\n"一\n二",答\n\n ,答\n', encoding="utf-8")
    with pytest.raises(UserError, match="a.csv:5: query is ' '"):
        read_pairs(str(path), {}, BadRows.stop)


def test_byte_order_mark_and_blank_lines_are_no_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode() + b"\r\n\r\n \n")
    pairs, dropped = read_pairs(str(path), {}, BadRows.stop)
    assert (len(pairs), len(dropped)) == (1, 0)


def test_a_file_is_found_packed_too(tmp_path):
    write(tmp_path / "a.jsonl.gz", ROWS)
    pairs, _ = read_pairs(str(tmp_path / "a.jsonl"), {}, BadRows.stop)
    assert [pair.id for pair in pairs] == ["a-1", "a-2", "a-3"]


BAD = [
    ({"query": "", "positive": "答"}, "empty text"),
    ({"query": 3, "positive": "答"}, "not text"),
    ({"query": "\ud800", "positive": "答"}, "lone surrogate"),
    ({"query": "问", "positive": "答", "negatives": ["答！"]}, "negative equals positive"),
    ({"query": "问", "positive": "答", "negatives": "['反']"}, "not text"),
    ({"query": "问", "positive": "答", "id": "same"}, "duplicate id"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_bad_rows_stop_the_run_or_are_dropped_and_counted(tmp_path, row, reason):
    path = tmp_path / "a.jsonl"
    rows = [ROWS[0] | {"id": "same"}, row, ROWS[1]]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.jsonl:2: .*expected") as caught:
        read_pairs(str(path), {}, BadRows.stop)
    assert "check.bad_rows=drop" in caught.value.problems[-1]
    pairs, dropped = read_pairs(str(path), {}, BadRows.drop)
    assert [pair.query for pair in pairs] == ["问题0", "问题1"]
    assert [(each.reason, each.line) for each in dropped] == [(reason, 2)]


@pytest.mark.parametrize(
    ("label", "part"),
    [
        ("合同纠纷", "or 0 (does not); if the column says something else"),
        ("0.5", "set domain.kind=scored; if the column says something else"),
        (3, "set domain.kind=scored; if the column says something else"),
    ],
)
@pytest.mark.parametrize("name", FORMATS)
def test_a_label_that_is_none_can_be_left_alone(tmp_path, name, label, part):
    source = write(tmp_path / name, [row | {"label": label} for row in ROWS])
    with pytest.raises(UserError) as caught:
        read_pairs(source, {}, BadRows.stop)
    assert part in str(caught.value) and "domain.columns.label='' leaves it" in str(caught.value)
    pairs, dropped = read_pairs(source, {"label": ""}, BadRows.stop)
    assert (len(pairs), dropped) == (3, [])


@pytest.mark.parametrize("yes", [True, "TRUE", " true", 1.0])
@pytest.mark.parametrize("no", [False, "False", "0.0"])
def test_true_and_false_are_labels(tmp_path, yes, no):
    rows = [ROWS[0] | {"label": yes}, ROWS[1] | {"label": no}]
    pairs, dropped = read_pairs(jsonl(tmp_path / "a.jsonl", rows), {}, BadRows.stop)
    assert [pair.query for pair in pairs] == ["问题0"]
    assert [row.reason for row in dropped] == [LABEL_0]


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (1.5, "1.5"), (b"x1", "x1"), (b"\xff\x00", "ff00"), (7, "7")]
)
def test_ids_and_sources_may_be_numbers_and_bytes(tmp_path, value, text):
    source = write(tmp_path / "a.parquet", [ROWS[0] | {"id": value, "source": value}])
    ((pair,), _) = read_pairs(source, {}, BadRows.stop)
    assert (pair.id, pair.source) == (text, text)


NOTHING = ["NULL", "null", "N/A", "#N/A", "nan", "NaN", "None", "<NA>", "\\N", "-", " -- "]


@pytest.mark.parametrize("value", [*NOTHING, float("nan")])
def test_a_cell_that_stands_for_nothing_is_empty(tmp_path, value):
    rows = [ROWS[0] | {"source": value, "id": value, "negatives": value},
            ROWS[1] | {"positive": value}]  # fmt: skip
    pairs, (row,) = read_pairs(jsonl(tmp_path / "a.jsonl", rows), {}, BadRows.drop)
    assert pairs == [Pair("a-1", "问题0", "答案0", "a")]
    assert (row.line, row.reason) == (2, "empty text")
    assert f"positive is {value!r}, which stands for nothing; expected text" in row.problem


@pytest.mark.parametrize("empty", [None, "", " ", *NOTHING])
@pytest.mark.parametrize("column", ["negatives", "neg"])
def test_an_empty_negative_is_left_out_of_its_list(tmp_path, column, empty):
    source = write(tmp_path / "a.parquet", [ROWS[0] | {column: ["反一", empty, "反二"]}])
    loaded = load_pairs(source, {}, BadRows.stop)
    assert [pair.negatives for pair in loaded.pairs] == [("反一", "反二")]
    assert loaded.changed == {"empty negatives left out": 1}


DUPLICATES = [
    ROWS[0],
    ROWS[1],
    ROWS[0],
    {"query": "问题０？", "positive": " 答案0。"},
    {"query": "問題0", "positive": "答案0"},
    {"query": "問題０", "positive": "答案 0"},
]


@pytest.mark.parametrize(
    ("kind", "dropped_lines"),
    [("none", []), ("exact", [3]), ("punctuation", [3, 4, 6]), ("script", [3, 4, 5, 6])],
)
def test_duplicates_are_dropped_with_what_they_collided_with(tmp_path, kind, dropped_lines):
    source = jsonl(tmp_path / "a.jsonl", DUPLICATES)
    pairs, dropped = read_pairs(source, {}, BadRows.stop, duplicates=Duplicates(kind))
    assert [row.line for row in dropped] == dropped_lines
    assert len(pairs) + len(dropped) == 6
    reasons = {row.line: (row.reason, row.collided_with) for row in dropped}
    assert reasons.get(3, ("duplicate", f"{source}:1")) == ("duplicate", f"{source}:1")
    if kind == "script":
        assert reasons[4] == ("duplicate but for punctuation, case or width", f"{source}:1")
        assert reasons[5] == reasons[6] == ("duplicate but for the script", f"{source}:1")
    if kind == "punctuation":  # of the first in its own script
        assert reasons[6][1] == f"{source}:5"


def test_negatives_of_a_pair_in_several_rows_are_joined(tmp_path):
    rows = [
        {"query": "问", "positive": "答", "negatives": ["甲"]},
        {"query": "问", "positive": "答", "negatives": ["乙"]},
        {"query": "问", "positive": "答。", "negatives": ["丙", "甲"]},
        {"query": "问", "positive": "答", "negatives": ["乙。"]},
    ]
    source = jsonl(tmp_path / "a.jsonl", rows)
    pairs, dropped = read_pairs(source, {}, BadRows.stop)
    assert [row.negatives for row in pairs] == [("甲", "乙", "丙")]
    assert [(row.reason, row.line, row.collided_with) for row in dropped] == [
        (MERGED, 2, f"{source}:1"),
        (MERGED, 3, f"{source}:1"),
        ("duplicate", 4, f"{source}:1"),
    ]


def test_a_label_0_counts_whichever_way_round(tmp_path):
    rows = [{"sentence1": "甲", "sentence2": "乙", "label": 1},
            {"sentence1": "乙", "sentence2": "甲", "label": 0},
            {"sentence1": "丙", "sentence2": "丁", "label": 1}]  # fmt: skip
    columns = {"query": "sentence1", "positive": "sentence2"}
    pairs, dropped = read_pairs(jsonl(tmp_path / "a.jsonl", rows), columns, BadRows.stop)
    assert [row.query for row in pairs] == ["丙"]
    assert [row.reason for row in dropped] == [LABEL_0, CONFLICT]


@pytest.mark.parametrize("bad_rows", BadRows)
@pytest.mark.parametrize("query", ["答", "答。", " Ａ b ", "？", "答"])
def test_identical_sides_are_dropped_whatever_the_setting(tmp_path, query, bad_rows):
    positive = {"答。": "答", " Ａ b ": "a B！"}.get(query, query)
    rows = [{"query": query, "positive": positive, "negatives": [positive]}, ROWS[0]]
    pairs, dropped = read_pairs(jsonl(tmp_path / "a.jsonl", rows), {}, bad_rows)
    assert [pair.query for pair in pairs] == ["问题0"]
    assert [(each.reason, each.line) for each in dropped] == [("identical sides", 1)]


def test_sides_that_differ_by_a_character_are_kept(tmp_path):
    rows = [{"query": "15 克", "positive": "16 克"}, {"query": "？", "positive": "！"}]
    pairs, dropped = read_pairs(jsonl(tmp_path / "a.jsonl", rows), {}, BadRows.stop)
    assert (len(pairs), dropped) == (2, [])


def test_a_refused_row_takes_no_other_with_it(tmp_path):
    rows = [
        ROWS[0] | {"id": "a"},
        ROWS[1] | {"id": "a"},  # refused for its id
        ROWS[1] | {"id": "b"},  # the same texts, and the only good copy
    ]
    pairs, dropped = read_pairs(jsonl(tmp_path / "a.jsonl", rows), {}, BadRows.drop)
    assert [pair.id for pair in pairs] == ["a", "b"]
    assert [(each.reason, each.line, each.collided_with) for each in dropped] == [
        ("duplicate id", 2, f"{tmp_path}/a.jsonl:1")
    ]


def test_lines_that_are_no_rows_stop_the_run_or_are_dropped_each_with_its_reason(tmp_path):
    path = tmp_path / "a.jsonl"
    good = '{"query": "问", "positive": "答"}\n'
    path.write_bytes(f'{good}{{oops\n[1]\n{{"query": "二"}}\n'.encode() + "退押金\n".encode("gbk"))
    with pytest.raises(UserError) as caught:
        read_pairs(str(path), {}, BadRows.stop)
    assert len(caught.value.problems) == 5  # all at once, and the way out
    assert "check.bad_rows=drop" in caught.value.problems[-1]
    pairs, dropped = read_pairs(str(path), {}, BadRows.drop)
    assert [pair.query for pair in pairs] == ["问"]
    dropped = sorted(dropped, key=lambda each: each.line)
    assert [(each.reason, each.line, each.text) for each in dropped] == [
        ("not JSON", 2, "{oops"), ("not an object", 3, "[1]"), ("no column", 4, "二"),
        ("not UTF-8", 5, "��Ѻ��"),
    ]  # fmt: skip


def test_a_first_row_without_a_column_is_dropped_as_any_other(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"version": 1}, *ROWS])
    pairs, dropped = read_pairs(path, {}, BadRows.drop)
    assert len(pairs) == len(ROWS)
    assert [(each.reason, each.line, each.text) for each in dropped] == [("no column", 1, "null")]
    with pytest.raises(UserError, match="a.jsonl:1: no 'query'; found version"):
        read_pairs(path, {}, BadRows.stop)


def test_an_array_may_begin_after_a_blank_line(tmp_path):
    (tmp_path / "a.json").write_text("\n" + json.dumps(ROWS, indent=1), encoding="utf-8")
    assert len(read_pairs(str(tmp_path / "a.json"), {}, BadRows.drop)[0]) == len(ROWS)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_broken_record_of_a_table_is_dropped_as_a_whole(tmp_path, end):
    path = tmp_path / "a.csv"
    lines = ["query,positive", '"问', '二",答二', "一格", "问,答"]
    raw = [line.encode() for line in lines]
    raw[2] = '退",答'.encode("gbk")
    path.write_bytes(end.join(raw))
    with pytest.raises(UserError) as caught:
        read_pairs(str(path), {}, BadRows.stop)
    first, second, _ = caught.value.problems
    assert first.startswith(f"{path}:3: byte 0xcd at 1 is not UTF-8")
    assert second.startswith(f"{path}:4: has 1 cell(s)")
    pairs, dropped = read_pairs(str(path), {}, BadRows.drop)
    assert [pair.query for pair in pairs] == ["问"]
    assert [(d.reason, d.line) for d in dropped] == [
        ("not UTF-8", 3), ("another number of cells", 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "raw", "part"),
    [
        ("a.csv", b'query,positive\n"a,b\nc,d\n', "a.csv:2: not readable as CSV"),
        ("a.csv", "问,答\na,b\n".encode("gbk"), "a.csv:1: byte 0xce at 1 is not UTF-8"),
        ("a.json", '[{"query": "退",\n"positive": "b"}]'.encode("gbk"), "a.json:1: byte"),
        ("a.json", b'[{"query": "a"', "a.json: not JSON"),
        ("a.jsonl", b'\n[\n{"query": "a", "positive": "b"}\n]\n', "not JSON Lines: an array"),
        ("a.csv", b'query,positive\n"a,b\nc,d\n",e,f\ng,h\n', "from here to line 4 it has 3 cell"),
        ("a.jsonl", b"oops\n[]\n", r"none of 2 rows can be used \(1 not JSON, 1 not an object\)"),
    ],
)
def test_a_file_that_cannot_be_read_ends_the_run_even_where_rows_may_be_dropped(
    tmp_path, name, raw, part
):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(UserError, match=part):
        read_pairs(str(tmp_path / name), {}, BadRows.drop)


def test_twenty_problems_are_told_and_the_others_counted(tmp_path):
    rows = [ROWS[0], *({"query": "", "positive": f"{i}"} for i in range(1230))]
    with pytest.raises(UserError) as caught:
        read_pairs(jsonl(tmp_path / "a.jsonl", rows), {}, BadRows.stop)
    assert len(caught.value.problems) == 22
    assert caught.value.problems[20] == "and 1,210 more"


def test_changes_are_counted(tmp_path):
    loaded = load_pairs(
        jsonl(tmp_path / "a.jsonl", [{"query": " 问", "positive": "答\x00"}]), {}, BadRows.stop
    )
    assert loaded.changed == {"white space stripped": 1, "control characters removed": 1}
    assert loaded.lines == {"a-1": 1}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("owner/name", True),
        ("owner/name@1a2b3c:test", True),
        ("owner/name@refs/convert/parquet", True),
        ("owner/m3e-v1.5:train", True),
        ("owner/name:subset/train", True),
        ("owner/name@abc:subset/train", True),
        ("owner/name:a/b/c", False),
        ("name", False),
        ("./name", False),
        ("../name", False),
        ("a/b/c", False),
        ("问/答", False),
    ],
)
def test_hub_ids(source, expected):
    assert is_hub_id(source) is expected


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory: ``data/pairs.jsonl`` in it, and an evaluation folder ``data/set``."""
    monkeypatch.chdir(tmp_path)
    Path("data/set").mkdir(parents=True)
    jsonl(Path("data/pairs.jsonl"), ROWS)
    jsonl(Path("data/set/corpus.jsonl"), [{"id": "c", "text": "答"}])
    jsonl(Path("data/set/queries.jsonl"), [{"id": "q", "text": "问"}])
    Path("data/set/qrels.tsv").write_text("q\tc\t1\n")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("data/pairs.jsonl", False),
        ("data/set", False),
        ("data/pairs", False),
        ("data/other", False),
        ("data/pairs:train", False),
        ("data/pairs@abc", True),
        ("data/pairs@abc:train", True),
        ("data/pairs@2.jsonl", False),
        ("other/pairs", True),
        *((f"other/pairs{end}", False) for end in (
            ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".xlsx", ".md", ".txt", ".xls", ".gz",
            ".jsonl.gz", ".CSV",
        )),
        ("other/" + "x" * 300, True),
        ("data/" + "x" * 300, False),
    ],
)  # fmt: skip
def test_what_names_a_file_is_no_hub_id(here, source, expected):
    assert is_hub_id(source) is expected


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("data/pairs", ["data/pairs: no such file", "did you mean 'pairs.jsonl'?",
                        "name the revision: data/pairs@<revision>)"]),
        ("data/pairs:train", ["no such file", "data/pairs@<revision>:train)"]),
        ("data/pair.jsonl", ["no such file", "did you mean 'pairs.jsonl'?"]),
        ("dat/pairs.jsonl", ["no such file, and no folder dat; did you mean 'data'?"]),
        ("one/two/pairs.jsonl", ["no such file, and no folder one/two; correct the path"]),
    ],
)  # fmt: skip
def test_a_mistyped_relative_path_is_no_question_to_the_hub(here, source, parts):
    with pytest.raises(UserError) as caught:
        read_pairs(source, {}, BadRows.stop)
    for part in parts:
        assert part in str(caught.value)
    assert "HF_ENDPOINT" not in str(caught.value)


def test_a_folder_of_documents_is_told_as_one(here):
    Path("data/set/in").mkdir()
    Path("data/set/qrels.tsv").unlink()
    with pytest.raises(UserError, match=r"name the file in it \(of a data set of the hub"):
        read_pairs("data/set", {}, BadRows.stop)
    Path("data/set/in/a.md").touch()  # beside tables it is none of the documents
    with pytest.raises(UserError, match=r"name the file in it \(of a data set of the hub"):
        read_pairs("data/set", {}, BadRows.stop)
    Path("data/manuals/in").mkdir(parents=True)
    Path("data/manuals/in/a.md").touch()
    with pytest.raises(UserError) as caught:
        read_pairs("data/manuals", {}, BadRows.stop)
    line = "recipes=documents domain=custom domain.documents=data/manuals domain.dev=<folder>"
    assert str(caught.value).endswith(f"train with {line}, without domain.train")


def test_of_a_folder_that_is_no_file_its_only_file_is_named(here):
    Path("data/new").mkdir()
    with pytest.raises(UserError, match="data/new: is an empty folder; name a file"):
        read_pairs("data/new", {}, BadRows.stop)
    Path("data/new/faq.csv").touch()
    with pytest.raises(UserError, match="is a folder; name the file in it: data/new/faq.csv"):
        read_pairs("data/new", {}, BadRows.stop)


def test_relative_paths_of_one_slash_are_read(here):
    assert len(read_pairs("data/pairs.jsonl", {}, BadRows.stop)[0]) == 3
    assert [pair.query for pair in read_pairs("data/set", {}, BadRows.stop)[0]] == ["问"]


def test_a_misspelt_folder_is_told_where_the_hub_has_no_such_set(here, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"no such file here \(did you mean 'data'\?\), and split"):
        read_pairs("date/pairs", {}, BadRows.stop)


def test_an_offline_hub_says_what_was_tried_and_the_ways_out(monkeypatch):
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        read_pairs("nobody/nothing@abc:test", {}, BadRows.stop)
    for part in ("nobody/nothing@abc:test", "split 'test'", "revision abc", "HF_ENDPOINT"):
        assert part in str(caught.value)


def test_without_datasets_the_install_command_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'finetune\[train\]'"):
        read_pairs("owner/name@abc", {}, BadRows.stop)


def test_data_imports_no_torch():
    code = (
        "import sys\n"
        "from finetune.data import beir, clean, load, prepare, tables\n"
        "import pyarrow.parquet\n"
        "bad = {'torch', 'transformers', 'sentence_transformers', 'peft', 'datasets'}\n"
        "sys.exit(', '.join(bad & set(sys.modules)) or 0)\n"
    )
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
