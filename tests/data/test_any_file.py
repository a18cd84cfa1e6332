"""No file whatever gives anything but a UserError or a full account of its rows."""

import csv
import gzip
import io
import json
import zipfile

import pyarrow
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook
from pyarrow import parquet
from reading import read_pairs

from finetune.config.choices import BadRows, Kind
from finetune.data import beir, sts
from finetune.data.documents import read_documents
from finetune.errors import UserError
from finetune.records import write_jsonl
from finetune.sets import write_set

settings.register_profile(
    "files", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FILES = settings.get_profile("files")

TEXT = st.text(max_size=12) | st.sampled_from(["问", "答", "\ud83d", " ", "问。", "\u2028"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["query", "positive", "negatives", "source", "id", "text", "_id", "title",
                        "sentence1", "sentence2", "label", "a", "b", "score", "qurey"])  # fmt: skip
LIKELY = st.fixed_dictionaries(
    {"query": TEXT, "positive": TEXT}, optional={"negatives": JSON, "id": JSON, "source": JSON}
)
ROWS = st.lists(LIKELY | st.dictionaries(KEYS, JSON) | JSON, max_size=6)
LINES = ROWS.map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
ARRAYS = ROWS.map(lambda rows: json.dumps(rows).encode())
RAW = st.binary(max_size=80) | st.text(max_size=80).map(
    lambda text: text.encode("utf-8", "surrogatepass")
)
TABLES = st.lists(st.lists(TEXT, min_size=1, max_size=3), max_size=5).map(
    lambda rows: "\n".join(",".join(row) for row in [["query", "positive"], *rows]).encode(
        "utf-8", "surrogatepass"
    )
)
ENDINGS = st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".xlsx", ".jsonl.gz",
                           ".csv.gz"])  # fmt: skip
# Texts that any table can hold; to Excel some are an error or a formula.
CELLS = st.text(st.characters(exclude_categories=["C"]), max_size=8) | st.sampled_from(
    ["", " ", "问", "答", "=A1", "#N/A", '"', ",", '["反"]']
)


LIKELY_SCORED = st.fixed_dictionaries(
    {"a": TEXT, "b": TEXT, "score": st.integers(0, 3) | st.floats() | JSON},
    optional={"id": JSON, "source": JSON},
)


def check(path, bad_rows, kind=Kind.pairs):
    """Read; return the number of rows accounted for, or None after a UserError."""
    try:
        pairs, dropped = read_pairs(str(path), {}, bad_rows, kind)
    except UserError as error:
        str(error).encode("utf-8")  # can be shown on any terminal
        assert error.problems
        return None
    write_jsonl(path.with_name("pairs"), pairs)
    write_jsonl(path.with_name("dropped"), dropped)
    assert len({pair.id for pair in pairs}) == len(pairs)
    return len(pairs) + len(dropped)


@settings(FILES, max_examples=300)
@given(raw=RAW | LINES | ARRAYS | TABLES, end=ENDINGS, bad_rows=st.sampled_from(BadRows))
def test_any_bytes_in_any_format(tmp_path, raw, end, bad_rows):
    path = tmp_path / f"a{end}"
    path.write_bytes(gzip.compress(raw) if end.endswith("gz") and len(raw) % 5 else raw)
    check(path, bad_rows)


@settings(FILES, max_examples=200)
@given(rows=st.lists(LIKELY, min_size=1, max_size=8))
def test_rows_in_are_rows_kept_and_rows_dropped(tmp_path, rows):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert check(path, BadRows.drop) == len(rows)


@settings(FILES, max_examples=200)
@given(
    lines=st.lists(
        st.binary(min_size=1, max_size=12) | LIKELY.map(lambda r: json.dumps(r).encode())
    )
)
def test_lines_in_are_rows_kept_and_rows_dropped(tmp_path, lines):
    lines = [line for line in (b"".join(each.splitlines()) for each in lines) if line.strip()]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([b'{"query": "1", "positive": "2"}', *lines]))
    # Bytes that are no UTF-8 are no white space; some that are stand for nothing but it.
    blank = [line for line in lines if not line.decode("utf-8", "replace").strip()]
    assert check(path, BadRows.drop) == 1 + len(lines) - len(blank)


def workbook(rows) -> bytes:
    book = Workbook()
    for row in rows:
        book.active.append(row)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("end", [".csv", ".tsv", ".xlsx"])
@settings(FILES, max_examples=20)
@given(rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=5))
@example(rows=[["=A1", "", ""]])
def test_rows_of_a_table_in_are_rows_kept_and_rows_dropped(tmp_path, end, rows):
    path = tmp_path / f"a{end}"
    table = [["query", "positive", "negatives"], *rows]
    if end == ".xlsx":
        path.write_bytes(workbook(table))
        rows = list(filter(any, rows))  # one without a value is none
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="," if end == ".csv" else "\t").writerows(table)
    assert check(path, BadRows.drop) == (len(rows) or None)


@settings(FILES, max_examples=100)
@given(rows=st.lists(LIKELY_SCORED, min_size=1, max_size=8))
def test_scored_rows_in_are_rows_kept_and_rows_dropped(tmp_path, rows):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert check(path, BadRows.drop, Kind.scored) == len(rows)


@settings(FILES, max_examples=60)
@given(raw=RAW | LINES | ARRAYS | TABLES, end=ENDINGS)
def test_any_bytes_as_scored_pairs(tmp_path, raw, end):
    path = tmp_path / f"a{end}"
    path.write_bytes(gzip.compress(raw) if end.endswith("gz") and len(raw) % 5 else raw)
    check(path, BadRows.drop, Kind.scored)


@settings(FILES, max_examples=100)
@given(
    rows=st.lists(st.lists(st.none() | st.text(max_size=5), min_size=2, max_size=2), min_size=1),
    cut=st.none() | st.integers(0, 400),
    change=st.integers(0, 255),
)
def test_any_parquet_file_whole_or_broken(tmp_path, rows, cut, change):
    buffer = io.BytesIO()
    table = pyarrow.table(
        {name: pyarrow.array([row[i] for row in rows], pyarrow.string())
         for i, name in enumerate(["query", "positive"])}
    )  # fmt: skip
    parquet.write_table(table, buffer)
    raw = bytearray(buffer.getvalue())
    if cut is not None:
        raw[cut % len(raw)] = change
    path = tmp_path / "a.parquet"
    path.write_bytes(raw)
    found = check(path, BadRows.drop)
    if cut is None:
        assert found == len(rows)


WORKBOOK = zipfile.ZipFile(io.BytesIO(workbook([["query", "positive"], ["问", "=A1"], [1, "答"]])))


@settings(FILES, max_examples=40)
@given(
    part=st.sampled_from(["xl/worksheets/sheet1.xml"] * 3 + WORKBOOK.namelist()),
    at=st.floats(0, 1),
    removed=st.integers(1, 20),
    put=st.binary(max_size=3),
    cut=st.booleans(),
)
def test_any_broken_workbook(tmp_path, part, at, removed, put, cut):
    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(path, "w") as file:
        for name in WORKBOOK.namelist():
            raw = WORKBOOK.read(name)
            if name == part:
                place = int(at * len(raw))
                raw = raw[:place] + put + (b"" if cut else raw[place + removed :])
            file.writestr(name, raw)
    check(path, BadRows.drop)


@settings(FILES, max_examples=150)
@given(
    corpus=RAW | LINES,
    queries=RAW | LINES,
    qrels=RAW | st.lists(st.lists(TEXT | st.just("1"), max_size=4)).map(
        lambda rows: "\n".join("\t".join(row) for row in rows).encode("utf-8", "surrogatepass")
    ),
)  # fmt: skip
def test_any_folder(tmp_path, corpus, queries, qrels):
    (tmp_path / "corpus.jsonl").write_bytes(corpus)
    (tmp_path / "queries.jsonl").write_bytes(queries)
    (tmp_path / "qrels.tsv").write_bytes(qrels)
    try:
        write_set(tmp_path / "written", beir.read_folder(tmp_path))
    except UserError as error:
        str(error).encode("utf-8")


IDS = st.text(min_size=1, max_size=4)


@settings(FILES, max_examples=150)
@given(texts=st.dictionaries(IDS, st.text(min_size=1, max_size=5), min_size=1, max_size=4))
def test_what_is_read_can_be_written_and_read_again(tmp_path, texts):
    from finetune.sets import read_set

    lines = "\n".join(json.dumps({"id": key, "text": text}) for key, text in texts.items())
    for name in ("corpus", "queries"):
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    qrels = "\n".join(f"{key}\t{key}\t1" for key in texts)
    (tmp_path / "qrels.tsv").write_bytes(qrels.encode("utf-8"))
    try:
        found = beir.read_folder(tmp_path)
    except UserError:
        return
    target = tmp_path / "again" / found.name
    write_set(target, found)
    assert read_set(target) == found


@settings(FILES, max_examples=150)
@given(raw=RAW | LINES)
def test_any_similarity_file(tmp_path, raw):
    (tmp_path / "test.jsonl").write_bytes(raw)
    try:
        rows = sts.read(tmp_path).pairs
    except UserError as error:
        str(error).encode("utf-8")
    else:
        assert len({row.id for row in rows}) == len(rows)


DOCUMENTS = st.lists(
    st.dictionaries(st.sampled_from(["title", "heading", "text"]), TEXT), min_size=1, max_size=2
).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())


@settings(FILES, max_examples=30)
@given(raw=RAW | DOCUMENTS, end=st.sampled_from([".jsonl", ".md", ".txt", ".txt.gz"]))
def test_any_bytes_as_documents(tmp_path, raw, end):
    folder = tmp_path / end
    folder.mkdir(exist_ok=True)
    path = folder / f"a{end}"
    path.write_bytes(raw)
    try:
        passages = read_documents(path if end == ".jsonl" else folder)
    except UserError as error:
        str(error).encode("utf-8")
        return
    write_jsonl(tmp_path / "passages", passages)
    assert all(each.text == each.text.strip() != "" for each in passages)
    assert all("\x00" not in each.title + each.heading + each.text for each in passages)
