import csv
import datetime
import json
import zipfile

import pyarrow
import pytest
from openpyxl import Workbook
from pyarrow import parquet

from finetune.config.choices import BadRows, Kind
from finetune.data import rows as reasons
from finetune.data.clean import number
from finetune.data.load import load_pairs
from finetune.errors import UserError


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(source, bad_rows=BadRows.stop, kind=Kind.pairs):
    loaded = load_pairs(source, {}, bad_rows, kind)
    assert set(loaded.lines) == {pair.id for pair in loaded.pairs}
    return loaded


def test_flag_embedding_gives_a_pair_for_each_positive(tmp_path):
    rows = [
        {"query": "问一", "pos": ["答一", "答二"], "neg": ["反一"], "prompt": "x"},
        {"query": "问二", "pos": ["答三"], "neg": []},
        {"query": "问三", "pos": ["答四", "答四。"]},
    ]
    loaded = read(jsonl(tmp_path / "a.jsonl", rows))
    assert [(p.id, p.query, p.positive, p.negatives) for p in loaded.pairs] == [
        ("a-1-1", "问一", "答一", ("反一",)),
        ("a-1-2", "问一", "答二", ("反一",)),
        ("a-2", "问二", "答三", ()),
        ("a-3-1", "问三", "答四", ()),
    ]
    assert [loaded.lines[p.id] for p in loaded.pairs] == [1, 1, 2, 3]
    assert [(d.line, d.collided_with[-1]) for d in loaded.dropped] == [(3, "3")]


def test_a_row_without_positives_is_named_by_its_own_column(tmp_path):
    source = jsonl(
        tmp_path / "a.jsonl", [{"query": "问", "pos": ["答"]}, {"query": "空", "pos": []}]
    )
    with pytest.raises(UserError, match="a.jsonl:2: pos is null; expected text"):
        read(source)
    assert len(read(source, BadRows.drop).dropped) == 1


@pytest.mark.parametrize("query", ["anchor", "query"])
def test_negatives_in_columns_of_their_own(tmp_path, query):
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([
            [query, "positive", "negative_1", "negative_2"],
            ["问一", "答一", "反一", "反二"], ["问二", "答二", "", "反三"],
        ])  # fmt: skip
    pairs = read(str(path)).pairs
    assert [(p.query, p.negatives) for p in pairs] == [
        ("问一", ("反一", "反二")),
        ("问二", ("反三",)),
    ]


@pytest.mark.parametrize("negative", [["反一", "反二"], '["反一", "反二"]'])
def test_a_list_of_negatives_in_one_column(tmp_path, negative):
    rows = [
        {"anchor": "问", "positive": "答", "negative": negative},
        {"anchor": "问二", "positive": "答二", "negative": []},
        {"anchor": "问三", "positive": "答三", "negative": "反三"},
    ]
    pairs = read(jsonl(tmp_path / "a.jsonl", rows)).pairs
    assert [pair.negatives for pair in pairs] == [("反一", "反二"), (), ("反三",)]


@pytest.mark.parametrize(
    "late",
    [
        {"negative": "反一", "negative_1": "反二"},
        {"neg": ["反一", "反二"]},
        {"negatives": ["反一", "反二"]},
    ],
)
@pytest.mark.parametrize("positive", ["positive", "pos"])
def test_negatives_of_later_rows_are_read(tmp_path, late, positive):
    rows = [{"query": f"问{n}", positive: f"答{n}"} for n in range(50)]
    rows[30:] = [row | late for row in rows[30:]]
    pairs = read(jsonl(tmp_path / "a.jsonl", rows)).pairs
    assert [pair.negatives for pair in pairs] == 30 * [()] + 20 * [("反一", "反二")]


def test_a_misspelt_column_of_later_rows_is_a_warning(tmp_path, caplog):
    rows = [{"query": f"问{n}", "positive": f"答{n}"} for n in range(50)]
    rows[30]["negatvies"] = ["反"]
    read(jsonl(tmp_path / "a.jsonl", rows))
    assert "no row has negatives, which it may have: did you mean 'negatvies'?" in caplog.text


def test_triplets(tmp_path):
    rows = [{"anchor": "问", "positive": "答", "negative": "反"}]
    (pair,) = read(jsonl(tmp_path / "a.jsonl", rows)).pairs
    assert (pair.query, pair.positive, pair.negatives) == ("问", "答", ("反",))


LABELLED = [
    ("甲", "乙", 1),
    ("甲", "丙", 0),
    ("丁", "戊", "1"),
    ("丁", "戊。", 0),
    ("己", "庚", 1.0),
]


@pytest.mark.parametrize(
    "names", [("sentence1", "sentence2", "label"), ("sentence_A", "sentence_B", "score")]
)
def test_labels_say_which_rows_are_pairs(tmp_path, names):
    rows = [dict(zip(names, row, strict=True)) for row in LABELLED]
    source = jsonl(tmp_path / "a.jsonl", rows)
    loaded = read(source)
    assert [(p.query, p.positive) for p in loaded.pairs] == [("甲", "乙"), ("己", "庚")]
    assert [(d.reason, d.line, d.collided_with) for d in loaded.dropped] == [
        (reasons.LABEL_0, 2, ""), (reasons.LABEL_0, 4, ""), (reasons.CONFLICT, 3, f"{source}:4"),
    ]  # fmt: skip
    assert [row.score for row in read(source, kind=Kind.scored).pairs] == [1, 0, 1, 1]


def test_graded_scores_are_no_labels(tmp_path):
    rows = [{"sentence1": "甲", "sentence2": "乙", "score": 3.2}]
    with pytest.raises(UserError, match=r"a.jsonl:1: score is 3.2; expected 1 .* or 0"):
        read(jsonl(tmp_path / "a.jsonl", rows))


def test_columns_that_were_mapped_are_taken_at_their_word(tmp_path):
    rows = [{"anchor": "问", "positive": "答", "query": "别"}]
    loaded = load_pairs(jsonl(tmp_path / "a.jsonl", rows), {"query": "anchor"}, BadRows.stop)
    assert loaded.pairs[0].query == "问"


LISTS = {"pos": ["答"], "neg": ["反"], "type": "律"}


@pytest.mark.parametrize(
    ("row", "columns", "negatives"),
    [
        ({"问题": "问", **LISTS}, {"query": "问题", "positive": "pos"}, ("反",)),
        ({"问题": "问", **LISTS}, {"query": "问题"}, ("反",)),
        ({"query": "问", **LISTS}, {"source": "type"}, ("反",)),
        ({"query": "问", **LISTS}, {"negatives": "neg"}, ("反",)),
        ({"anchor": "问", "positive": "答", "negative": "反"}, {"negatives": "negative"}, ("反",)),
        ({"问题": "问", "positive": "答", "negative": "反"}, {"query": "问题"}, ("反",)),
        ({"问题": "问", "pos": "答", "negative_2": "反"}, {"query": "问题"}, ("反",)),
        ({"query": "问", "positive": "答", "neg": "律"}, {"source": "neg"}, ()),
        ({"sentence1": "问", "sentence2": "答"}, {"query": "sentence1"}, ()),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_what_is_not_mapped_is_recognised(tmp_path, name, row, columns, negatives):
    path = tmp_path / name
    if name == "a.parquet":
        parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    else:
        jsonl(path, [row])
    (pair,) = load_pairs(str(path), columns, BadRows.stop).pairs
    assert (pair.query, pair.positive, pair.negatives) == ("问", "答", negatives)
    assert pair.source == ("律" if "source" in columns else "a")


@pytest.mark.parametrize(
    ("label", "columns"),
    [
        ("score", {"query": "sentence1", "positive": "sentence2"}),
        ("label", {"query": "sentence2"}),
        ("对", {"label": "对"}),
    ],
)
def test_the_label_of_mapped_sentences_is_recognised(tmp_path, label, columns):
    rows = [{"sentence1": "甲", "sentence2": "乙", label: 1},
            {"sentence1": "丙", "sentence2": "丁", label: 0}]  # fmt: skip
    loaded = load_pairs(jsonl(tmp_path / "a.jsonl", rows), columns, BadRows.stop)
    assert [sorted((pair.query, pair.positive)) for pair in loaded.pairs] == [["乙", "甲"]]
    assert [each.reason for each in loaded.dropped] == [reasons.LABEL_0]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_list_of_positives_is_a_pair_for_each_whatever_its_column_is_called(tmp_path, name):
    rows = [{"问题": "问", "passages": ["答一", "答二"]}, {"问题": "问二", "passages": ["答三"]}]
    path = tmp_path / name
    if name == "a.parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        jsonl(path, rows)
    columns = {"query": "问题", "positive": "passages"}
    pairs = load_pairs(str(path), columns, BadRows.stop).pairs
    assert [(pair.id, pair.query, pair.positive) for pair in pairs] == [
        ("a-1-1", "问", "答一"), ("a-1-2", "问", "答二"), ("a-2", "问二", "答三"),
    ]  # fmt: skip


def workbook(path, rows, sheets=1):
    book = Workbook()
    for row in rows:
        book.active.append(row)
    for _ in range(sheets - 1):
        book.create_sheet().append(["x"])
    book.save(path)
    return str(path)


def test_excel(tmp_path, caplog):
    rows = [
        ["query", None, "positive"],
        ["问一", "x", "答一"],
        [None, None, None],
        [110, None, 2.5],
    ]
    loaded = read(workbook(tmp_path / "a.xlsx", rows, sheets=2))
    assert [(p.query, p.positive) for p in loaded.pairs] == [("问一", "答一"), ("110", "2.5")]
    assert list(loaded.lines.values()) == [2, 4]
    assert "only the first sheet, 'Sheet', is read" in caplog.text


def test_excels_dates_percentages_and_truth_are_read_as_it_shows_them(tmp_path):
    book, moment = Workbook(), datetime.datetime(2024, 5, 1)
    values = [
        ("2024-05-01", moment, "yyyy-mm-dd"), ("2024-05-01 13:30:00", moment.replace(hour=13,
         minute=30), "yyyy-mm-dd hh:mm"), ("15%", 0.15, "0%"), ("12.50%", 0.125, "0.00%"),
        ("TRUE", True, "General"), ("0.15", 0.15, "General"),
    ]  # fmt: skip
    book.active.append(["query", "positive"])
    for row, (shown, value, form) in enumerate(values, 2):
        book.active.append([f"问{shown}", value])
        book.active.cell(row, 2).number_format = form
    book.save(tmp_path / "a.xlsx")
    loaded = read(str(tmp_path / "a.xlsx"))
    assert [pair.positive for pair in loaded.pairs] == [shown for shown, *_ in values]
    assert number("score", "12.50%") == 0.125


def test_an_empty_cell_of_excel_is_named_by_its_row(tmp_path):
    rows = [["query", "positive"], ["问", "答"], ["问二", None]]
    with pytest.raises(UserError, match="a.xlsx:3: positive is null"):
        read(workbook(tmp_path / "a.xlsx", rows))


@pytest.mark.parametrize("name", ["a.xlsx", "A.XLSX"])
def test_every_row_of_excel_is_accounted_for(tmp_path, name, caplog):
    rows = [
        ["query", "positive"],
        ["问", "答"],
        ["=A2", "=B2"],
        ["问二", "#N/A"],
        ["问三", "答三", "注", "又"],
        [None, None, "注二"],
    ]
    source = workbook(tmp_path / name, rows)
    with pytest.raises(UserError) as caught:
        read(source)
    for part in (
        f"{name}:3: query is =A2, a formula without a result, which Excel adds when it saves",
        f"{name}:3: positive is =B2, a formula",
        f"{name}:4: positive is #N/A, an error of its formula",
        f"{name}:6: query is null",
    ):
        assert part in str(caught.value)
    assert caplog.text.count("stands under no name") == 1
    assert f"{name}:5: '注' stands under no name" in caplog.text
    loaded = read(source, BadRows.drop)
    assert [p.query for p in loaded.pairs] == ["问", "问三"]
    assert [(d.line, d.reason) for d in loaded.dropped] == [
        (3, "not text"), (4, "not text"), (6, "empty text"),
    ]  # fmt: skip


def replace_in_sheet(source, old, new):
    """Write a workbook again with a change in the XML of its sheet."""
    with zipfile.ZipFile(source) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    with zipfile.ZipFile(source, "w") as book:
        for name, raw in parts.items():
            assert old in raw or "sheet1" not in name
            book.writestr(name, raw.replace(old, new) if "sheet1" in name else raw)


def test_a_formula_whose_result_is_empty_is_an_empty_cell(tmp_path):
    source = workbook(tmp_path / "a.xlsx", [["query", "positive"], ["问", "答"], ["=A9", None]])
    replace_in_sheet(source, b'<c r="A3">', b'<c r="A3" t="str">')
    assert len(read(source).pairs) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"</sheetData>", b""),
        (b"<v>1</v>", b"<v>x</v>"),
        (b't="n"><v>1</v>', b't="s"><v>99</v>'),
        (b"<v>1</v>", b'<f t="shared" ref="B2" si="0">"</f>'),
    ],
)
def test_a_workbook_that_is_damaged_in_its_sheet(tmp_path, old, new):
    source = workbook(tmp_path / "a.xlsx", [["query", "positive"], ["问", 1]])
    replace_in_sheet(source, old, new)
    with pytest.raises(UserError, match=r"a.xlsx: not readable as Excel \(.+\); expected an .xlsx"):
        read(source)


def folder(path, qrels):
    path.mkdir()
    jsonl(
        path / "corpus.jsonl",
        [{"_id": "c1", "title": "题", "text": "文"}, {"_id": "c2", "text": "章"}],
    )
    jsonl(path / "queries.jsonl", [{"_id": "q1", "text": "问一"}, {"_id": "q2", "text": "问二"}])
    file = path / qrels
    file.parent.mkdir(exist_ok=True)
    file.write_text("query-id\tcorpus-id\tscore\nq1\tc1\t1\nq1\tc2\t0\nq2\tc2\t2\n")
    return path


@pytest.mark.parametrize("qrels", ["qrels/train.tsv", "qrels.tsv"])
def test_a_folder_of_judgements(tmp_path, qrels):
    loaded = read(str(folder(tmp_path / "beir", qrels)))
    assert [(p.id, p.query, p.positive, p.source) for p in loaded.pairs] == [
        ("q1 c1", "问一", "题 文", "beir"), ("q2 c2", "问二", "章", "beir"),
    ]  # fmt: skip
    assert [(d.reason, d.line) for d in loaded.dropped] == [(reasons.LABEL_0, 3)]


def test_a_judgement_of_nothing(tmp_path):
    path = folder(tmp_path / "beir", "qrels.tsv")
    (path / "qrels.tsv").write_text("q1\tgone\t1\nq1\tc1\t1\n")
    with pytest.raises(UserError, match=r"qrels.tsv:1: id 'gone' is not in corpus.jsonl"):
        read(str(path))


def test_a_folder_of_judgements_whose_passages_have_no_text(tmp_path, caplog):
    path = folder(tmp_path / "beir", "qrels.tsv")
    jsonl(path / "corpus.jsonl", [{"_id": "c1", "text": "文"}, {"_id": "c2", "text": ""}])
    with pytest.raises(UserError, match="qrels.tsv:4: positive is ''; expected text"):
        read(str(path))
    loaded = read(str(path), BadRows.drop)
    assert [pair.id for pair in loaded.pairs] == ["q1 c1"]
    assert [(row.reason, row.line) for row in loaded.dropped] == [("empty text", 4)]
    assert "1 passages have no text" in caplog.text


def test_contradicting_judgements_are_no_pair(tmp_path):
    path = folder(tmp_path / "beir", "qrels.tsv")
    (path / "qrels.tsv").write_text("q1\tc1\t1\nq1\tc1\t0\nq2\tc2\t1.0\n")
    loaded = read(str(path))
    assert [pair.id for pair in loaded.pairs] == ["q2 c2"]
    assert {row.reason for row in loaded.dropped} == {reasons.LABEL_0, reasons.CONFLICT}


def test_a_folder_that_only_evaluates_is_told_as_one(tmp_path):
    path = folder(tmp_path / "beir", "qrels/test.tsv")
    with pytest.raises(UserError, match=r"for evaluation only \(qrels/test.tsv\).*domain.dev="):
        read(str(path))
