import csv
import shlex

import pytest

from finetune.cli import main
from finetune.config.compose import compose
from finetune.data.beir import read_folder
from finetune.data.documents import read_documents
from finetune.records import read_dicts

pytestmark = pytest.mark.usefixtures("logs_as_they_were")


@pytest.fixture
def manuals(tmp_path):
    """A long document and nine short ones; one passage is in all of them."""
    folder = tmp_path / "my manuals"
    folder.mkdir()
    for number in range(10):
        count = 60 if number == 0 else 3
        parts = [f"## 第{n}节\n\n文件{number}的第{n}段正文。\n" for n in range(count)]
        (folder / f"{number}.md").write_text(
            "\n".join([*parts, "## 附\n\n同样的一段。\n"]), "utf-8"
        )
    return folder


def split(*words):
    return main(["split", *map(str, words)])


def rows(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(path, changes):
    """Write questions into the first rows, as somebody does in a table."""
    table = rows(path)
    for row, change in zip(table, changes, strict=False):
        row.update(change)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)


def test_of_documents_and_questions_comes_a_set_that_is_evaluated_on(manuals, tmp_path, capsys):
    out = tmp_path / "my own"
    assert split(manuals, "--out", out, "--queries", 40) == 0
    told = capsys.readouterr().out
    corpus = {row["id"]: row["text"] for row in read_dicts(out / "dev/corpus.jsonl")}
    assert sorted(corpus.values()) == sorted({each.text for each in read_documents(manuals)})
    table = rows(out / "questions.csv")
    assert len(table) == 40 and {row["query"] for row in table} == {""}
    assert all(corpus[row["positive-id"]] == row["passage"] for row in table)
    # As many of the long document as of any other, and what is left.
    assert sum(row["passage"].startswith("文件0") for row in table) < 20
    asked = [{"query": f"第{n}个问题？"} for n in range(25)]
    asked[24] = {"query": "第3个问题"}  # asked once more: another answer
    fill(out / "questions.csv", asked)
    assert main(shlex.split(told.splitlines()[-2].partition("finetune ")[2])) == 0
    assert "24 queries, 88 passages" in capsys.readouterr().out
    found = read_folder(out / "dev")
    assert found.corpus == corpus and len(found.queries) == 24
    (twice,) = [key for key, text in found.queries.items() if text == "第3个问题？"]
    assert found.qrels[twice] == {table[place]["positive-id"]: 1 for place in (3, 24)}
    config = compose(shlex.split(told.splitlines()[-1].partition("train.py ")[2]))
    assert (config.domain.documents, config.domain.dev) == (manuals, out / "dev")
    assert split(out / "questions.csv", "--out", out) == 2  # another set under the same name
    assert "is there already" in capsys.readouterr().err


def test_a_file_that_is_not_utf8_is_left_out(manuals, tmp_path, caplog):
    passages = read_documents(manuals)
    (manuals / "gb.md").write_bytes("退货".encode("gb18030"))
    assert split(manuals, "--out", tmp_path / "own") == 0
    corpus = {row["text"] for row in read_dicts(tmp_path / "own/dev/corpus.jsonl")}
    assert corpus == {each.text for each in passages}
    assert "left out: 1 not UTF-8" in caplog.text


def test_the_draw_is_the_seeds(manuals, tmp_path):
    tables = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert split(manuals, "--out", tmp_path / name, "--queries", 40, "--seed", seed) == 0
        tables.append(rows(tmp_path / name / "questions.csv"))
    assert tables[0] == tables[1] != tables[2]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([], "questions.csv: no question filled in; expected at least 20"),
        ([{"query": f"问{n}"} for n in range(19)], "19 different question(s) filled in"),
        ([{"query": "问"}] * 30, "1 different question(s) filled in"),
        ([{"query": "问", "positive-id": "x"}], "csv:2: positive-id 'x' is not in corpus.jsonl"),
    ],
)
def test_what_makes_no_set_is_told_and_the_table_stays(manuals, tmp_path, capsys, changes, told):
    assert split(manuals, "--out", tmp_path / "own", "--queries", 40) == 0
    fill(tmp_path / "own/questions.csv", changes)
    assert split(tmp_path / "own/questions.csv", "--out", tmp_path / "own") == 2
    assert told in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "own/dev").iterdir()) == ["corpus.jsonl"]


def test_another_table_is_told(manuals, tmp_path, capsys):
    assert split(manuals, "--out", tmp_path / "own") == 0
    (tmp_path / "faq.csv").write_text("query,positive\n问,答\n", "utf-8")
    assert split(tmp_path / "faq.csv", "--out", tmp_path / "own") == 2
    assert "no column 'positive-id'; found query, positive" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--queries", 5], "--queries 5: is too few to measure with"),
     (["seed=1"], "takes no settings, found seed=1")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_told(manuals, tmp_path, capsys, words, told):
    assert split(manuals, "--out", tmp_path / "own", *words) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "own").exists()


def test_too_few_passages_are_told(manuals, tmp_path, capsys):
    (manuals / "0.md").unlink()
    for path in list(manuals.iterdir())[2:]:
        path.unlink()
    assert split(manuals, "--out", tmp_path / "own") == 2
    assert "holds 7 different passages; expected at least 20" in capsys.readouterr().err
