import json
import shutil
from functools import partial

import numpy as np
import pytest
from benchmarking import benchmark

from finetune.evaluation.retrieval import Ranking
from finetune.sets import EvaluationSet, half, write_set


@pytest.fixture
def ceiling(tmp_path, monkeypatch):
    module = benchmark("ceiling", monkeypatch)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(module, "WORK", tmp_path / "work")
    return module


def ranking(*rows):
    return Ranking(tuple(f"q{n}" for n in range(len(rows))), rows, np.empty((len(rows), 0)))


def test_rankings_are_fused_by_reciprocal_rank(ceiling):
    one, other = ranking(("a", "b", "c")), ranking(("c", "d"))
    assert ceiling.fused(one, other, 0).documents == (("a", "b", "c"),)
    assert ceiling.fused(one, other, 1).documents == (("c", "d"),)
    assert ceiling.fused(one, other, 0.5).documents[0][0] == "c"  # which both know


def test_the_weight_is_of_the_select_half_and_the_oracles_of_each_question(ceiling):
    names = [f"q{n}" for n in range(40)]
    whole = EvaluationSet("x", dict.fromkeys(names, "?"), {}, {name: {"gold": 1} for name in names})
    # On the select half BM25 is right; on the report half each is right of every other question.
    report = [name for name in names if half(name) == "report"]
    lexical = {name for name in names if half(name) == "select"} | set(report[::2])
    right, wrong = ("gold", "no"), ("no", "gold")
    own = ranking(*(wrong if name in lexical else right for name in names))
    words = ranking(*(right if name in lexical else wrong for name in names))
    chosen, oracle = ceiling.fusion(own, words, whole).items()
    assert float(chosen[0].rpartition(" ")[2]) > 0.5
    assert set(chosen[1]) == set(report) == set(oracle[1])
    assert [chosen[1][name] < 1 for name in report] == [name not in lexical for name in report]
    assert set(oracle[1].values()) == {1.0}


def test_what_a_reader_said_is_counted_and_held_to_the_kinds(ceiling, tmp_path):
    path = tmp_path / "legal.tsv"
    assert ceiling.judged(path, ["a", "b"]) == {"not read": 2}
    path.write_text("a\tmodel\nb\tambiguous\nz\tmodel\n", "utf-8")
    found = ceiling.judged(path, ["a", "b", "c"])
    assert found == {"model": 1, "ambiguous": 1, "not read": 1}
    path.write_text("a\tmodell\n", "utf-8")
    with pytest.raises(SystemExit, match="modell"):
        ceiling.judged(path, ["a"])


def test_a_domain_is_measured_and_its_failures_are_laid_out(
    ceiling, tiny_model, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(ceiling, "build_starter", partial(shutil.copytree, tiny_model))
    texts = {f"d{n}": f"第{n}条规定押金退还" for n in range(60)}
    queries = {f"q{n}": f"押金第{n}条" for n in range(60)}
    whole = EvaluationSet("legal", queries, texts, {f"q{n}": {f"d{n}": 1} for n in range(60)})
    write_set(tmp_path / "data/legal", whole)
    report = {query: 1.0 for query in queries if half(query) == "report"}
    asked = []

    def run(name, words, folder, questions):
        asked.extend(words)
        return {"data": {"pairs": 20}, "questions": report}

    monkeypatch.setattr(ceiling, "run", run)
    argv = ["ceiling.py", "legal", f"--data={tmp_path / 'data'}"]
    monkeypatch.setattr(ceiling.sys, "argv", argv)
    assert ceiling.main() == 0
    kept = json.loads((tmp_path / "results/legal.json").read_text("utf-8"))
    names = [row["system"] for row in kept["systems"]]
    assert names[:2] == ["the model", "BM25"]
    assert names[-1] == "trained on 20 pairs of the select half"
    values = {row["system"]: row["ndcg@10"] for row in kept["systems"]}
    assert values["with BM25, oracle"] >= max(values["the model"], values["BM25"])
    assert kept["queries"] == len(report) and values[names[-1]] == 1
    missed = kept["without an answer in the first ten"]
    assert 0 < missed and kept["read"] == {"not read": min(50, missed)}
    text = (tmp_path / "work/legal-failures.md").read_text("utf-8")
    assert text.count("## q") == min(50, missed) and text.count("- found: ") == 3 * min(50, missed)
    folders = {word.split("=")[0]: word.split("=")[1] for word in asked}
    taught = (tmp_path / "work/legal/train.jsonl").read_text("utf-8")
    assert folders["domain.train"] == str(tmp_path / "work/legal/train.jsonl")
    assert not any(f'"{queries[query]}"' in taught for query in report)
