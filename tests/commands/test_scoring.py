import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sklearn.metrics import average_precision_score, ndcg_score

from finetune.commands import scoring
from finetune.errors import UserError
from finetune.records import Score, read_dicts, write_jsonl
from finetune.sets import half

ROW = {"artifact", "set", "metric", "value", "n", "ci_low", "ci_high", "delta", "p_value",
       "delta_low", "delta_high", "p_holm"}  # fmt: skip


@pytest.fixture(scope="module")
def beir(tiny_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scored") / "domain"
    return tiny_runs.learnable_domain(folder, tiny_model) / "dev"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """Pairs with 0/1 labels: the alike ones share characters."""
    folder = tmp_path_factory.mktemp("pairs") / "lcqmc"
    folder.mkdir()
    texts = ["房东不退押金", "老板不发工资", "网店商品质量", "离婚财产赔偿", "医院医生学校"]
    write_jsonl(folder / "test.jsonl", [
        {"sentence1": texts[i % 5] + "吗", "sentence2": texts[(i + shift) % 5], "label": label}
        for i in range(30) for shift, label in ((0, 1), (0, 1), (1, 0), (2, 0))
    ])  # fmt: skip
    return folder


def by_metric(scores: list[Score], artifact: str) -> dict[str, Score]:
    return {row.metric: row for row in scores if row.artifact == artifact}


def test_a_model_folder_on_a_retrieval_set(tiny_model, beir):
    rows = by_metric(scoring.evaluate(tiny_model, [beir], "all", None), "base")
    assert set(rows) == {"ndcg@10", "mrr@10", "recall@100"}
    # Once more with sentence-transformers and scikit-learn.
    model = SentenceTransformer(str(tiny_model), device="cpu")
    queries, corpus = (list(read_dicts(beir / f"{n}.jsonl")) for n in ("queries", "corpus"))
    asked, told = (
        model.encode([row["text"] for row in texts], prompt_name=prompt, normalize_embeddings=True)
        for texts, prompt in ((queries, "query"), (corpus, "passage"))
    )
    cosines = asked @ told.T
    truth = np.array([
        [q["id"].split("-")[1] == d["id"][1:].split("-")[0] for d in corpus] for q in queries
    ])  # fmt: skip
    assert truth.sum() == 64 * 4
    assert rows["ndcg@10"].value == pytest.approx(ndcg_score(truth, cosines, k=10), abs=1e-4)
    assert rows["recall@100"].value == 1.0  # 64 passages
    for row in rows.values():
        assert (row.set, row.n, row.delta, row.p_value) == ("dev", 64, None, None)
        assert row.ci_low <= row.value <= row.ci_high


def test_a_bundle_is_scored_in_every_precision(tiny_bundle, tiny_model, beir):
    rows = scoring.evaluate(tiny_bundle, [beir], "all", None)
    assert {row.artifact for row in rows} == {"onnx-fp32", "onnx-int8-dynamic"}
    torch_rows = by_metric(scoring.evaluate(tiny_model, [beir], "all", None), "base")
    for metric, row in by_metric(rows, "onnx-fp32").items():
        assert row.value == pytest.approx(torch_rows[metric].value, abs=1e-6)
    (only,) = {r.artifact for r in scoring.evaluate(tiny_bundle, [beir], "all", "int8-dynamic")}
    assert only == "onnx-int8-dynamic"


def test_the_halves_make_the_whole(tiny_bundle, beir):
    rows = {
        split: by_metric(scoring.evaluate(tiny_bundle, [beir], split, "fp32"), "onnx-fp32")
        for split in ("all", "select", "report")
    }
    for metric in ("ndcg@10", "mrr@10"):
        whole, *parts = (rows[split][metric] for split in ("all", "select", "report"))
        assert whole.n == sum(part.n for part in parts) == 64
        assert whole.value == pytest.approx(sum(part.value * part.n for part in parts) / 64)
    expected = sum(half(row["id"]) == "report" for row in read_dicts(beir / "queries.jsonl"))
    assert rows["report"]["ndcg@10"].n == expected


def test_labelled_pairs_give_spearman_and_average_precision(tiny_model, tiny_bundle, pairs):
    rows = by_metric(scoring.evaluate(tiny_model, [pairs], "all", None), "base")
    model = SentenceTransformer(str(tiny_model), device="cpu")
    content = list(read_dicts(pairs / "test.jsonl"))
    sides = [
        model.encode([row[side] for row in content], prompt_name="query", normalize_embeddings=True)
        for side in ("sentence1", "sentence2")
    ]
    cosines = (sides[0] * sides[1]).sum(1).round(5)
    labels = [row["label"] for row in content]
    assert rows["spearman"].value == pytest.approx(spearmanr(cosines, labels)[0], abs=2e-3)
    assert rows["ap"].value == pytest.approx(average_precision_score(labels, cosines), abs=2e-3)
    assert {(row.set, row.n) for row in rows.values()} == {("lcqmc", 120)}
    assert all(row.ci_low <= row.value <= row.ci_high for row in rows.values())
    assert rows["spearman"].ci_low < rows["spearman"].ci_high


def test_pairs_of_one_file_are_halved_and_splits_are_not(tiny_bundle, pairs, tmp_path):
    def counts(folder):
        return [scoring.evaluate(tiny_bundle, [folder], split, "fp32")[0].n
                for split in ("all", "select", "report")]  # fmt: skip

    ids = [f"lcqmc-{line}" for line in range(1, 121)]
    select = sum(half(key) == "select" for key in ids)
    assert counts(pairs) == [120, select, 120 - select] and 40 < select < 80
    both = tmp_path / "both"
    shutil.copytree(pairs, both)
    lines = (both / "test.jsonl").read_text("utf-8").splitlines(keepends=True)
    (both / "dev.jsonl").write_text("".join(lines[:50]), "utf-8")
    assert counts(both) == [120, 50, 120]


def test_graded_pairs_give_spearman_alone(tiny_bundle, tmp_path):
    folder = tmp_path / "stsb"
    folder.mkdir()
    write_jsonl(folder / "test.jsonl", [
        {"sentence1": "房东押金", "sentence2": "房东押金"[:n] + "老板工资"[n:], "score": n}
        for n in range(5)
    ])  # fmt: skip
    (row,) = scoring.evaluate(tiny_bundle, [folder], "all", "fp32")
    assert (row.metric, row.set, row.n) == ("spearman", "stsb", 5) and row.value > 0.8


def test_several_folders_at_once(tiny_bundle, beir, pairs):
    rows = scoring.evaluate(tiny_bundle, [beir, pairs], "all", "fp32")
    assert [(row.set, row.metric) for row in rows if row.set == "lcqmc"] == [
        ("lcqmc", "spearman"), ("lcqmc", "ap"), ("lcqmc", "f1")
    ]  # fmt: skip
    assert len(rows) == 6


@pytest.fixture(scope="module")
def reranking(tmp_path_factory) -> Path:
    """Queries with three candidates each, of which one shares the query's characters."""
    folder = tmp_path_factory.mktemp("rerank") / "cmedqa"
    folder.mkdir()
    texts = ["房东不退押金", "老板不发工资", "网店商品质量", "离婚财产赔偿", "医院医生学校"]
    write_jsonl(folder / "reranking.jsonl", [
        {"id": f"{'ab'[i % 2]}-{i}", "query": texts[i % 5] + "吗", "positive": [texts[i % 5]],
         "negative": [texts[(i + 1) % 5], texts[(i + 2) % 5]]} for i in range(50)
    ])  # fmt: skip
    return folder


def test_a_reranking_folder_and_its_slices(tiny_bundle, reranking):
    rows = scoring.evaluate(tiny_bundle, [reranking], "all", "fp32")
    known = {(row.set, row.metric): row for row in rows}
    assert known.keys() == {("cmedqa", "map"), ("cmedqa", "mrr@10"),
                            ("cmedqa/a", "map"), ("cmedqa/b", "map")}  # fmt: skip
    # One answer each: AP is its reciprocal rank.
    assert known["cmedqa", "map"].value == known["cmedqa", "mrr@10"].value > 0.8
    halves = [scoring.evaluate(tiny_bundle, [reranking], part, "fp32")[0].n
              for part in ("select", "report")]  # fmt: skip
    assert sum(halves) == 50 and min(halves) > 0


def test_long_documents_in_pieces_beside_whole_ones(tiny_bundle, tmp_path):
    folder = tmp_path / "long"
    folder.mkdir()
    texts = ["房东不退押金", "老板不发工资", "网店商品质量", "离婚财产赔偿", "医院医生学校"]
    # What answers stands where the model (64 tokens) does not read, and where a piece begins.
    filler = "的一是了我" * 70
    rows = [{"id": f"d{n}", "text": filler + text + filler if n < 2 else text}
            for n, text in enumerate(texts)]  # fmt: skip
    write_jsonl(folder / "corpus.jsonl", rows)
    write_jsonl(folder / "queries.jsonl", [
        {"id": f"q{n}", "text": text + "吗" * (n // 5)} for n, text in enumerate(texts * 10)
    ])  # fmt: skip
    lines = [f"q{n}\td{n % 5}\t1" for n in range(50)]
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n")
    rows = scoring.evaluate(tiny_bundle, [folder], "all", "fp32", chunked=True)
    known = {(row.artifact, row.set, row.metric): row for row in rows}
    whole = known["onnx-fp32", "long", "ndcg@10"]
    cut = known["onnx-fp32+chunks", "long", "ndcg@10"]
    assert whole.delta is None and cut.delta == pytest.approx(cut.value - whole.value)
    assert cut.n == 50 and cut.p_value is not None
    # Of the questions whose answer is longer than 512 tokens, apart: whole, and in pieces.
    apart = "long/beyond-window"
    whole, cut = (known[name, apart, "ndcg@10"] for name in ("onnx-fp32", "onnx-fp32+chunks"))
    assert whole.n == cut.n == 20 and cut.delta == pytest.approx(cut.value - whole.value)
    assert cut.delta > 0, "what the window does not hold is found in its piece"


def test_saved_scores_are_those_of_the_report(tiny_bundle, beir, tmp_path):
    rows = scoring.evaluate(tiny_bundle, [beir], "all", "fp32")
    scoring.save(rows, tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert set(content) == {"scores"} and all(set(row) == ROW for row in content["scores"])
    assert [row["value"] for row in content["scores"]] == [row.value for row in rows]


def test_the_table_names_artifact_set_metric_and_interval(capsys):
    scoring.show([Score("tuned", "法律", "ndcg@10", 0.51234, 300, 0.48, 0.54)])
    shown = capsys.readouterr().out
    for part in ("tuned", "法律", "ndcg@10", "0.5123", "0.4800 – 0.5400", "300"):
        assert part in shown


@pytest.mark.parametrize("columns", [20, 72, 80, 200])
def test_the_table_cuts_nothing_off(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    names = ["onnx-int8-dynamic@256", "an-evaluation-folder-with-a-long-name [red]", "recall@100"]
    scoring.show([Score(*names, 0.51234, 100_000, 0.48, 0.54)])
    shown = capsys.readouterr().out
    assert "…" not in shown
    lines = shown.splitlines()
    header = next(line for line in lines if "artifact" in line)
    places = [header.index(name) for name in ("artifact", "set", "metric")]
    body = lines[lines.index(header) + 2 :]
    for name, start, end in zip(names, places, [*places[1:], places[2] + 10], strict=True):
        folded = "".join(line[start:end] for line in body)
        assert folded.replace(" ", "") == name.replace(" ", "")
    assert all(part in shown for part in ("0.5123", "0.4800 – 0.5400", "100000"))


@pytest.mark.parametrize(
    ("split", "precision", "phrase"),
    [("all", "fp16", "fp16"), ("nobody", None, "falls into the nobody half")],
)
def test_what_a_bundle_or_a_set_does_not_have(tiny_bundle, beir, split, precision, phrase):
    with pytest.raises(UserError, match=phrase):
        scoring.evaluate(tiny_bundle, [beir], split, precision)


def test_what_is_neither_model_nor_bundle(tmp_path, tiny_model, beir):
    with pytest.raises(UserError, match="neither a bundle"):
        scoring.evaluate(tmp_path, [beir], "all", None)
    with pytest.raises(UserError, match="neither a bundle"):
        scoring.evaluate(tmp_path / "gone", [beir], "all", None)
    with pytest.raises(UserError, match="bundles have them"):
        scoring.evaluate(tiny_model, [beir], "all", "fp32")


def test_a_bad_folder_is_told_before_anything_is_encoded(tiny_bundle, beir, tmp_path, monkeypatch):
    from finetune.inference import OnnxEncoder

    def encode(*args, **kwargs):
        raise AssertionError("encoded")

    monkeypatch.setattr(OnnxEncoder, "encode", encode)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="expected a retrieval set"):
        scoring.evaluate(tiny_bundle, [beir, tmp_path], "all", None)
