import json
import re

import numpy as np
from benchmarking import benchmark


def test_the_plan_of_the_domains_benchmark_begins_with_what_matters_and_fits_half_a_day(
    monkeypatch,
):
    plan = benchmark("systems", monkeypatch)
    best = [f"best_{domain}" for domain in plan.DOMAINS]
    planned = list(plan.systems(3, [*best, *plan.METHODS]))
    assert len({each.label for each in planned}) == len(planned)
    names = list(dict.fromkeys((each.name, each.seed) for each in planned))
    assert names[:5] == [("bm25", 1), ("starter", 1), ("plain", 1), ("best", 1), ("plain", 2)]
    assert plan.hours(planned) < 12
    elsewhere = [each.label for each in planned if each.elsewhere]
    assert [label for label in elsewhere if "starter" in label] == ["legal-starter-1"]
    assert len(elsewhere) == 1 + 2 * len(plan.DOMAINS)
    converted = [each.label for each in planned if each.converted]
    assert converted == ["legal-starter-1", "legal-plain-1", "legal-best-1"]
    without = [each for each in plan.systems(3, plan.METHODS) if each.name in ("best", "strict")]
    assert without == []


def test_the_tables_of_the_domains_benchmark(tmp_path, monkeypatch):
    comparison = benchmark("comparison", monkeypatch)
    rng = np.random.default_rng(0)

    def scores(mean):
        return {metric: {f"q-{n}": mean + rng.uniform(-0.1, 0.1) for n in range(40)}
                for metric in comparison.METRICS}  # fmt: skip

    def keep(name, mean, seed=1, **more):
        run = {"domain": "legal", "name": name, "seed": seed, "fold": None, "values": scores(mean)}
        path = tmp_path / f"legal-{name}-{seed}.json"
        path.write_text(json.dumps({**run, **more}), "utf-8")

    other = {"set": "afqmc", "metric": "spearman", "low": 0.2, "high": 0.3, "n": 60}
    keep("starter", 0.4, traditional=scores(0.35), others=[{**other, "value": 0.25}])
    keep("plain", 0.42, minutes=6)
    for seed in (1, 2):
        exact, rounded = scores(0.6), scores(0.6)
        rounded["ndcg@10"] = {key: 0.99 * each for key, each in exact["ndcg@10"].items()}
        keep("best", 0.6, seed, minutes=20 + seed, traditional=scores(0.55),
             artifacts={"onnx-fp32": exact, "onnx-int8-dynamic": rounded},
             others=[{**other, "value": 0.3}])  # fmt: skip
    domains, scripts, others = comparison.table(tmp_path).strip().split("\n\n")
    rows = {line.split(" | ")[1]: line.split(" | ") for line in domains.splitlines()[2:]}
    assert list(rows) == ["starter", "plain", "best", "best, ONNX fp32", "best, ONNX INT8"]
    assert rows["best"][2:4] == ["2", "40"] and rows["best"][-1] == "22 |"
    for column in (4, 7, 8):  # NDCG@10, MRR@10, Recall@100
        value, low, high = map(float, re.findall(r"[\d.]+", rows["best, ONNX INT8"][column]))
        assert low <= value <= high
    assert rows["best, ONNX INT8"][9] == "-1.00 % [-1.02, -0.98]"
    assert rows["best, ONNX fp32"][9] == "" and "p = 0.0" in rows["best, ONNX fp32"][6]
    assert [line.split(" | ")[1] for line in scripts.splitlines()[2:]] == [
        "starter",
        "best",
        "best",
    ]
    assert others.splitlines()[2] == "| afqmc, spearman | 60 | 25.0 ± 5.0 |  | +5.0 |"


def fold(folder, comparison, number, seed=1):
    """The kept JSON of one fold of e-commerce: a question of each sub-set."""
    queries = [f"cpr-{number}", f"same-{number}"]
    scores = {metric: dict.fromkeys(queries, 0.5) for metric in comparison.METRICS}
    run = {"domain": "ecommerce", "name": "best", "seed": seed, "fold": number,
           "minutes": 2 + number, "values": scores, "artifacts": {"onnx-fp32": scores}}  # fmt: skip
    path = folder / f"ecommerce-best-{seed}-fold{number}.json"
    path.write_text(json.dumps(run), "utf-8")
    return queries


def test_folds_are_one_run_of_each_system(tmp_path, monkeypatch):
    comparison = benchmark("comparison", monkeypatch)
    queries = {query for number in (0, 1) for query in fold(tmp_path, comparison, number)}
    runs = comparison.read(tmp_path)["ecommerce"]
    assert {name: len(same) for name, same in runs.items()} == {"best": 1, "best, ONNX fp32": 1}
    for (same,) in runs.values():
        known = {metric: set(each) for metric, each in same["values"].items()}
        assert known == dict.fromkeys(comparison.METRICS, queries)
    assert runs["best"][0]["minutes"] == 3


def test_seeds_of_which_one_has_fewer_folds_are_compared_on_what_all_have(tmp_path, monkeypatch):
    comparison = benchmark("comparison", monkeypatch)
    queries = [*fold(tmp_path, comparison, 0), *fold(tmp_path, comparison, 1)]
    fold(tmp_path, comparison, 0, seed=2)
    for name in ("starter", "plain"):
        scores = {metric: dict.fromkeys(queries, 0.4) for metric in comparison.METRICS}
        run = {"domain": "ecommerce", "name": name, "seed": 1, "fold": None, "values": scores}
        (tmp_path / f"ecommerce-{name}-1.json").write_text(json.dumps(run), "utf-8")
    domains, subsets, *_ = comparison.table(tmp_path).strip().split("\n\n")
    rows = {line.split(" | ")[1]: line.split(" | ") for line in domains.splitlines()[2:]}
    assert rows["best"][2:4] == ["2", "2"] and rows["best"][5].startswith("+10.0 [")
    assert [line.split(" | ")[:2] for line in subsets.splitlines()[2:]] == [
        ["| cpr", "1"], ["| same", "1"],
    ]  # fmt: skip


def test_sets_of_a_bases_training_are_marked(monkeypatch):
    seen = benchmark("comparison", monkeypatch).seen
    assert seen("afqmc", "m3e-base") and seen("general", "m3e-base") and seen("bq", "m3e-base")
    assert not seen("traditional", "m3e-base") and not seen("afqmc", "starter")
