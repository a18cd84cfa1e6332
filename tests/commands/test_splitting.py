import csv
import json
import shlex

import pytest

from finetune.cli import main
from finetune.config.compose import compose
from finetune.data.prepare import load
from finetune.records import read_dicts

pytestmark = pytest.mark.usefixtures("logs_as_they_were")


@pytest.fixture
def table(tmp_path):
    """A table as people have it: other column names, an empty cell, a row twice."""
    path = tmp_path / "faq.csv"
    rows = [[f"第{n}条规定了什么？", f"第{n}条的内容写在这里。"] for n in range(200)]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["问题", "回答"], *rows, ["空的", ""], rows[0]])
    return path


COLUMNS = "domain.columns={query: 问题, positive: 回答}"


def test_what_it_writes_is_what_the_command_that_it_names_reads(table, tmp_path, capsys):
    out = tmp_path / "my own"  # the line is one for a shell
    assert main(["split", str(table), "--out", str(out), "--queries", "40", COLUMNS]) == 0
    *told, last = capsys.readouterr().out.strip().splitlines()
    assert "40 queries, 200 passages" in told[0] and "160 pairs" in told[1]
    assert [row["reason"] for row in read_dicts(out / "dropped.jsonl")] == [
        "empty text", "duplicate",
    ]  # fmt: skip
    config = compose(shlex.split(last.partition("train.py ")[2]))
    assert (config.domain.name, config.model.name) == ("faq", "starter")
    assert last.startswith("next (or model=bge-base-zh): python train.py recipes=contrastive ")
    loaded = load(config.domain, config.check)
    assert len(loaded.pairs) == 160 and not loaded.dropped
    asked = [query for each in (*loaded.select, *loaded.report) for query in each.queries.values()]
    assert len(asked) == 40 and not set(asked) & {pair.query for pair in loaded.pairs}


def test_scored_pairs_get_a_set_of_pairs(tmp_path, capsys):
    path = tmp_path / "scored.jsonl"
    rows = ({"a": f"第{n}句话", "b": f"第{n}句", "score": n % 2} for n in range(200))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    out = tmp_path / "own"
    assert main(["split", str(path), "--out", str(out), "domain.kind=scored"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    config = compose(shlex.split(last.partition("train.py ")[2]))
    loaded = load(config.domain, config.check)
    assert len(loaded.pairs) == 160
    assert sum(len(each.pairs) for each in (*loaded.select, *loaded.report)) == 40


@pytest.mark.parametrize(
    ("file", "words", "name"),
    [("问答 (1).csv", [], "问答-1-"), ("faq.csv", ["domain.name=help"], "help")],
)
def test_the_run_to_be_is_named_as_the_file_or_as_the_settings_say(
    table, tmp_path, capsys, file, words, name
):
    path = table.rename(tmp_path / file)
    assert main(["split", str(path), "--out", str(tmp_path / "own"), COLUMNS, *words]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert compose(shlex.split(last.partition("train.py ")[2])).domain.name == name


def test_a_set_that_is_there_is_not_made_again(table, tmp_path, capsys):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/notes.txt").write_text("mine")
    assert main(["split", str(table), "--out", str(tmp_path / "own"), COLUMNS]) == 2
    assert "is there already; name a new or an empty folder" in capsys.readouterr().err


def test_nothing_named_is_told(tmp_path, capsys):
    assert main(["split", "--out", str(tmp_path / "own")]) == 2
    assert capsys.readouterr().err.startswith("error: finetune split: ")
