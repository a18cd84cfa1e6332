import gzip
import json
import logging

import pytest

from finetune.config.choices import Kind
from finetune.data import beir, parts, sts
from finetune.errors import UserError

CORPUS = '{"_id": "c1", "title": "合同法", "text": "第一条"}\n{"id": 2, "text": " 第二条 "}\n'
QUERIES = '{"_id": "q1", "text": "怎么办？"}\n{"_id": "q2", "text": "没人答"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq1\tc1\t2\nq1\t2\t0\n"


def folder(tmp_path, corpus=CORPUS, queries=QUERIES, qrels=QRELS):
    for name, text in (("corpus.jsonl", corpus), ("queries.jsonl", queries), ("qrels.tsv", qrels)):
        if text is not None:
            (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_both_spellings_of_ids_titles_and_unjudged_queries(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = beir.read_folder(folder(tmp_path))
    assert found.name == tmp_path.name
    assert found.corpus == {"c1": "合同法 第一条", "2": "第二条"}
    assert found.queries == {"q1": "怎么办？"}
    assert found.qrels == {"q1": {"c1": 2, "2": 0}}
    assert "1 queries have no relevant passage" in caplog.text


def test_a_title_may_be_all_there_is(tmp_path):
    corpus = '{"_id": "c1", "title": "合同法", "text": ""}\n{"id": 2, "text": "第二条"}\n'
    assert beir.read_folder(folder(tmp_path, corpus=corpus)).corpus["c1"] == "合同法"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"title": "题", "text": None}, "题"),
        ({"title": "题", "text": " "}, "题"),
        ({"title": None, "text": "文"}, "文"),
        ({"title": " ", "text": "文"}, "文"),
    ],
)
def test_an_empty_title_or_text_leaves_the_other(tmp_path, row, text):
    corpus = CORPUS.replace('{"_id": "c1", ', json.dumps(row)[:-1] + ', "_id": "c1"}\n{"_id": 3, ')
    assert beir.read_folder(folder(tmp_path, corpus=corpus)).corpus["c1"] == text


@pytest.mark.parametrize("score", [None, 0, 1])
def test_a_passage_without_text_is_left_out_unless_it_answers(tmp_path, caplog, score):
    folder(tmp_path, corpus=CORPUS + '{"_id": "c3", "title": "", "text": ""}\n')
    if score is not None:
        (tmp_path / "qrels.tsv").write_text(f"{QRELS}q1\tc3\t{score}\nq2\tc3\t{score}\n")
    if score:
        with pytest.raises(UserError, match="corpus.jsonl:3: text is ''; expected text"):
            beir.read_folder(tmp_path)
        return
    found = beir.read_folder(tmp_path)
    assert set(found.corpus) == {"c1", "2"} and found.qrels == {"q1": {"c1": 2, "2": 0}}
    assert "1 passages have no text, answer nothing and are left out" in caplog.text


@pytest.mark.parametrize(
    "header", ["qid\tpid\tlabel", "query\tpassage\t相关度", "a\tb\trelevance_"]
)
def test_any_header_whole_scores_and_ids_written_as_decimals(tmp_path, header):
    qrels = f"{header}\nq1\tc1\t2.0\nq1\t2\t0.\n"
    found = beir.read_folder(folder(tmp_path, CORPUS.replace("2,", "2.0,"), qrels=qrels))
    assert found.qrels == {"q1": {"c1": 2, "2": 0}}


def test_a_folder_that_is_only_trained_on_is_told_as_one(tmp_path):
    (folder(tmp_path, qrels=None) / "qrels").mkdir()
    (tmp_path / "qrels/train.tsv").write_text(QRELS)
    with pytest.raises(UserError, match="only judgements that are trained on, qrels/train.tsv"):
        beir.read_folder(tmp_path)


def test_packed_files_and_no_header(tmp_path):
    plain = beir.read_folder(folder(tmp_path))
    packed = tmp_path / tmp_path.name
    packed.mkdir()
    for path in list(tmp_path.glob("*.*")):
        text = path.read_text(encoding="utf-8").removeprefix("query-id\tcorpus-id\tscore\n")
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(text.encode()))
    assert beir.read_folder(packed) == plain


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["test"], {"test": {"q1"}}),
        (["dev", "test"], {"test": {"q1"}, "dev": {"q2"}}),
        (["dev", "train"], {"dev": {"q2"}}),
        (["../qrels", "test"], {"test": {"q1"}}),
    ],
)
def test_a_download_of_beir_is_read_as_it_is(tmp_path, caplog, files, found):
    folder(tmp_path, qrels=None)
    (tmp_path / "qrels").mkdir()
    lines = {"test": "q1\tc1\t1\n", "dev": "q2\t2\t1\n", "train": "q1\t2\t1\n"}
    for name in files:
        text = lines.get(name, lines["test"])
        (tmp_path / "qrels" / f"{name}.tsv").write_text(text, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        splits = parts.read(tmp_path, Kind.pairs)
    assert {name: set(each.queries) for name, each in splits.items()} == found
    assert len({id(each.corpus) for each in splits.values()}) == 1  # held once
    assert ("no relevant passage" in caplog.text) == (files[0] == "../qrels")
    assert beir.read_folder(tmp_path) == next(iter(splits.values()))
    assert beir.judged(tmp_path) == found


def test_what_a_split_of_beir_judges_0_alone_is_left_out(tmp_path, caplog):
    folder(tmp_path, qrels=None)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("q1\tc1\t1\nq2\tc1\t0\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert set(beir.read_folder(tmp_path).queries) == {"q1"}
    assert "1 queries have no relevant passage in qrels/test.tsv" in caplog.text


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"corpus": None}, ["corpus.jsonl: no such file"]),
        ({"corpus": "", "queries": "\n"}, ["corpus.jsonl: is empty", "queries.jsonl: is empty"]),
        ({"qrels": ""}, ["qrels.tsv: no score above 0"]),
        ({"qrels": "q1\tc1\t0\n"}, ["qrels.tsv: no score above 0"]),
        ({"corpus": CORPUS + CORPUS}, ["corpus.jsonl:3: id 'c1' is that of line 1 too", ":4: id"]),
        ({"corpus": '{"id": "c\\t1", "text": "x"}\n' + CORPUS}, ["corpus.jsonl:1: id is 'c\\t1'"]),
        ({"corpus": CORPUS + '{"text": "x"}\n'}, ["corpus.jsonl:3: no 'id'; found text"]),
        ({"corpus": CORPUS + '{"id": "x", "txt": ""}\n'}, ["did you mean 'txt'?"]),
        ({"corpus": CORPUS + '{"id": "x", "text": 4}\n'}, ["corpus.jsonl:3: text is 4, a number"]),
        ({"queries": QUERIES + '{"id": "x", "text": " "}\n'}, ["queries.jsonl:3: text is ' '"]),
        ({"queries": QUERIES + "oops\n"}, ["queries.jsonl:3: not JSON"]),
        (
            {"qrels": QRELS + "q9\tc1\t1\nq1\tc9\t1\nq1 c1 1\nq1\tc1\thigh\nq1\tc1\t1\n"},
            [
                "qrels.tsv:4: id 'q9' is not in queries.jsonl",
                "qrels.tsv:5: id 'c9' is not in corpus.jsonl",
                "qrels.tsv:6: has 1 cell(s), 'q1 c1 1'",
                "qrels.tsv:7: score is 'high'",
                "qrels.tsv:8: 'q1' and 'c1' have score 1 here and 2 before",
            ],
        ),
        ({"corpus": "", "queries": "x\n", "qrels": "a\n"}, ["corpus", "queries", "qrels"]),
    ],
)
def test_every_problem_is_told_at_once(tmp_path, files, expected):
    with pytest.raises(UserError) as caught:
        beir.read_folder(folder(tmp_path, **files))
    assert len(caught.value.problems) == len(expected)
    for problem, part in zip(caught.value.problems, expected, strict=True):
        assert part in problem
        assert "expected" in problem


def test_a_file_that_is_there_twice(tmp_path):
    (folder(tmp_path) / "corpus.jsonl.gz").write_bytes(b"")
    with pytest.raises(UserError, match="has corpus.jsonl and corpus.jsonl.gz"):
        beir.read_folder(tmp_path)


def write_sts(tmp_path, *rows, name="test.jsonl"):
    (tmp_path / name).write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def test_labels_and_scores(tmp_path):
    a, b = '{"sentence1": "甲", "sentence2": "乙", ', '{"sentence1": "丙", "sentence2": "丙", '
    rows = sts.read(write_sts(tmp_path, a + '"label": 0}', b + '"label": 1}')).pairs
    assert [(row.a, row.b, row.score) for row in rows] == [("甲", "乙", 0.0), ("丙", "丙", 1.0)]
    assert {row.source for row in rows} == {tmp_path.name}
    rows = sts.read(write_sts(tmp_path, a + '"score": 0.5}', b + '"score": 5}', name="x.jsonl")
                         / "x.jsonl").pairs  # fmt: skip
    assert [row.score for row in rows] == [0.5, 5.0]


def test_dev_is_read_where_there_is_no_test(tmp_path):
    row = '{"sentence1": "甲", "sentence2": "乙", "score": '
    write_sts(tmp_path, row + "1}", row + "2}", name="dev.jsonl")
    assert sts.splits(tmp_path) == ("dev",)
    assert len(sts.read(tmp_path).pairs) == 2


def test_each_split_is_read_by_name_packed_or_not(tmp_path):
    row = '{"sentence1": "甲", "sentence2": "乙", "score": '
    write_sts(tmp_path, row + "1}", row + "2}", name="dev.jsonl")
    text = "\n".join(row + f"{n}}}" for n in range(3)).encode()
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress(text))
    assert sts.splits(tmp_path) == ("test", "dev")
    found = {split: sts.read(tmp_path, split) for split in sts.splits(tmp_path)}
    assert [len(found[split].pairs) for split in ("test", "dev")] == [3, 2]
    assert {each.name for each in found.values()} == {tmp_path.name}
    assert sts.read(tmp_path) == found["test"]
    assert sts.splits(tmp_path / "dev.jsonl") == ("test",)  # a file is what it is given for


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ('"label": 2', "label is 2 (a number); expected 0"),
        ('"label": "1"', "label is '1' (text)"),
        ('"label": true', "label is true"),
        ('"score": NaN', "score is nan"),
        ('"score": 1e999', "score is inf"),
        ('"score": null', "score is null"),
        ('"lable": 1', "did you mean 'lable'?"),
        ('"label": 1', "every label is 1"),
    ],
)
def test_bad_scores(tmp_path, value, part):
    write_sts(tmp_path, '{"sentence1": "甲", "sentence2": "乙", ' + value + "}")
    with pytest.raises(UserError) as caught:
        sts.read(tmp_path)
    assert part in str(caught.value)


def test_shapes(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    assert beir.kind(folder(tmp_path / "a", corpus=None)) == "beir"
    assert beir.kind(write_sts(tmp_path / "b", "")) == "sts"
    with pytest.raises(UserError, match="holds nothing; expected a retrieval set"):
        beir.kind(tmp_path / "c")
    with pytest.raises(UserError, match="is a similarity set.*domain.kind=scored"):
        beir.read_folder(tmp_path / "b")
    with pytest.raises(UserError, match="is a retrieval set.*domain.kind=pairs"):
        sts.read(tmp_path / "a")
    with pytest.raises(UserError, match="none: no such folder; correct the path. It holds corpus"):
        beir.read_folder(tmp_path / "none")


def test_a_mistyped_folder_is_told_by_its_key_with_the_nearest(tmp_path):
    (tmp_path / "dev").mkdir()
    for kind in Kind:
        with pytest.raises(UserError) as caught:
            parts.read(tmp_path / "nodev", kind, "domain.dev=")
        assert str(caught.value) == (
            f"domain.dev={tmp_path}/nodev: no such folder; did you mean 'dev'? It holds "
            "corpus.jsonl, queries.jsonl and qrels.tsv (of scored pairs test.jsonl). None yet: "
            "finetune split <pairs> --out own"
        )
    with pytest.raises(UserError, match=r"no such folder \(.*null"):
        beir.kind(tmp_path / "a\0b")


@pytest.mark.parametrize("name", ["qrels.tsv", "queries.jsonl", "qrels/test.tsv"])
def test_a_file_of_a_set_is_no_set(tmp_path, name):
    dev = tmp_path / "dev"
    (dev / "qrels").mkdir(parents=True)
    (folder(dev) / "qrels/test.tsv").write_text(QRELS)
    with pytest.raises(UserError) as caught:
        parts.read(dev / name, Kind.pairs, "domain.dev=")
    assert str(caught.value) == (
        f"domain.dev={dev}/{name}: is a file; name the folder: domain.dev={dev}"
    )
