import json
from dataclasses import replace

import pytest

from finetune.config.choices import Kind, Source
from finetune.config.compose import compose
from finetune.config.pairs import Domain
from finetune.data.leaks import LEAK
from finetune.data.parts import write_halves
from finetune.data.prepare import LIMIT, UNSELECTED, prepare, questions
from finetune.errors import UserError
from finetune.records import Dropped, Pair, read_dicts, read_json, read_jsonl
from finetune.sets import half, read_halves

STOP = compose(["recipes=full"]).check


def domain(tmp_path, **changes):
    settings = {
        "name": "custom", "source": Source.files, "kind": Kind.pairs,
        "train": str(tmp_path / "train.jsonl"), "dev": tmp_path / "dev", "test": None,
        "documents": None, "queries": None, "columns": {}, "sources": None, "full": False,
    }  # fmt: skip
    return Domain(**(settings | changes))


def write_train(tmp_path, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "train.jsonl").write_text(text, encoding="utf-8")


def write_dev(folder, queries):
    folder.mkdir()
    lines = [json.dumps({"id": key, "text": text}) for key, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "corpus.jsonl").write_text('{"id": "c", "text": "篇"}\n{"id": "d", "text": "章"}\n')
    (folder / "qrels.tsv").write_text("".join(f"{key}\tc\t1\n" for key in queries))


QUERIES = {f"q{i}": f"评测问题{i}？" for i in range(20)}


@pytest.fixture
def files(tmp_path):
    rows = [{"query": f"训练{i}", "positive": f"答{i}", "source": "ab"[i % 2]} for i in range(30)]
    rows[4]["query"] = "评测问题７"
    write_train(tmp_path, [*rows, rows[0]])
    write_dev(tmp_path / "dev", QUERIES)
    (tmp_path / "out").mkdir()
    return tmp_path


def kept_and_dropped(out):
    return (
        list(read_jsonl(out / "train.jsonl", Pair)),
        list(read_jsonl(out / "dropped.jsonl", Dropped)),
    )


def test_pairs_left_out_still_tell_what_answers_a_question(tmp_path):
    write_train(tmp_path, [
        {"query": "问一", "positive": "答一", "source": "a"},
        {"query": "问，一？", "positive": "别的答", "source": "b"},  # a source that is not selected
        {"query": "问二", "positive": "问一", "source": "b"},  # a paraphrase of a question
        {"query": "问三", "positive": "答三", "source": "b"},
    ])  # fmt: skip
    write_dev(tmp_path / "dev", QUERIES)
    (tmp_path / "out").mkdir()
    prepare(domain(tmp_path, sources=["a"]), STOP, None, 0, tmp_path / "out")
    known = list(read_jsonl(tmp_path / "out/known.jsonl", Pair))
    assert [(pair.query, pair.positive) for pair in known] == [
        ("问，一？", "别的答"), ("问二", "问一")
    ]  # fmt: skip


def test_limit_leaves_known_answers_known(tmp_path):
    rows = [{"query": f"问{n // 2}", "positive": f"答{n}"} for n in range(40)]
    write_train(tmp_path, rows)
    write_dev(tmp_path / "dev", QUERIES)
    (tmp_path / "out").mkdir()
    prepare(domain(tmp_path), STOP, 10, 0, tmp_path / "out")
    kept = list(read_jsonl(tmp_path / "out/train.jsonl", Pair))
    known = list(read_jsonl(tmp_path / "out/known.jsonl", Pair))
    told = {(pair.query, pair.positive) for pair in (*kept, *known)}
    asked = {pair.query for pair in kept}
    assert len(kept) == 10 and known
    assert told == {(row["query"], row["positive"]) for row in rows if row["query"] in asked}


def test_every_row_is_accounted_for(files):
    out = files / "out"
    summary = prepare(domain(files, sources=["a"]), STOP, 10, 0, out)
    pairs, dropped = kept_and_dropped(out)
    assert summary == read_json(out / "summary.json")
    assert summary["read"] == 31 == len(pairs) + len(dropped)
    assert summary["pairs"] == 10 == len(pairs)
    assert summary["dropped"] == {"duplicate": 1, LEAK: 1, LIMIT: 4, UNSELECTED: 15}
    assert summary["sources"] == {"a": 10}
    leak = next(row for row in dropped if row.reason == LEAK)
    assert (leak.line, leak.collided_with) == (5, "dev: query q7")
    assert leak.source == str(files / "train.jsonl")


def test_the_log_tells_what_training_cuts(files, tiny_model, caplog):
    """Of 4 texts of 18, 1, 1 and 1 tokens, and 2 special ones each, training reads 10 at most."""
    caplog.set_level("INFO")
    write_train(files, [{"query": "一", "positive": "离" * 18}, {"query": "二", "positive": "婚"}])
    custom = compose(["recipes=full", "model=custom"]).model
    model = replace(custom, path=tiny_model, max_length=64)
    prepare(domain(files), STOP, None, 0, files / "out", model, 10)
    assert (
        "train.max_length=10 cuts 1 of 4 texts, and 34.5 % of all tokens (1.00 a character, "
        "measured with its tokenizer); raise train.max_length to train on them"
    ) in caplog.text  # 10 of 29
    caplog.clear()
    prepare(domain(files), STOP, None, 0, files / "out", replace(model, max_length=9), 10)
    assert "model.max_length=9 cuts 1 of 4 texts" in caplog.text
    caplog.clear()
    prepare(domain(files), STOP, None, 0, files / "out", model, 20)
    assert "cuts" not in caplog.text


def test_near_duplicates_are_written_with_their_partners(files, caplog):
    caplog.set_level("INFO")
    first = {"query": "房东拒绝退还押金怎么办", "positive": "押金应当在合同终止以后退还"}
    write_train(files, [first, first | {"query": "请问房东拒绝退还押金怎么办"}])
    prepare(domain(files), STOP, None, 0, files / "out")
    source, answer = files / "train.jsonl", first["positive"]
    assert list(read_dicts(files / "out/near.jsonl")) == [{
        "place": f"{source}:2", "text": f"请问房东拒绝退还押金怎么办 → {answer}",
        "other": f"{source}:1: 房东拒绝退还押金怎么办 → {answer}",
    }]  # fmt: skip
    assert "near duplicates: 1 of 2 pairs; finetune check shows them; all in near.jsonl" in (
        caplog.text
    )


def test_the_log_names_a_multilingual_base_unless_there_is_one(files, caplog):
    caplog.set_level("INFO")
    rows = [{"query": f"문장 {n}", "positive": f"答{n}"} for n in range(9)]
    write_train(files, rows)
    for name in ("starter", "bge-m3"):
        caplog.clear()
        model = compose(["recipes=full", f"model={name}"]).model
        prepare(domain(files), STOP, None, 0, files / "out", model)
        (told,) = [each for each in caplog.records if each.message.startswith("hangul: 9 of 18")]
        assert (told.levelname == "WARNING") == (name == "starter")
        assert ("model=multilingual-e5-base or model=bge-m3" in told.message) == (name == "starter")


def test_halves_are_split_by_id_and_share_one_corpus(files):
    out = files / "out"
    write_halves(out, questions(domain(files)))
    halves = read_halves(out)
    summary = prepare(domain(files), STOP, None, 0, out, halves=halves)
    (select,), (report,) = halves
    assert list(select.queries) == [key for key in QUERIES if half(key) == "select"]
    assert list(report.queries) == [key for key in QUERIES if half(key) == "report"]
    assert select.corpus == {"c": "篇", "d": "章"} and select.corpus is report.corpus
    files_of_corpus = [out / part / "dev/corpus.jsonl" for part in ("select", "report")]
    assert files_of_corpus[0].samefile(files_of_corpus[1])
    counts = {"select": len(select.queries), "report": len(report.queries), "passages": 2}
    assert summary["sets"] == {"dev": counts}


def test_a_second_attempt_in_the_same_folder_gives_the_same(files):
    out = files / "out"
    first = prepare(domain(files), STOP, None, 0, out)
    assert prepare(domain(files), STOP, None, 0, out) == first
    halves = questions(domain(files))
    for _ in range(2):
        write_halves(out, halves)
        assert read_halves(out) == halves


def test_a_test_folder_replaces_the_split(files, caplog):
    write_dev(files / "test", {"t1": "别的问题", "t2": "评测问题3！"})
    (select,), (report,) = questions(domain(files, test=files / "test"))
    assert list(select.queries) == [key for key in QUERIES if key != "q3"]
    assert (select.name, report.name) == ("dev", "test")
    assert list(report.queries) == ["t1", "t2"]
    assert "1 queries are in the report half too" in caplog.text


def test_samples_are_seeded_ordered_and_nested(files):
    def sample(limit, seed):
        prepare(domain(files), STOP, limit, seed, files / "out")
        return [pair.id for pair in kept_and_dropped(files / "out")[0]]

    everything = sample(None, 0)
    small, large = sample(5, 0), sample(15, 0)
    assert small == sample(5, 0) != sample(5, 1)
    assert set(small) < set(large)
    assert large == [each for each in everything if each in large]
    assert sample(1000, 0) == everything


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"train": "gone.jsonl", "dev": None}, ["domain.dev: not set", "gone.jsonl: no such"]),
        ({"sources": ["c", "a"]}, ["of source 'c'; choose from: a, b", "domain.sources=null"]),
        ({"train": "gone.jsonl", "columns": {}}, ["gone.jsonl: no such file"]),
    ],
)
def test_settings_that_cannot_work(files, changes, parts):
    with pytest.raises(UserError) as caught:
        prepare(domain(files, **changes), STOP, None, 0, files / "out")
    for part in parts:
        assert part in str(caught.value)
    assert not list((files / "out").iterdir())


def test_problems_of_train_and_dev_are_told_together(files):
    (files / "train.jsonl").write_text("oops\n")
    (files / "dev/qrels.tsv").write_text("q1\tgone\t1\n")
    with pytest.raises(UserError) as caught:
        prepare(domain(files), STOP, None, 0, files / "out")
    assert "train.jsonl:1" in caught.value.problems[0]
    assert "qrels.tsv:1" in caught.value.problems[1]


def test_a_half_without_queries_is_an_error(tmp_path):
    write_train(tmp_path, [{"query": "问", "positive": "答"}])
    write_dev(tmp_path / "dev", {"q": "评"})
    with pytest.raises(UserError, match="domain.test=<folder>"):
        prepare(domain(tmp_path), STOP, None, 0, tmp_path)


def test_nothing_but_leaks_is_an_error(files):
    write_train(files, [{"query": "评测问题1", "positive": "答"}])
    with pytest.raises(UserError, match="no pair is left of 1 rows .1 leak"):
        prepare(domain(files), STOP, None, 0, files / "out")
