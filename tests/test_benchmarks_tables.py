import json
import re

import numpy as np
import pytest
from benchmarking import benchmark

from finetune.config.compose import ROOT


@pytest.fixture
def comparison(monkeypatch):
    return benchmark("comparison", monkeypatch)


METRICS = ("ndcg@10", "mrr@10", "recall@100")


def scores(mean, rng=None, queries=40):
    """What each query got; with the same chance twice, the same but for the mean."""
    rng = rng or np.random.default_rng(0)
    return {metric: {f"q-{n}": mean + rng.uniform(-0.1, 0.1) for n in range(queries)}
            for metric in METRICS}  # fmt: skip


def keep(folder, name, values, domain="legal", seed=1, **more):
    run = {"domain": domain, "name": name, "seed": seed, "fold": None, "values": values}
    text = json.dumps({**run, **more})
    (folder / f"{domain}-{name}-{seed}.json").write_text(text, "utf-8")


def pairs(mean, metric="spearman"):
    own = np.random.default_rng(1).uniform(-0.1, 0.1, 60) + mean
    values = [*own] if metric == "spearman" else {f"t{n}": each for n, each in enumerate(own)}
    return {"metric": metric, "values": values}


def cells(text, column=1):
    return {line.split(" | ")[column]: line.split(" | ") for line in text.splitlines()[2:]}


def test_the_tables_of_the_domains_benchmark(tmp_path, comparison):
    rng = np.random.default_rng(0)
    keep(tmp_path, "bm25", scores(0.3, rng), others={"traditional": pairs(0.5, "ndcg@10")})
    keep(tmp_path, "starter", scores(0.4, rng), traditional=scores(0.35, rng),
         others={"afqmc": pairs(0.25), "traditional": pairs(0.4, "ndcg@10")})  # fmt: skip
    keep(tmp_path, "plain", scores(0.42, rng), minutes=6)
    for seed in (1, 2):
        exact, rounded = scores(0.6, rng), scores(0.6, rng)
        rounded["ndcg@10"] = {key: 0.99 * each for key, each in exact["ndcg@10"].items()}
        artifacts = {"onnx-fp32": exact} | ({"onnx-int8-dynamic": rounded} if seed == 1 else {})
        keep(tmp_path, "best", scores(0.6, rng), seed=seed, traditional=scores(0.55, rng),
             others={"afqmc": pairs(0.3)}, sources=["stard"], artifacts=artifacts,
             **{"minutes": 20 + seed, "whole minutes": 28 + seed})  # fmt: skip
    tables = comparison.table(comparison.read(tmp_path)).strip().split("\n\n")
    domains, scripts, others, note = tables
    rows = cells(domains)
    assert list(rows) == ["bm25", "starter", "plain", "best", "best, ONNX fp32", "best, ONNX INT8"]
    assert rows["best"][2:4] == ["2", "40"] and rows["best"][-2:] == ["22", "30 |"]
    for column in (4, 7, 8):  # NDCG@10, MRR@10, Recall@100
        value, low, high = map(float, re.findall(r"[\d.]+", rows["best, ONNX INT8"][column]))
        assert low <= value <= high
    assert rows["best, ONNX INT8"][2] == "1"
    assert rows["best, ONNX INT8"][9] == "-1.00 % [-1.03, -0.97]"
    assert rows["best, ONNX fp32"][9] == "" and "p = 0.0" in rows["best, ONNX fp32"][6]
    assert [line.split(" | ")[1] for line in scripts.splitlines()[2:]] == ["starter", "best",
                                                                           "best"]  # fmt: skip
    afqmc, traditional = others.splitlines()[2:]
    assert afqmc.startswith("| afqmc, spearman | 60 |  | 25.")
    assert afqmc.endswith(" |  | +5.0 [+5.0, +5.0] |")  # the same pairs, and paired
    assert traditional.split(" | ")[2][:2] in ("49", "50", "51")
    assert "other folds report" in note


def fold(folder, number, seed=1):
    """The kept JSON of one fold of e-commerce: a question of each sub-set."""
    queries = [f"cpr-{number}", f"same-{number}"]
    values = {metric: dict.fromkeys(queries, 0.5) for metric in METRICS}
    run = {"domain": "ecommerce", "name": "best", "seed": seed, "fold": number,
           "minutes": 2 + number, "whole minutes": 4 + number, "values": values,
           "artifacts": {"onnx-fp32": values}}  # fmt: skip
    path = folder / f"ecommerce-best-{seed}-fold{number}.json"
    path.write_text(json.dumps(run), "utf-8")
    return queries


def test_folds_are_one_run_of_each_system(tmp_path, comparison):
    queries = {query for number in (0, 1) for query in fold(tmp_path, number)}
    runs = comparison.read(tmp_path)["ecommerce"]
    assert {name: len(same) for name, same in runs.items()} == {"best": 1, "best, ONNX fp32": 1}
    for (same,) in runs.values():
        known = {metric: set(each) for metric, each in same["values"].items()}
        assert known == dict.fromkeys(comparison.METRICS, queries)
    assert runs["best"][0]["minutes"] == 3 and runs["best"][0]["whole minutes"] == 5


def test_seeds_of_which_one_has_fewer_folds_are_compared_on_what_all_have(tmp_path, comparison):
    queries = [*fold(tmp_path, 0), *fold(tmp_path, 1)]
    fold(tmp_path, 0, seed=2)
    for name in ("starter", "plain"):
        values = {metric: dict.fromkeys(queries, 0.4) for metric in METRICS}
        keep(tmp_path, name, values, "ecommerce")
    domains, subsets, *_ = comparison.table(comparison.read(tmp_path)).split("\n\n")
    rows = cells(domains)
    assert rows["best"][2:4] == ["2", "2"] and rows["best"][5].startswith("+10.0 [")
    assert [line.split(" | ")[1:3] for line in subsets.splitlines()[2:]] == [
        ["cpr", "1"], ["same", "1"],
    ]  # fmt: skip
    assert all("| +10.0 [+10.0, +10.0], p = " in line for line in subsets.splitlines()[2:])


def test_sub_sets_do_not_wait_for_the_script(tmp_path, comparison):
    values = {metric: dict.fromkeys(fold(tmp_path, 0), 0.4) for metric in METRICS}
    keep(tmp_path, "starter", values, "ecommerce")
    _, subsets, *_ = comparison.table(comparison.read(tmp_path)).split("\n\n")
    assert [line.split(" | ")[1:6] for line in subsets.splitlines()[2:]] == [
        [name, "1", "40.0", "", "50.0"] for name in ("cpr", "same")
    ]


def test_sets_of_a_bases_training_are_marked(comparison):
    seen = comparison.seen
    assert seen("afqmc", "m3e-base") and seen("general", "m3e-base") and seen("bq", "m3e-base")
    assert not seen("traditional", "m3e-base") and not seen("afqmc", "starter")


@pytest.mark.parametrize(
    ("sources", "marked"),
    [
        (["afqmc", "atec", "fincuge-finna"], {"afqmc", "atec"}),
        (["toyhom-title", "kuake-qqr"], {"medical_qqr"}),
        (["qbqtc-shopping"], {"general"}),
        (["stard", "qbqtc", "simclue", "cnsd-snli"], {"general", "afqmc", "atec", "lcqmc"}),
        (["stard"], set()),
    ],
)
def test_a_system_is_marked_on_what_its_own_pairs_hold(comparison, sources, marked):
    names = ("afqmc", "atec", "lcqmc", "medical_qqr", "general", "traditional")
    assert {name for name in names if comparison.trained_on(name, {"sources": sources})} == marked


def found(tmp_path, comparison, best=0.6, others=None, seeds=(1,), **more):
    base = {"afqmc": pairs(0.25), "bq": pairs(0.25), "traditional": pairs(0.4, "ndcg@10")}
    keep(tmp_path, "starter", scores(0.5), "finance", others=base)
    keep(tmp_path, "plain", scores(0.55), "finance")
    for seed in seeds:
        keep(tmp_path, "best", scores(best), "finance", seed, sources=["afqmc"],
             others=base | (others or {}), **{"whole minutes": 31, **more})  # fmt: skip
    return comparison.read(tmp_path)


def test_the_bars_of_the_domains_benchmark(tmp_path, comparison, monkeypatch):
    bars = benchmark("verdicts", monkeypatch).bars

    def told(**more):
        return {what: verdict
                for what, _, _, verdict in bars(found(tmp_path, comparison, **more))}  # fmt: skip

    assert told() == {
        "finance, gain over the starter, 1 seed": "met",
        "finance, gain over the script, 1 seed": "met",
        "finance, mean of 2 other sets": "met",
        "finance, worst other set or sub-set: bq": "met",
        "finance, natively Traditional, over the starter": "met",
        "finance, whole run, minutes": "not met",
    }
    low = told(best=0.53)
    assert low["finance, gain over the starter, 1 seed"] == "not met"  # 3 points of 4
    assert low["finance, gain over the script, 1 seed"] == "not met"
    one = scores(0.5)
    one["ndcg@10"]["q-0"] += 4  # the whole gain is of one question
    keep(tmp_path, "best", one, "finance")
    verdicts = {what: verdict for what, _, _, verdict in bars(comparison.read(tmp_path))}
    assert verdicts["finance, gain over the starter, 1 seed"] == "inconclusive"
    # What its own pairs hold is neither a gain nor a loss elsewhere.
    assert told(others={"afqmc": pairs(0.0)})["finance, mean of 2 other sets"] == "met"
    worse = told(others={"bq": pairs(0.23)})
    assert worse["finance, worst other set or sub-set: bq"] == "not met"
    assert worse["finance, mean of 2 other sets"] == "not met"
    wide = pairs(0.25)
    wide["values"] = [each + (3 if n == 0 else -3 if n == 1 else 0)
                      for n, each in enumerate(wide["values"])]  # fmt: skip
    assert told(others={"bq": wide})["finance, mean of 2 other sets"] == "inconclusive"
    behind = told(others={"traditional": pairs(0.39, "ndcg@10")})
    assert behind["finance, natively Traditional, over the starter"] == "not met"


def test_the_bars_of_scripts_and_of_int8(tmp_path, comparison, monkeypatch):
    bars = benchmark("verdicts", monkeypatch).bars
    exact = scores(0.6)

    def told(share, behind, status=None):
        rounded = {**exact, "ndcg@10": {key: share * each
                                        for key, each in exact["ndcg@10"].items()}}  # fmt: skip
        gates = [{"name": "int8", "status": status}] if status else []
        keep(tmp_path, "best", exact, gates=gates, traditional=scores(0.6 - behind),
             artifacts={"onnx-fp32": exact, "onnx-int8-dynamic": rounded})  # fmt: skip
        return [verdict for _, _, _, verdict in bars(comparison.read(tmp_path))]

    assert told(0.999, 0.005) == ["met", "met"]
    assert told(0.99, 0.015) == ["not met", "not met"]
    assert told(0.999, 0.005, "inconclusive") == ["met", "inconclusive"]


def test_a_best_recipe_says_among_how_many_settings_it_was_chosen(monkeypatch):
    tried = benchmark("verdicts", monkeypatch).tried
    best = [path.stem.removeprefix("best_") for path in (ROOT / "recipes").glob("best_*.yaml")]
    assert len(best) >= 3 and all(int(tried(domain)) > 1 for domain in best)
    assert tried("nothing") == "unknown"


def test_the_documentations_page_is_made_of_the_results(tmp_path, comparison, monkeypatch):
    verdicts = benchmark("verdicts", monkeypatch)
    text = verdicts.page(
        found(tmp_path, comparison, seeds=(1, 2), versions={"machine": "two cores"})
    )
    assert "Machine: two cores." in text and text.startswith("# ")
    (row,) = [line for line in text.splitlines() if line.startswith("| finance | ")]
    _, bm25, starter, script, best, gain, over, seeds, tried, minutes = row.strip("| ").split(" | ")
    assert bm25 == "" and float(best) - float(starter) == pytest.approx(10)
    assert gain.startswith("+10.0 [") and over.startswith("+5.0 [") and float(script) > 50
    assert (seeds, tried, minutes) == ("2", verdicts.tried("finance"), "31")
    assert "| finance, whole run, minutes | <= 30 | 31 | not met |" in text
