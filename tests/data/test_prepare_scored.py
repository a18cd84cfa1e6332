"""Domains of scored pairs: what is trained on, what selects, what reports."""

import json

import pytest

from finetune.config.choices import Kind, Source
from finetune.config.compose import compose
from finetune.config.pairs import Domain
from finetune.data.leaks import PAIR_LEAK
from finetune.data.parts import write_halves
from finetune.data.prepare import LIMIT, prepare, questions
from finetune.errors import UserError
from finetune.records import Dropped, Scored, read_json, read_jsonl
from finetune.sets import half, read_halves

STOP = compose(["recipes=full"]).check


def domain(folder, **changes):
    settings = {
        "name": "custom", "source": Source.files, "kind": Kind.scored,
        "train": str(folder / "train.jsonl"), "dev": folder / "dev", "test": None,
        "documents": None, "queries": None,
        "columns": {"a": "sentence1", "b": "sentence2", "score": "label"},
        "sources": None, "full": False,
    }  # fmt: skip
    return Domain(**(settings | changes))


def write(path, pairs):
    path.parent.mkdir(exist_ok=True)
    rows = [{"sentence1": a, "sentence2": b, "label": n % 2} for n, (a, b) in enumerate(pairs)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


ASKED = [(f"评测{n}", f"另一{n}") for n in range(40)]
TRAINED = [(f"训练{n}", f"别的{n}") for n in range(20)]


@pytest.fixture
def files(tmp_path):
    leaks = [("另一７。", "评测7"), ("评测9", "另一9")]
    write(tmp_path / "train.jsonl", [*TRAINED, *leaks, ("评测3", "不同"), TRAINED[0]])
    write(tmp_path / "dev/test.jsonl", ASKED)
    (tmp_path / "out").mkdir()
    return tmp_path


def test_every_row_is_accounted_for(files):
    out = files / "out"
    summary = prepare(domain(files), STOP, 15, 0, out)
    pairs = list(read_jsonl(out / "train.jsonl", Scored))
    dropped = list(read_jsonl(out / "dropped.jsonl", Dropped))
    assert summary == read_json(out / "summary.json")
    assert summary["read"] == 24 == len(pairs) + len(dropped) and summary["pairs"] == 15
    # a text of an evaluation pair may be trained on with another
    other = "another score for the same texts"  # 24 rows on, the label is another
    assert summary["dropped"] == {PAIR_LEAK: 2, LIMIT: 6, other: 1}
    leaks = [row for row in dropped if row.reason == PAIR_LEAK]
    assert [(row.line, row.text, row.collided_with) for row in leaks] == [
        (21, "另一７。", "dev: pair dev-8"), (22, "评测9", "dev: pair dev-10")
    ]  # fmt: skip


def test_one_file_is_halved_by_the_ids_of_its_pairs(files):
    out = files / "out"
    summary = prepare(domain(files), STOP, None, 0, out)
    parts = {part: each for part, (each,) in questions(domain(files))._asdict().items()}
    for part, found in parts.items():
        assert found.pairs and all(half(pair.id) == part for pair in found.pairs)
        assert found.name == "dev" and {pair.score for pair in found.pairs} == {0.0, 1.0}
    assert sorted(pair.a for found in parts.values() for pair in found.pairs) == sorted(
        a for a, _ in ASKED
    )
    counts = {part: len(found.pairs) for part, found in parts.items()}
    assert summary["sets"] == {"dev": counts}


def test_dev_selects_and_test_reports_where_both_are_there(files, caplog):
    write(files / "dev/dev.jsonl", [("甲", "乙"), ("丙", "丁"), ("另一5", "评测5"), ("戊", "己")])
    (select,), (report,) = questions(domain(files))
    assert [pair.a for pair in select.pairs] == ["甲", "丙", "戊"]  # one is in test too
    assert len(report.pairs) == 40
    assert "1 pairs are in the report half too" in caplog.text


def test_a_test_folder_replaces_the_split(files):
    write(files / "other/dev.jsonl", [("甲", "乙"), ("丙", "丁")])
    write(files / "dev/dev.jsonl", [("戊", "己"), ("庚", "辛"), ("壬", "癸")])
    (select,), (report,) = questions(domain(files, test=files / "other"))
    assert (select.name, len(select.pairs)) == ("dev", 3)
    assert (report.name, len(report.pairs)) == ("other", 2)


def test_a_sample_of_one_score_is_refused(files):
    write(files / "train.jsonl", [("甲", "乙"), ("丙", "丁")])
    with pytest.raises(UserError, match="every score of the 1 pairs left is [01]; .*raise limit"):
        prepare(domain(files), STOP, 1, 0, files / "out")


def test_a_second_attempt_in_the_same_folder_gives_the_same(files):
    out = files / "out"
    first = prepare(domain(files), STOP, None, 0, out)
    assert prepare(domain(files), STOP, None, 0, out) == first
    halves = questions(domain(files))
    for _ in range(2):
        write_halves(out, halves)
        assert read_halves(out) == halves
